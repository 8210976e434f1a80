"""The set-up program without a network, and that the metadata replaces nothing of a user's."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import subprocess
import sys
import types
import venv
import zipfile
from pathlib import Path

import pytest
from project import ROOT


def load_program(path: Path) -> types.ModuleType:
    """Loads a program of tools/ as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


setup_environment = load_program(ROOT / "tools" / "setup_environment.py")
SetupError = setup_environment.SetupError


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare virtual environment, with this interpreter's pip to run in it."""
    folder = tmp_path_factory.mktemp("setup") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    return folder


@pytest.fixture
def site_packages(environment: Path) -> Path:
    folder = setup_environment.site_packages_of(setup_environment.python_of(environment))
    assert folder.is_relative_to(environment) and not any(folder.iterdir())
    return folder


def make_wheel(folder: Path, names: tuple[str, ...] = ("detectron2/__init__.py",)) -> Path:
    """Writes a wheel with the given files besides those of the project that it belongs to."""
    path = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            *names,
            "carrier/__init__.py",
            "utils/__init__.py",
            "carrier-1.0.dist-info/WHEEL",
        ):
            archive.writestr(name, f"name = {name!r}\n")
    return path


FILES = ("detectron2/__init__.py", "detectron2/layers/__init__.py", "detectron2/layers/data, 1.txt")


def pip_in(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    python = setup_environment.python_of(environment)
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=300, check=True
    )


# --------------------------------------------------------------------------------------------
# Borrowed packages
# --------------------------------------------------------------------------------------------


