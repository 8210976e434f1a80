"""Files that are whole or not there, however a program ends.

A file is written under a temporary name, flushed to the disk and renamed. So there is a whole file
under its own name, the old or the new one, or none. Standard library only: every folder uses it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

_LONGEST_NAME = 200  # bytes of a file's name to which the temporary name adds its own


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, flush: bool = True
) -> None:
    """Write a file so that a kill or a full disk leaves the old file, or none, but never a part.

    Args:
        path: file on a local disk.
        write: writes the contents to the binary file that it is given.
        flush: wait until the disk has it, which a power cut does not take away then. Thousands of
            images need not wait.

    Raises:
        OSError: naming the file, if the disk is full, say; whatever `write` makes of that.
    """
    path = Path(path)
    # As a text: an OSError names a file by what was opened.
    temporary = os.fspath(path.with_name(f".{_short(path.name)}.{os.getpid()}.tmp"))
    refused: list[OSError] = []
    try:
        with io.BufferedWriter(_WatchedFile(temporary, refused)) as buffered:
            write(buffered)
            buffered.flush()
            if flush:  # or the rename could reach the disk before the contents
                os.fsync(buffered.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        failure = refused[0] if refused else error
        own = (None, temporary)
        if not isinstance(failure, OSError) or failure.errno is None or failure.filename not in own:
            raise
        raise OSError(failure.errno, failure.strerror, os.fspath(path)) from error
    if flush:
        _sync_folder(path.parent)


def _short(name: str) -> str:
    """Return a name that leaves room for more: file systems take 255 bytes."""
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    ending = os.path.splitext(name)[1][-20:]  # by which `remove_temporary_files` finds it
    return f"{name[:30]}.{zlib.crc32(os.fsencode(name)):08x}{ending}"


class _WatchedFile(io.FileIO):
    """Notes why the disk refused, which libraries such as torch replace by words of their own."""

    def __init__(self, path: str, refused: list[OSError]) -> None:
        super().__init__(path, "wb")
        self._refused = refused

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            self._refused.append(error)
            raise


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an OSError of the block name this file, where it names none or a temporary one.

    Args:
        path: what the user asked for.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Make a folder if need be, and write a few bytes into it as a trial.

    Permissions alone do not tell: the disk may be read-only or full, and root may do anything.

    Args:
        folder: into which a program will write when its work is done.

    Raises:
        OSError: naming the folder, if that fails.
    """
    folder = Path(folder)
    trial = folder / f".writable.{os.getpid()}.tmp"
    with naming(folder):
        if os.path.lexists(folder) and not os.path.exists(folder):  # mkdir would say "File exists"
            raise OSError(errno.ENOENT, "it is a link that leads nowhere")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(trial, "wb") as file:
                file.write(b"\0" * 4096)
        finally:
            trial.unlink(missing_ok=True)


def first_free(path: Path) -> Path:
    """Return the first of "path.1", "path.2" and so on that is not there."""
    number = 1
    while (place := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return place


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = None) -> None:
    """Write a JSON file by `write_atomically`, in UTF-8.

    Args:
        path: file on a local disk.
        content: what JSON can express; NaN and infinity, which it cannot, become null.
        indent: spaces per level; None writes one line.
    """
    text = json_text(content, indent=indent)
    write_atomically(path, lambda file: file.write(text.encode()))


def json_text(content: Any, **options: Any) -> str:
    """Write content as JSON that any program reads, with null for NaN and infinity.

    A figure that does not exist must not cost those that do. So it is null and no error.

    Args:
        content: dicts, lists and plain values.
        options: of `json.dumps`.
    """
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_without_nan(content), allow_nan=False, **options)


def _without_nan(content: Any) -> Any:
    """Copy nested dicts and lists with None for NaN and infinity."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def remove_temporary_files(folder: str | os.PathLike[str], *names: str) -> None:
    """Delete what a killed `write_atomically` left in a folder (it can be as big as a checkpoint).

    Args:
        folder: where it wrote; only this process may be writing these files there.
        names: patterns of the files that were to be written, such as "*.pth".
    """
    for name in names:
        for path in Path(folder).glob(f".{name}.*.tmp"):
            logger.info("Removing %s, which a killed run left unfinished.", path)
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets folders be flushed."""
    with contextlib.suppress(OSError):  # Windows, and some network file systems
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
