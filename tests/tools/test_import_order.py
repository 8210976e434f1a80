"""Detectron2 first: the .pth file applies the work-arounds that its import needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

START = """
import site, sys
site.addsitedir({folder!r})
assert "torch" not in sys.modules and "numpy" not in sys.modules  # costs nothing until it is used
{code}
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Start Python with the .pth file in a folder of packages."""
    shutil.copy(ROOT / "tools" / "panoptic_detectron2.pth", folder)
    code = START.format(folder=str(folder), code=code)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "first", ["from detectron2.modeling import build_model", "import detectron2.data", "import PIL"]
)
def test_detectron2_may_be_imported_first(first: str, tmp_path: Path) -> None:
    """Without the file, Detectron2 0.6 and Pillow 10 give "no attribute 'LINEAR'"."""
    code = f"{first}\nimport detectron2.data\nfrom panoptic_common.compat import active_shims\n"
    done = run(tmp_path, code + "print(len(active_shims()) >= 2)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


def test_looking_for_detectron2_is_no_error_without_it(tmp_path: Path) -> None:
    """An environment without Detectron2, looked for twice: not there, and no traceback."""
    code = """
import importlib.abc
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "detectron2":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(1, Nothing())
for _ in range(2):
    try:
        import detectron2
    except ModuleNotFoundError as error:
        print(error.name)
"""
    done = run(tmp_path, code)
    assert (done.returncode, done.stdout.split()) == (0, ["detectron2", "detectron2"]), done.stderr


def test_a_file_left_behind_does_no_harm(tmp_path: Path) -> None:
    """After an uninstallation nothing of this project can be found."""
    shutil.copy(ROOT / "tools" / "panoptic_detectron2.pth", tmp_path)
    code = f"import site; site.addsitedir({str(tmp_path)!r}); print('started')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("started", "")