def test_hash_is_checked_before_anything_is_unpacked(
    tmp_path: Path, site_packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index serves a wheel with the right name and other content."""

    def download(command: list[str], what: str, progress: object) -> None:
        make_wheel(Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(setup_environment, "run", download)
    with pytest.raises(SetupError, match="refused.*has SHA-256.*nothing of it was unpacked"):
        setup_environment.install_borrowed(
            setup_environment.DETECTRON2,
            Path(sys.executable),
            site_packages,
            setup_environment.Progress(),
        )
    assert list(site_packages.iterdir()) == []


def test_right_hash_passes(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    setup_environment.check_hash(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())


def test_only_the_wanted_package_is_unpacked_and_pip_removes_it(
    tmp_path: Path, environment: Path, site_packages: Path
) -> None:
    package = setup_environment.DETECTRON2
    setup_environment.unpack(make_wheel(tmp_path, FILES), package, site_packages)
    dist_info = f"detectron2-{package.version}.dist-info"
    assert sorted(path.name for path in site_packages.iterdir()) == ["detectron2", dist_info]
    assert setup_environment.is_complete(site_packages / dist_info)

    shown = pip_in(environment, "show", "--files", "detectron2").stdout
    assert f"Version: {package.version}" in shown and "roof" not in shown
    assert "detectron2/layers/__init__.py" in shown
    assert "fvcore" in shown  # its requirements are declared

    (site_packages / "detectron2" / "__pycache__").mkdir()
    (site_packages / "detectron2" / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"")
    pip_in(environment, "uninstall", "--yes", "detectron2")
    left = [path for path in site_packages.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert left == []
    for path in site_packages.rglob("*.pyc"):
        path.unlink()
    for path in sorted(site_packages.rglob("*"), reverse=True):
        path.rmdir()


def test_record_holds_the_true_digests(tmp_path: Path) -> None:
    setup_environment.unpack(
        make_wheel(tmp_path, FILES[:2]), setup_environment.DETECTRON2, tmp_path
    )
    (record,) = tmp_path.glob("detectron2-*.dist-info/RECORD")
    listed = {}
    for line in record.read_text().splitlines():
        name, digest, size = line.rsplit(",", 2)
        listed[name] = (digest, size)
    files = {
        path.relative_to(tmp_path).as_posix(): path.read_bytes()
        for folder in ("detectron2", record.parent.name)
        for path in (tmp_path / folder).rglob("*")
        if path.is_file()
    }
    assert listed.keys() == files.keys()
    assert listed.pop(f"{record.parent.name}/RECORD") == ("", "")
    for name, (digest, size) in listed.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).decode()
        assert (digest, size) == (f"sha256={expected.rstrip('=')}", str(len(files[name])))


def test_unpacking_again_replaces_and_clears_what_an_interruption_left(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / ".detectron2-unpacking-xyz").mkdir(parents=True)
    (site / "detectron2").mkdir()
    (site / "detectron2" / "old.py").write_text("")
    for _ in range(2):
        setup_environment.unpack(make_wheel(tmp_path, FILES), setup_environment.DETECTRON2, site)
        assert len(list(site.iterdir())) == 2
        assert not (site / "detectron2" / "old.py").exists()


def test_interruption_between_the_two_renames_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    rename, renamed = os.rename, []

    def die_at_the_second(source: Path, target: Path) -> None:
        if renamed:
            raise KeyboardInterrupt
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        setup_environment.unpack(make_wheel(tmp_path, FILES), setup_environment.DETECTRON2, site)
    monkeypatch.undo()
    assert not (site / "detectron2").exists()
    assert setup_environment.remove_half_written(site) == [renamed[0].name]
    setup_environment.unpack(make_wheel(tmp_path, FILES), setup_environment.DETECTRON2, site)
    assert setup_environment.remove_half_written(site) == []


@pytest.mark.parametrize("names", [(), ("detectron2/../evil.py",)])
def test_wheel_without_the_package_or_with_a_way_out_is_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with pytest.raises(SetupError, match="no usable folder detectron2/"):
        setup_environment.unpack(make_wheel(tmp_path, names), setup_environment.DETECTRON2, site)
    assert list(site.iterdir()) == []


# --------------------------------------------------------------------------------------------
# Half-written packages
# --------------------------------------------------------------------------------------------


def install_by_hand(site: Path) -> Path:
    setup_environment.unpack(make_wheel(site.parent, FILES), setup_environment.DETECTRON2, site)
    return next(site.glob("*.dist-info"))


@pytest.mark.parametrize(
    "damage", ["no RECORD", "no METADATA", "RECORD cut", "file missing", "file cut"]
)
def test_package_that_was_not_written_to_its_end_is_forgotten(tmp_path: Path, damage: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    dist_info = install_by_hand(site)
    (site / "~orch").mkdir()
    assert setup_environment.is_complete(dist_info)
    file = site / "detectron2" / "layers" / "__init__.py"
    if damage == "RECORD cut":
        record = dist_info / "RECORD"
        record.write_text(record.read_text()[:-2])
    elif damage.startswith("no "):
        (dist_info / damage.split()[1]).unlink()
    elif damage == "file missing":
        file.unlink()
    else:
        file.write_text(file.read_text()[:-1])
    assert setup_environment.remove_half_written(site) == [dist_info.name]
    assert [path.name for path in site.iterdir()] == ["detectron2"]


def test_complete_package_is_kept(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    dist_info = install_by_hand(site)
    with (dist_info / "RECORD").open("a") as record:
        record.write("detectron2/__pycache__/x.cpython-311.pyc,,\n")  # pip lists these, too
    assert setup_environment.remove_half_written(site) == []
    assert dist_info.exists()


# --------------------------------------------------------------------------------------------
# Repeating
# --------------------------------------------------------------------------------------------


def finished(environment: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs the set-up with its slow steps replaced; returns what it ran."""
    ran: list[str] = []
    present: set[str] = set()

    def run(command: list, what: str, progress: object) -> None:
        ran.append(what)
        if "venv" in command:
            venv.create(environment, with_pip=False, symlinks=True)

    def install(package: object, *rest: object) -> None:
        ran.append(f"unpacking {package.name}")
        present.add(package.name)

    monkeypatch.setattr(setup_environment, "run", run)
    monkeypatch.setattr(setup_environment, "install_borrowed", install)
    monkeypatch.setattr(setup_environment, "importable", lambda _, module: module in present)
    monkeypatch.setattr(sys, "argv", ["setup_environment.py", "--venv", str(environment)])
    assert setup_environment.main() == 0
    return ran


def test_repeating_a_finished_set_up_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = tmp_path / ".venv"
    ran = finished(environment, monkeypatch)
    assert "unpacking detectron2" in ran and "unpacking panopticapi" in ran
    assert "done" in capsys.readouterr().out
    ran.clear()
    assert setup_environment.main() == 0
    assert ran == [] and capsys.readouterr().out == ""


def test_changed_metadata_or_a_lost_detectron2_set_it_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / ".venv"
    finished(environment, monkeypatch)
    assert setup_environment.is_done(environment)
    monkeypatch.setattr(setup_environment, "importable", lambda *_: False)
    assert not setup_environment.is_done(environment)
    monkeypatch.setattr(setup_environment, "importable", lambda *_: True)
    now = setup_environment.fingerprint
    for key in ("setup", "python", "folder", "packages"):
        monkeypatch.setattr(
            setup_environment,
            "fingerprint",
            lambda version, key=key: {**now(version), key: "other"},
        )
        assert not setup_environment.is_done(environment), key


def test_a_failing_step_leaves_no_stamp_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = tmp_path / ".venv"
    finished(environment, monkeypatch)
    (environment / setup_environment.STAMP).unlink()

    def fail(command: list, what: str, progress: object) -> None:
        raise SetupError(f"{what} failed")

    monkeypatch.setattr(setup_environment, "run", fail)
    monkeypatch.setattr(setup_environment, "make_environment", lambda *_: Path(sys.executable))
    monkeypatch.setattr(setup_environment, "remove_half_written", lambda *_: [])
    assert setup_environment.main() == 1
    assert "set-up: installing torch failed" in capsys.readouterr().err
    assert not setup_environment.is_done(environment)


def test_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SetupError, match="no virtual environment; move it away"):
        setup_environment.make_environment(tmp_path, False, setup_environment.Progress())
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_errors_of_a_command_are_shown_only_if_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    progress = setup_environment.Progress()
    noise = "import sys; print('noise', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    setup_environment.run([sys.executable, "-c", noise, "0"], "trying", progress)
    assert capfd.readouterr().err == ""
    with pytest.raises(SetupError, match="trying failed"):
        setup_environment.run([sys.executable, "-c", noise, "1"], "trying", progress)
    assert "noise" in capfd.readouterr().err


