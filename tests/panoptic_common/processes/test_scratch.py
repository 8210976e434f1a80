"""Temporary folders go with the block, or with the next block if the process was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

from panoptic_common.processes.scratch import scratch_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from panoptic_common.processes.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half.png").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_goes_with_the_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
    with pytest.raises(SystemExit), scratch_folder(tmp_path):
        raise SystemExit(143)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -9
    (left,) = tmp_path.iterdir()
    assert (left / "half.png").exists()
    with scratch_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_that_of_another_process_stays(tmp_path: Path) -> None:
    """A lock counts per open file, so two blocks of one process stand for two processes."""
    with scratch_folder(tmp_path) as first:
        with scratch_folder(tmp_path) as second:
            assert set(tmp_path.iterdir()) == {first, second}
        assert first.exists()
