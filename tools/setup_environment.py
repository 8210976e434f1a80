#!/usr/bin/env python3
"""Prepares a virtual environment in which everything here runs; `make` calls this program.

    python3 tools/setup_environment.py              # fills .venv next to setup.py
    python3 tools/setup_environment.py --system-site-packages
                                                    # .venv sees your own torch and Detectron2

It needs Python's standard library only, says what it does, can be repeated (nothing happens if all
is done) and resumes after an interruption. Packages that an interrupted pip left half-written are
found by their RECORD and installed again.

Where Detectron2 comes from: an installed one, whatever its version, is used as it is. Otherwise its
Python part, which is all that this project needs (deformable convolution, NMS and ROIAlign come
from torchvision), is taken from the package index. Detectron2 has had no release there since 2021;
the part lies inside the wheel of an unrelated project, roof-mask 0.5.4: byte for byte upstream's
commit 0ad20f1 ("0.6") but for one log call commented out and one file more. The wheel is compared
with the SHA-256 below *before* anything is unpacked, and never installed: only its ``detectron2/``
moves into the environment, with a dist-info of its own, so that `pip uninstall` removes it.

panopticapi, the tests' second opinion on panoptic quality, is unpacked in the same way: its only
form on the index demands numpy < 2, which it does not need.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

STAMP = "panoptic-setup.json"
MINIMUM_PYTHON = (3, 10)

PACKAGES = ("panoptic_common", "unified_panoptic", "cops")


@dataclass(frozen=True)
class Borrowed:
    """A package that is taken out of a wheel of the index.

    Attributes:
        name: top-level folder in the wheel, and the name under which pip lists it.
        version: version under which pip lists it.
        wheel: requirement that names the wheel.
        sha256: digest of the wheel that was examined.
        requires: what its modules import.
        summary: one line for `pip show`.
    """

    name: str
    version: str
    wheel: str
    sha256: str
    requires: tuple[str, ...]
    summary: str


DETECTRON2 = Borrowed(
    name="detectron2",
    version="0.6+0ad20f1",
    wheel="roof-mask==0.5.4",
    sha256="26391d9b578ad5530f3b99dace9e25cb74fc4ee389126a32c8dfdfc43c0343c7",
    # What that commit's own setup.py asks for; without black (formats dumped configs), future and
    # pydot (Caffe2 export), which nothing here reaches.
    requires=tuple(
        [
            "Pillow>=7.1",
            "matplotlib",
            "pycocotools>=2.0.2",
            "termcolor>=1.1",
            "yacs>=0.1.8",
            "tabulate",
            "cloudpickle",
            "tqdm>4.29.0",
            "tensorboard",
            "fvcore>=0.1.5,<0.1.6",
            "iopath>=0.1.7,<0.1.11",
            "omegaconf>=2.1,<2.4",
            "hydra-core>=1.1",
            "scipy>1.5.1",
        ]
    ),
    summary="Python part of Detectron2 at commit 0ad20f1, not compiled",
)
PANOPTICAPI = Borrowed(
    name="panopticapi",
    version="0.2.0",
    wheel="panopticapi-lite==0.2.0",
    sha256="58d3ffa842a72240162e7fa744c602a0a5320baabbdb3295d770374f4639b486",
    requires=("numpy", "Pillow"),
    summary="Official implementation of panoptic quality",
)


# --no-deps: it asks for the backport `typing`, which would hide Python's own module.
CITYSCAPES = ("cityscapesscripts>=2.2", "pyquaternion")


class SetupError(Exception):
    """A step failed; the message says which and what to do."""


class Progress:
    """Prints one line per step, with the time since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[set-up {time.monotonic() - self.start:4.0f} s] {text}", flush=True)


