"""tools/make_scenes.py: a split, a contact sheet, and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from project import ROOT


def run_tool(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/make_scenes.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_tool_writes_a_split_and_a_sheet(tmp_path: Path) -> None:
    options = ("--height", 64, "--width", 96, "--number", 3)
    sheet = tmp_path / "sheet.png"
    done = run_tool("--output", tmp_path / "set", *options, "--contact-sheet", sheet)
    assert done.returncode == 0, done.stderr
    assert "scenes per minute" in done.stdout
    # Two columns of (image | truth), two rows, the last cell empty.
    assert Image.open(sheet).size == (4 * 96, 2 * 64)
    image = Image.open(tmp_path / "set" / "train" / "images" / "000000.png")
    assert np.array_equal(np.asarray(Image.open(sheet))[:64, :96], np.asarray(image))


def test_tool_explains_bad_input(tmp_path: Path) -> None:
    assert "--contact-sheet" in run_tool().stderr
    done = run_tool("--output", tmp_path, "--difficulty", 7)
    assert done.returncode == 2 and "difficulty" in done.stderr and "Traceback" not in done.stderr
