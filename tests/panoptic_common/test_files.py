"""Files are whole or not there, whatever ends the program that writes them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from programs import read_strictly

from panoptic_common.files import (
    first_free,
    remove_temporary_files,
    require_writable,
    write_atomically,
    write_json,
)


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fill_up(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "file", fill_up)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_disks_own_words_are_told_with_the_files_name(tmp_path: Path) -> None:
    """Libraries replace them: the limit on the length of files ends a write as a full disk does."""
    resource = pytest.importorskip("resource")

    def write(file):
        try:
            file.write(bytes(2000))
            file.flush()
        except OSError:
            raise RuntimeError("unexpected position 0 vs 2000") from None

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_atomically(tmp_path / "file", write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "file") and os.listdir(tmp_path) == []


def test_a_folder_that_takes_no_file_is_told_by_the_files_name(tmp_path: Path) -> None:
    """Not by the temporary one, which nobody has asked for."""
    for path in (tmp_path / "absent" / "file", tmp_path / "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(OSError, match="such file|directory") as caught:
            write_atomically(path, lambda file: file.write(b"new"))
        assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("letter", ["a", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_the_longest_names_are_written(tmp_path: Path, letter: str) -> None:
    """255 bytes: the temporary name, which says more, is no longer than that."""
    name = letter * (255 // len(letter.encode()))
    write_atomically(tmp_path / name, lambda file: file.write(b"new"))
    assert os.listdir(tmp_path) == [name]


def test_errors_of_what_is_written_keep_their_words(tmp_path: Path) -> None:
    def read_another(file):
        file.write((tmp_path / "absent").read_bytes())

    with pytest.raises(FileNotFoundError, match="absent"):
        write_atomically(tmp_path / "file", read_another)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "new/folder")
    assert os.listdir(tmp_path / "new/folder") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/out") as caught:
        require_writable(tmp_path / "file/out")
    assert caught.value.filename == str(tmp_path / "file/out")


@pytest.mark.parametrize("target", ["nowhere", "link"], ids=["dangling", "a loop"])
def test_a_link_that_leads_nowhere_is_called_so(tmp_path, target):
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(OSError, match="it is a link that leads nowhere") as error:
        require_writable(tmp_path / "link")
    assert error.value.filename == str(tmp_path / "link")


def test_a_kill_leaves_the_old_file_and_a_part_that_can_be_removed(tmp_path: Path) -> None:
    for name in ("mine.pth", "other.pth"):
        (tmp_path / name).write_bytes(b"old")
    child = os.fork()
    if child == 0:

        def die(file):
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        write_atomically(tmp_path / "mine.pth", die)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "mine.pth").read_bytes() == b"old"
    (part,) = tmp_path.glob(".*")
    assert part.read_bytes() == b"half"
    remove_temporary_files(tmp_path, "other*", "mine.json")  # of other files: not this one
    assert part.exists()
    remove_temporary_files(tmp_path, "*.json", "*.pth")
    assert sorted(os.listdir(tmp_path)) == ["mine.pth", "other.pth"]


def test_the_first_free_number_is_found(tmp_path: Path) -> None:
    for name in ("run", "run.1", "run.3"):
        (tmp_path / name).mkdir()
    assert first_free(tmp_path / "run") == tmp_path / "run.2"
    assert first_free(tmp_path / "other") == tmp_path / "other.1"


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"name": "Straße", "values": [1, 2.5, None]}, indent=1)
    with pytest.raises(TypeError):
        write_json(path, {"name": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "name": "Straße",
        "values": [1, 2.5, None],
    }
    assert os.listdir(tmp_path) == ["file.json"]


def test_json_has_null_for_what_json_cannot_express(tmp_path: Path) -> None:
    path, nan = tmp_path / "file.json", float("nan")
    write_json(path, {"pq": nan, "rows": [(1.5, float("inf")), [-float("inf")]], "name": "NaN"})
    expected = {"pq": None, "rows": [[1.5, None], [None]], "name": "NaN"}
    assert read_strictly(path.read_text()) == expected
