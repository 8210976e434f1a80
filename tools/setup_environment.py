#!/usr/bin/env python3
"""Prepare a virtual environment in which everything here runs; `make` calls this program.

    python3 tools/setup_environment.py              # fills .venv next to setup.py
    python3 tools/setup_environment.py --system-site-packages
                                                    # .venv sees your own torch and Detectron2
    python3 tools/setup_environment.py --torch cpu  # torch without CUDA's libraries

It needs Python's standard library only, says what it does, and can be repeated: nothing happens if
all is done. An environment whose making was interrupted is made anew, as pip takes half-written
packages for installed ones. What pip has downloaded lies in its cache by then.

An installed Detectron2, whatever its version, is used as it is. Otherwise its Python part is
unpacked from upstream's archive of one commit. That is all this project needs: deformable
convolution, NMS and ROIAlign come from torchvision. `borrowed_packages` says how it is checked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from borrowed_packages import (
    ARCHIVE,
    DETECTRON2,
    PANOPTICAPI,
    Package,
    SetupError,
    collect_detectron2,
    files_of_wheel,
    read_hash_list,
)
from borrowed_records import is_outdated, unpack
from setup_commands import ROOT, ask, importable, only_one, pip, python_of, run, say
from setup_torch import CPU_INDEX, install_torch, refuse_cuda_build

# In the environment: what it was made from, or {} while it is being written.
STAMP = "panoptic-setup.json"
MINIMUM_PYTHON = (3, 10)
VERSION = "{}.{}".format(*sys.version_info[:2])

# --no-deps: it asks for the backport `typing`, which would hide Python's own module.
CITYSCAPES = ("cityscapesscripts>=2.2", "pyquaternion")
SOURCES = (
    "setup.py",
    "pyproject.toml",
    "tools/setup_environment.py",
    "tools/borrowed_packages.py",
    "tools/borrowed_records.py",
    "tools/detectron2_files.sha256",
    "tools/panoptic_detectron2.pth",
)


def fingerprint() -> dict[str, str]:
    """Return what a finished environment depends on; another value means: install again.

    The folder counts because pip's editable installation points to it.
    """
    sources = b"".join((ROOT / name).read_bytes() for name in SOURCES)
    digest = hashlib.sha256(sources).hexdigest()
    return {"setup": digest, "python": VERSION, "folder": str(ROOT)}


def read_stamp(environment: Path) -> dict[str, str] | None:
    """Return the stamp of an environment: None without one, {} if it was being written."""
    try:
        return dict(json.loads((environment / STAMP).read_text()))
    except OSError:
        return None
    except ValueError:
        return {}


def write_stamp(environment: Path, content: dict[str, str]) -> None:
    """Replace the stamp in one step."""
    part = environment / f"{STAMP}.part"
    part.write_text(json.dumps(content, indent=2))
    os.replace(part, environment / STAMP)


def is_done(environment: Path) -> bool:
    """Tell whether a former run finished with what is asked for now."""
    done = read_stamp(environment) == fingerprint()
    return done and importable(python_of(environment), "detectron2")


def set_up(
    environment: Path, system_site_packages: bool, archive_url: str, torch_index: str | None
) -> None:
    """Make the environment, or bring a finished one up to date."""
    before = read_stamp(environment)
    if before is None and environment.exists() and any(environment.iterdir()):
        raise SetupError(
            f"{environment} was not made by this program and is left alone; move it away, or "
            "name another folder with --venv"
        )
    if before is not None and not (before.get("python") == VERSION == version_of(environment)):
        reason = "is not for this Python" if before else "was not written to its end"
        say(f"{environment.name} {reason}: making it anew")
        shutil.rmtree(environment)
        before = None
    environment.mkdir(parents=True, exist_ok=True)
    write_stamp(environment, {})
    try:
        if before is None:
            make_environment(environment, system_site_packages)
        fill(python_of(environment), archive_url, torch_index)
    except SetupError:
        # pip fails before it replaces anything: without a network the old environment still works.
        write_stamp(environment, before or {})
        raise
    write_stamp(environment, fingerprint())
    files = (Path(at, name) for at, _, names in os.walk(environment) for name in names)
    size = sum(os.lstat(file).st_size for file in files)
    say(f"done: {environment.name} takes {size / 1e9:.1f} GB")
    say(f"to use it: . {os.path.relpath(environment)}/bin/activate")


def version_of(environment: Path) -> str | None:
    """Return the Python version of an environment in working order, such as "3.12"."""
    code = "import pip, sys; print('{}.{}'.format(*sys.version_info[:2]), sys.prefix)"
    version, _, prefix = (ask(python_of(environment), code) or "").partition(" ")
    return version if Path(prefix).resolve() == environment.resolve() else None


def make_environment(environment: Path, system_site_packages: bool) -> None:
    """Make the bare virtual environment."""
    say(f"making the virtual environment {environment.name} with Python {VERSION}")
    options = ["--system-site-packages"] if system_site_packages else []
    # Not sys.executable: that may be the Python of the environment that was just removed.
    base = getattr(sys, "_base_executable", None) or sys.executable
    try:
        run([base, "-m", "venv", *options, environment], "making it")
    except SetupError as error:
        raise SetupError(
            f"`{base} -m venv` failed (see above); on Debian and Ubuntu it needs the "
            f"package python{VERSION}-venv"
        ) from error


def fill(python: Path, archive_url: str, torch_index: str | None) -> None:
    """Install all packages; a step does nothing where its result is there."""
    install_torch(python, torch_index)
    say("installing the project and the tools of its tests")
    needs = DETECTRON2.requires
    if importable(python, "detectron2"):
        # A checkout on the path brings nothing along; without a limit pip replaces nothing.
        needs = tuple(re.split("[<>=]", need)[0] for need in needs)
    own = ("--editable", ".[dev,safetensors]")
    run(pip(python, "install", *own, *needs), "installing the project")
    with tempfile.TemporaryDirectory(prefix="panoptic-setup-") as folder:
        unpack_borrowed(python, archive_url, Path(folder))
    if not importable(python, "cityscapesscripts"):
        command = pip(python, "install", "--no-deps", *CITYSCAPES)
        run(command, "installing cityscapesscripts")
    say("looking whether all can be imported")
    modules = "torch, torchvision, cv2, numba, panoptic_common.compat, detectron2.modeling"
    run([str(python), "-c", f"import {modules}"], "importing the libraries")


def unpack_borrowed(python: Path, archive_url: str, folder: Path) -> None:
    """Unpack Detectron2 and panopticapi where they are missing; downloads go to a folder."""

    def download_wheel(package: Package) -> Path:
        target = str(folder / package.name)
        command = pip(python, "download", "--no-deps", "--dest", target, package.wheel)
        run(command, f"downloading {package.name}")
        wheels = list(Path(target).glob("*.whl"))
        if len(wheels) != 1:
            raise SetupError(f"`pip download {package.wheel}` brought no wheel; try again")
        return wheels[0]

    answer = ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    site_packages = Path(answer or "")
    # So that Detectron2 may be imported first; pip's editable installation leaves it out.
    shutil.copy(ROOT / "tools" / "panoptic_detectron2.pth", site_packages)
    if importable(python, "detectron2") and not is_outdated(DETECTRON2, site_packages):
        say("Detectron2 is there already and is used as it is")
    else:
        say("unpacking Detectron2")
        files = collect_detectron2(read_hash_list(), archive_url, download_wheel, say)
        unpack(files, DETECTRON2, site_packages)
    if not importable(python, "panopticapi"):
        wheel = download_wheel(PANOPTICAPI)
        unpack(files_of_wheel(wheel, PANOPTICAPI), PANOPTICAPI, site_packages)


def main() -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(description="Prepare the environment of this project.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="its folder")
    parser.add_argument(
        "--system-site-packages",
        action="store_true",
        help="let a new environment see your own torch and Detectron2",
    )
    parser.add_argument(
        "--detectron2-archive",
        default=ARCHIVE,
        metavar="URL",
        help="where upstream's archive lies, such as file:///... (default: %(default)s)",
    )
    parser.add_argument(
        "--torch",
        choices=("default", "cpu"),
        default="default",
        help="cpu: the build without CUDA, from --cpu-index",
    )
    parser.add_argument(
        "--cpu-index", default=CPU_INDEX, metavar="URL", help="default: %(default)s"
    )
    options = parser.parse_args()
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        print(f"Python {wanted} or newer is needed; try `make PYTHON=python{wanted}`.")
        return 1
    environment = options.venv.absolute()
    index = options.cpu_index if options.torch == "cpu" else None
    try:
        if index is not None:
            refuse_cuda_build(python_of(environment))
        if is_done(environment):
            return 0
        with only_one(environment.with_name(f"{environment.name}.lock")):
            if not is_done(environment):  # the one we waited for may have done it all
                archive = options.detectron2_archive
                set_up(environment, options.system_site_packages, archive, index)
    except (SetupError, OSError) as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; run it again to start anew", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
