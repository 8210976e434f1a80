"""The cache of compiled kernels: used by a second process, but not after a change of sources."""

from __future__ import annotations

import ast
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import ROOT

from cops.solver._jit import announce_compiling

FIRST = """
from package._jit import jit
STEP = {step}

@jit
def advance(x):
    return x + STEP
"""
SECOND = """
from package._jit import jit
from package.{first} import advance

@jit
def twice(x):
    return advance(advance(x))
"""


def call(folder: Path, second: str) -> tuple[int, int]:
    """twice(1), and how many kernels came from the cache, in a new process."""
    program = f"from package.{second} import twice; "
    program += "print(twice(1), sum(twice.stats.cache_hits.values()))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    value, hits = map(int, run.stdout.split())
    return value, hits


@pytest.mark.parametrize(
    ("first", "second"),
    [("first", "second"), ("lower.first", "upper.second"), ("first", "upper.second")],
    ids=["one folder", "another folder", "the folder above"],
)
def test_a_change_in_one_file_renews_the_kernels_of_another(tmp_path, first, second):
    package = tmp_path / "package"
    for folder in (package, package / "lower", package / "upper"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    shutil.copy(ROOT / "cops/solver/_jit.py", package)
    callee = package / f"{first.replace('.', '/')}.py"
    caller = package / f"{second.replace('.', '/')}.py"
    callee.write_text(FIRST.format(step=1))
    caller.write_text(SECOND.format(first=first))
    assert call(tmp_path, second) == (3, 0)
    assert call(tmp_path, second) == (3, 1)
    callee.write_text(FIRST.format(step=20))
    assert call(tmp_path, second) == (41, 0)  # Numba by itself would say 3 again


def test_kernels_import_from_the_solver_only():
    """What else they imported could change without the cache being renewed."""
    own = {path.stem for path in ROOT.iterdir() if path.is_dir()} | {"panoptic_tools"}
    num_files = 0
    for path in (ROOT / "cops/solver").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        modules |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        if "cops.solver._jit" in modules:
            num_files += 1
            ours = {module for module in modules if module.split(".")[0] in own}
            assert all(module.startswith("cops.solver.") for module in ours), path
    assert num_files > 10


def test_all_decorators_stand_in_one_file():
    for path in (ROOT / "cops/solver").rglob("*.py"):
        if path.name not in ("_jit.py", "kernel_cache.py"):
            assert "import numba" not in path.read_text(), path


def test_compiling_is_announced_in_one_line(tmp_path, caplog):
    """Where no kernel is cached, once; with a cache, and without the compiler, never."""

    def kernel(name, folder):
        class Kernel:
            stats = SimpleNamespace(cache_path=str(folder))
            __module__ = f"cops.solver.{name}.algorithm"

        return Kernel()

    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "sweep.nbi").touch()
    cold = kernel("multilevel", tmp_path / "cold")
    with caplog.at_level(logging.WARNING):
        for asked in (kernel("greedy", tmp_path / "warm"), cold, cold, len):
            announce_compiling(asked)
    # By record: where another test has left a log with two ways to the root, each comes twice.
    assert [record.getMessage() for record in {id(r): r for r in caplog.records}.values()] == [
        "compiling the kernels of cops.solver.multilevel for this machine, once: that takes up to "
        "a minute"
    ]
