"""The folder of a run: under one name or another, and with odd things in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_common.engine.run_folder import FolderRefused, hold_folder

HOLDER = (
    "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
    "print('held', flush=True); sys.stdin.read()"
)


@pytest.mark.parametrize("name", ["log.txt", "log.txt.rank1", "metrics.json", "last_checkpoint"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """A run that opened a pipe would wait for ever, and last_checkpoint -> /dev/zero has no end."""
    place = tmp_path / name
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    with pytest.raises(FolderRefused, match=f"{name} is a folder, a pipe or a device.*: remove"):
        hold_folder(tmp_path).__enter__()


def test_links_to_files_are_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("model_final.pth")
    (tmp_path / "last_checkpoint").symlink_to("elsewhere")
    (tmp_path / "log.txt").symlink_to("not there yet")
    with hold_folder(tmp_path):
        pass


def test_two_names_of_a_folder_are_one_folder(tmp_path: Path) -> None:
    """By a link, with dots, and with a slash at the end; the other run is another process."""
    folder, link = tmp_path / "out", tmp_path / "link"
    folder.mkdir()
    link.symlink_to("out")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", HOLDER, str(folder / "lock")]
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        for name in (str(folder), str(link), f"{tmp_path}/out/../link/", f"{folder}/"):
            with pytest.raises(FolderRefused, match="a run still works in"):
                hold_folder(name, patience=0).__enter__()
        process.stdin.close()
        process.wait(20)
