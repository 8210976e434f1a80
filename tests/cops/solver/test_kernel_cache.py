"""Kernels run where no disk can be written to, and nobody else's kernels are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

KERNEL = """
from cops.solver._jit import jit

@jit
def advance(x):
    return x + 1
"""
CALL = (
    "import {setup}; from kernels.own import advance; print(advance(1), advance.stats.cache_path)"
)
PLACES = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_DISABLE_JIT")


def block(folder: Path) -> None:
    """Let no process keep kernels beside the files of a folder, not even one of root."""
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    (folder / "__pycache__").touch()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package `kernels`, whose files leave no place for kernels."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "own.py").write_text(KERNEL)
    block(folder)
    (tmp_path / "temporary").mkdir()
    return tmp_path


def run(package: Path, setup: str = "os", **variables: str) -> subprocess.CompletedProcess[str]:
    """Call the kernel in a process without a home."""
    environment = {key: value for key, value in os.environ.items() if key not in PLACES}
    environment |= {"HOME": os.devnull, "TMPDIR": str(package / "temporary"), **variables}
    environment["PYTHONPATH"] = os.pathsep.join([str(package), str(ROOT)])
    command = [sys.executable, "-c", CALL.format(setup=setup)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_without_another_place_kernels_are_kept_in_the_temporary_folder(package: Path) -> None:
    done = run(package)
    value, place = done.stdout.split()
    assert value == "2" and Path(place).parent.parent == package / "temporary"
    assert done.stderr.count("compiled kernels are kept in") == 1
    (folder,) = (package / "temporary").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbc"))


def test_kernels_that_others_could_have_written_are_not_run(package: Path) -> None:
    folder = package / "temporary" / f"cops_solver_{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    done = run(package)
    assert done.stdout.split() == ["2", "None"] and list(folder.iterdir()) == []
    assert done.stderr.count("compiled anew in this process") == 1


def test_without_any_place_kernels_are_compiled_in_each_process(package: Path) -> None:
    (package / "without_temporary.py").write_text("import tempfile\ntempfile.tempdir = '/dev/null'")
    done = run(package, setup="without_temporary")
    assert done.stdout.split() == ["2", "None"], done.stderr
    assert done.stderr.count("No folder can be written to") == 1


def test_a_full_disk_is_no_reason_not_to_solve(package: Path) -> None:
    """The limit on the length of files stands for the disk: both end `write` with an error."""
    (package / "full.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    )
    done = run(package, setup="full", NUMBA_CACHE_DIR=str(package / "temporary"))
    assert done.stdout.split()[0] == "2", done.stderr
    assert done.stderr.count("cannot be written") == 1 and "Traceback" not in done.stderr


def test_damaged_kernels_are_compiled_anew(package: Path) -> None:
    place = {"NUMBA_CACHE_DIR": str(package / "temporary")}
    assert run(package, **place).stderr == ""
    for path in (package / "temporary").rglob("*.nb*"):
        os.truncate(path, 20)
    done = run(package, **place)
    assert done.stdout.split()[0] == "2" and "cannot be read" in done.stderr
    assert run(package, **place).stderr == ""


def test_the_solver_is_imported_where_nothing_can_be_written(package: Path) -> None:
    shutil.copytree(ROOT / "cops", package / "cops", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package / "cops", *(package / "cops").rglob("*")]:
        if folder.is_dir():
            block(folder)
    program = "import cops.solver; from cops.solver.greedy.algorithm import __file__ as f; print(f)"
    environment = {key: value for key, value in os.environ.items() if key not in PLACES}
    environment |= {"HOME": os.devnull, "TMPDIR": str(package / "temporary")}
    environment["PYTHONPATH"] = str(package)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(package)), done.stderr
    assert done.stderr.count("kernels are kept in") == 1