# --------------------------------------------------------------------------------------------
# Metadata and doctor
# --------------------------------------------------------------------------------------------

WITHOUT = """
import runpy, sys
for name in {hidden!r}:
    sys.modules[name] = None  # importing it raises ImportError
sys.argv = {argv!r}
sys.path.insert(0, {folder!r})
runpy.run_path({argv!r}[0], run_name="__main__")
"""


def run_without(hidden: tuple[str, ...], *argv: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(hidden=hidden, argv=list(argv), folder=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def requirements(tmp_path: Path, **replaced: object) -> dict:
    """Runs setup.py with `setup` replaced by a recorder; returns what it was given."""
    setuptools = pytest.importorskip("setuptools")
    given: dict = {}
    original = setuptools.setup
    setuptools.setup = lambda **options: given.update(options)
    try:
        load_program(ROOT / "setup.py")
    finally:
        setuptools.setup = original
    return given


def test_metadata_never_imports_torch() -> None:
    pytest.importorskip("setuptools")
    hidden = ("torch", "torchvision", "detectron2", "numpy", "cv2")
    run = run_without(hidden, str(ROOT / "setup.py"), "--version")
    assert run.returncode == 0, run.stderr
    from panoptic_common import __version__

    assert run.stdout.splitlines()[-1] == __version__


def test_metadata_replaces_nothing_of_a_user(tmp_path: Path) -> None:
    given = requirements(tmp_path)
    required = given["install_requires"]
    names = [requirement.replace(">", " ").split()[0].lower() for requirement in required]
    assert not {"detectron2", "panopticapi", "panopticapi-lite", "roof-mask"} & set(names)
    assert {"torch", "torchvision", "numpy"} <= set(names)
    # A lower bound lets pip keep what is there; an upper bound or a pin would replace it.
    bounded = [r for r in required if "<" in r or "==" in r or "~=" in r or "@" in r]
    assert all(requirement.startswith("opencv") for requirement in bounded)
    assert given["python_requires"] == ">=3.10"
    folders = {
        name for name in ("panoptic_common", "unified_panoptic", "cops") if (ROOT / name).is_dir()
    }
    assert {package.partition(".")[0] for package in given["packages"]} == folders | {
        "panoptic_tools",
        "panoptic_configs",
    }
    assert set(given["extras_require"]) >= {"test", "lint", "dev", "cityscapes", "safetensors"}


def test_installed_opencv_of_any_kind_is_kept(tmp_path: Path) -> None:
    """OpenCV's distributions overwrite one another, and new ones replace a numpy 1."""
    pytest.importorskip("setuptools")
    program = load_program_quietly(ROOT / "setup.py")
    program.site_folders = lambda: [str(tmp_path)]
    assert program.opencv_requirement() == ["opencv-python-headless>=4.8"]
    numpy = tmp_path / "numpy-1.26.4.dist-info"
    numpy.mkdir()
    (numpy / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    assert program.opencv_requirement() == ["opencv-python-headless>=4.8,<4.12"]
    (tmp_path / "cv2").mkdir()
    assert program.opencv_requirement() == []


def load_program_quietly(path: Path) -> types.ModuleType:
    """Loads setup.py without letting it run its command."""
    import setuptools

    original, setuptools.setup = setuptools.setup, lambda **options: None
    try:
        return load_program(path)
    finally:
        setuptools.setup = original


@pytest.mark.parametrize("missing", ["torch", "detectron2"])
def test_doctor_prints_and_fails_where_a_library_is_missing(missing: str) -> None:
    run = run_without((missing,), str(ROOT / "tools" / "doctor.py"))
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    lines = run.stdout.splitlines()
    assert lines[-1] == "This would not run."
    assert any(line.startswith(missing) and "MISSING" in line for line in lines)
    assert any(line.startswith("problem: ") for line in lines)
    assert any(line.startswith("numpy") and "MISSING" not in line for line in lines)


def test_doctor_is_content_here() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "doctor.py"], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "All is well."
    for part in ("deformable convolution", "NMS", "ROIAlign", "UnifiedPanoptic"):
        assert any(line.startswith(part) for line in run.stdout.splitlines())
    assert "allow_ddp_on_cpu" in run.stdout
