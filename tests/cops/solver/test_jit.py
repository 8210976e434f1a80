"""The cache of compiled kernels: used by a second process, but not after a change of sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from project import ROOT

FIRST = """
from {package}._jit import jit
STEP = {step}

@jit
def advance(x):
    return x + STEP
"""
SECOND = """
from {package}._jit import jit
from {package}.first import advance

@jit
def twice(x):
    return advance(advance(x))
"""


def call(folder: Path) -> tuple[int, int]:
    """twice(1), and how many kernels came from the cache, in a new process."""
    program = (
        "from package.second import twice; print(twice(1), sum(twice.stats.cache_hits.values()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    value, hits = map(int, run.stdout.split())
    return value, hits


def test_a_change_in_one_file_renews_the_kernels_of_another(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(ROOT / "cops/solver/_jit.py", package)
    (package / "first.py").write_text(FIRST.format(package="package", step=1))
    (package / "second.py").write_text(SECOND.format(package="package"))
    assert call(tmp_path) == (3, 0)
    assert call(tmp_path) == (3, 1)
    (package / "first.py").write_text(FIRST.format(package="package", step=20))
    assert call(tmp_path) == (41, 0)  # Numba by itself would say 3 again