def run(command: Sequence[str | os.PathLike[str]], what: str, progress: Progress) -> None:
    """Runs a command to its end; a line every 20 seconds says that it still works.

    Raises:
        SetupError: the command failed; all that it wrote to its error output has been shown.
    """
    # A user's pip settings must not send the packages elsewhere than into the environment.
    environment = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    with tempfile.TemporaryFile() as errors:
        # close_fds=False hands the lock on, so that a pip which outlives a killed set-up keeps it.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=errors,
            close_fds=False,
        )
        try:
            while (status := wait(process, seconds=20)) is None:
                progress.say(f"... still {what}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if status != 0:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise SetupError(f"{what} failed (see above); finished steps are kept, so try again")


def wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Waits for a process; returns its exit status, or None if it still runs."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def pip(python: Path, *arguments: str) -> list[str]:
    """Returns a pip command line: no questions, no progress bars, errors only."""
    options = ("--disable-pip-version-check", "--no-input", "--quiet", "--quiet")
    return [str(python), "-m", "pip", *options, *arguments]


def ask(python: Path, code: str) -> str | None:
    """Returns what ``code`` prints in another interpreter, or None if it fails there."""
    try:
        answer = subprocess.run(
            [python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
    except OSError:  # a dangling link: the Python that made the environment is gone
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def python_of(environment: Path) -> Path:
    """Returns the interpreter of a virtual environment."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return environment / folder / name


def site_packages_of(python: Path) -> Path:
    """Returns the folder into which an interpreter's pip installs."""
    answer = ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    if not answer:
        raise SetupError(f"{python} does not run; delete its environment and try again")
    return Path(answer)


def make_environment(environment: Path, system_site_packages: bool, progress: Progress) -> Path:
    """Creates the virtual environment, or keeps it if it works; returns its interpreter."""
    python = python_of(environment)
    version = "{}.{}".format(*sys.version_info[:2])
    if environment.exists():
        found = ask(
            python, "import pip, sys; print('{}.{}'.format(*sys.version_info[:2]), sys.prefix)"
        )
        found_version, _, found_prefix = (found or "").partition(" ")
        if found_version == version and Path(found_prefix).resolve() == environment.resolve():
            return python
        if any(environment.iterdir()) and not (environment / "pyvenv.cfg").exists():
            raise SetupError(f"{environment} exists and is no virtual environment; move it away")
        state = f"has Python {found_version}" if found_version else "is incomplete"
        progress.say(f"{environment.name} {state}: making it anew")
        shutil.rmtree(environment)
    progress.say(f"making the virtual environment {environment.name} with Python {version}")
    options = ["--system-site-packages"] if system_site_packages else []
    # Not sys.executable: that may be the Python of the environment that was just removed.
    base = getattr(sys, "_base_executable", None) or sys.executable
    try:
        run([base, "-m", "venv", *options, environment], "making it", progress)
    except SetupError as error:
        shutil.rmtree(environment, ignore_errors=True)
        raise SetupError(
            f"`{base} -m venv` failed (see above); on Debian and Ubuntu it needs the "
            f"package python{version}-venv"
        ) from error
    return python


def remove_half_written(site_packages: Path) -> list[str]:
    """Removes the records of packages that an interrupted pip did not write to the end.

    pip regards a package as installed once its ``METADATA`` is there, writes ``RECORD`` last, and
    so would leave it as it is. Without its records it installs the package again.

    Returns:
        The names of the removed ``.dist-info`` folders.
    """
    broken = [folder for folder in site_packages.glob("*.dist-info") if not is_complete(folder)]
    # pip renames what it is about to replace to a name with a tilde.
    for folder in [*broken, *site_packages.glob("~*")]:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder.name for folder in broken]


def is_complete(dist_info: Path) -> bool:
    """Tells whether all files of an installed package are there, with the recorded sizes."""
    record = dist_info / "RECORD"
    if not record.exists() or not (dist_info / "METADATA").exists():
        return False
    with record.open(encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines):
            if len(row) != 3:  # the record itself ends in the middle of a line
                return False
            name, _, size = row
            file = dist_info.parent / name
            if name.endswith(".pyc"):  # written, and rewritten, by Python
                continue
            if not file.exists() or (size and str(file.stat().st_size) != size):
                return False
    return True


def importable(python: Path, module: str) -> bool:
    """Tells whether an interpreter finds a module that is more than a stray folder."""
    code = f"import importlib.util as u; print(u.find_spec({module!r}).origin is not None)"
    return ask(python, code) == "True"


def check_hash(path: Path, expected: str) -> None:
    """Raises `SetupError` unless the file is the one that was examined."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise SetupError(
            f"refused: {path.name} has SHA-256 {found}, but the file that was examined has "
            f"{expected}. The index serves another file under this name; nothing of it was "
            "unpacked. Install Detectron2 and panopticapi yourself (for example `pip install "
            "--no-build-isolation git+https://github.com/facebookresearch/detectron2`) and run "
            "this with --system-site-packages"
        )


def install_borrowed(
    package: Borrowed, python: Path, site_packages: Path, progress: Progress
) -> None:
    """Downloads the wheel, checks it and moves the package into the environment."""
    with tempfile.TemporaryDirectory(prefix="panoptic-setup-") as folder:
        command = pip(python, "download", "--no-deps", "--dest", folder, package.wheel)
        run(command, f"downloading {package.name}", progress)
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise SetupError(f"`pip download {package.wheel}` brought no wheel; try again")
        check_hash(wheels[0], package.sha256)
        unpack(wheels[0], package, site_packages)


def unpack(wheel: Path, package: Borrowed, site_packages: Path) -> None:
    """Moves one package of a wheel into an environment, with a dist-info of its own.

    All is unpacked next to its place first, then renamed: the dist-info before the package, so
    that an interruption in between leaves records of missing files, which the next run notices,
    and never a package without records.

    Args:
        wheel: a wheel whose hash has been checked.
        package: its folder is the only part that is taken.
        site_packages: where it goes.
    """
    dist_info = f"{package.name}-{package.version}.dist-info"
    for left_over in site_packages.glob(f".{package.name}-unpacking-*"):
        shutil.rmtree(left_over)
    prefix = f".{package.name}-unpacking-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=site_packages) as part:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(f"{package.name}/")]
            if not names or any(".." in Path(name).parts for name in names):
                raise SetupError(f"{wheel.name} holds no usable folder {package.name}/")
            archive.extractall(part, names)
        write_dist_info(Path(part), dist_info, package)
        for name in (dist_info, package.name):
            target = site_packages / name
            if target.exists():
                shutil.rmtree(target)
            os.rename(Path(part, name), target)


def write_dist_info(folder: Path, dist_info: str, package: Borrowed) -> None:
    """Writes the records by which pip lists and uninstalls the package that lies in a folder."""
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in package.requires)
    texts = {
        "METADATA": "Metadata-Version: 2.1\n"
        f"Name: {package.name}\nVersion: {package.version}\n"
        f"Summary: {package.summary}; unpacked by tools/setup_environment.py\n{requires}",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: setup_environment.py\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
        "INSTALLER": "setup_environment.py\n",
        "top_level.txt": f"{package.name}\n",
    }
    (folder / dist_info).mkdir()
    for name, text in texts.items():
        (folder / dist_info / name).write_text(text, "utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with (folder / dist_info / "RECORD").open("w", encoding="utf-8", newline="") as record:
        writer = csv.writer(record, lineterminator="\n")
        for path in files:
            data = path.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            name = path.relative_to(folder).as_posix()
            writer.writerow((name, f"sha256={digest}", len(data)))
        writer.writerow((f"{dist_info}/RECORD", "", ""))


def fingerprint(python_version: str) -> dict[str, str]:
    """Returns what the finished environment depends on; another value means: set up again.

    The folder counts because pip's editable installation points to it, the packages because it
    lists them.
    """
    sources = b"".join((ROOT / name).read_bytes() for name in ("setup.py", "pyproject.toml"))
    return {
        "setup": hashlib.sha256(sources + Path(__file__).read_bytes()).hexdigest(),
        "python": python_version,
        "folder": str(ROOT),
        "packages": " ".join(name for name in PACKAGES if (ROOT / name).is_dir()),
    }


def is_done(environment: Path) -> bool:
    """Tells whether a former run finished with what is asked for now."""
    version = "{}.{}".format(*sys.version_info[:2])
    try:
        stamp = json.loads((environment / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return stamp == fingerprint(version) and importable(python_of(environment), "detectron2")


def set_up(environment: Path, system_site_packages: bool, progress: Progress) -> None:
    """Runs all steps; each does nothing where its result is there."""
    repeated = environment.exists()
    python = make_environment(environment, system_site_packages, progress)
    site_packages = site_packages_of(python)
    if repeated:
        for name in remove_half_written(site_packages):
            progress.say(f"{name} was not written to its end: installing it again")

    progress.say("installing torch and torchvision (the largest part: minutes, some GB)")
    run(pip(python, "install", "torch>=2.4", "torchvision>=0.19"), "installing torch", progress)
    progress.say("installing the project and the tools of its tests")
    own = ("--editable", ".[test,lint,safetensors]")
    needs = () if importable(python, "detectron2") else DETECTRON2.requires
    run(pip(python, "install", *own, *needs), "installing the project", progress)

    if importable(python, "detectron2"):
        progress.say("Detectron2 is there already and is used as it is")
    else:
        install_borrowed(DETECTRON2, python, site_packages, progress)
    if not importable(python, "panopticapi"):
        install_borrowed(PANOPTICAPI, python, site_packages, progress)

    if not importable(python, "cityscapesscripts"):
        command = pip(python, "install", "--no-deps", *CITYSCAPES)
        run(command, "installing cityscapesscripts", progress)
    progress.say("looking whether all can be imported")
    modules = "torch, torchvision, cv2, numba, panoptic_common.compat, detectron2.modeling"
    run([str(python), "-c", f"import {modules}"], "importing the libraries", progress)
    version = "{}.{}".format(*sys.version_info[:2])
    part = environment / f"{STAMP}.part"
    part.write_text(json.dumps(fingerprint(version), indent=2))
    os.replace(part, environment / STAMP)
    files = (Path(at, name) for at, _, names in os.walk(environment) for name in names)
    size = sum(os.lstat(file).st_size for file in files)
    progress.say(f"done: {environment.name} takes {size / 1e9:.1f} GB")


@contextlib.contextmanager
def only_one(lock: Path, progress: Progress) -> Iterator[None]:
    """Lets another set-up of the same environment finish first (`make demo` beside `make test`)."""
    try:
        import fcntl
    except ImportError:  # Windows: no such lock, and one user there hardly starts two
        yield
        return
    with lock.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            progress.say("another set-up is running: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description="Prepare the environment of this project.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="its folder")
    parser.add_argument(
        "--system-site-packages",
        action="store_true",
        help="let a new environment see your own torch and Detectron2",
    )
    options = parser.parse_args()
    progress = Progress()
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        print(f"Python {wanted} or newer is needed; try `make PYTHON=python{wanted}`.")
        return 1
    environment = options.venv.absolute()
    if is_done(environment):
        return 0
    try:
        with only_one(environment.with_name(f"{environment.name}.lock"), progress):
            if not is_done(environment):  # the one we waited for may have done it all
                set_up(environment, options.system_site_packages, progress)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
