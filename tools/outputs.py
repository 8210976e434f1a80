"""Outputs that cannot be: in a folder that takes no file, or what the program itself reads."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from panoptic_common.coco.dataset_files import IMAGE_SUFFIXES

DISK_IS_FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}
NamedPath = tuple[str, "str | os.PathLike[str] | None"]  # as the user knows it, and the path


def refuse_own_inputs(
    parser: argparse.ArgumentParser, outputs: Iterable[NamedPath], inputs: Iterable[NamedPath]
) -> None:
    """End the program if `require_apart` objects; its arguments."""
    try:
        require_apart(outputs, inputs)
    except ValueError as error:
        parser.error(str(error))


def require_apart(outputs: Iterable[NamedPath], inputs: Iterable[NamedPath]) -> None:
    """Refuse outputs that are inputs, whatever they are called there, and equal outputs.

    Args:
        outputs: names and paths of the files that will be written, and of folders that will get
            files of any name; None is not asked for.
        inputs: names and paths of the files and folders that are read.

    Raises:
        ValueError: an output is an input, or an image in an input folder; or it is a folder with
            an input in it, or there twice.
    """
    read = {}
    for name, path in inputs:
        if path is not None and (key := _identity(path)) is not None:
            read.setdefault(key, (name, Path(path)))
    places: dict[str, str] = {}
    for name, path in outputs:
        if path is None:
            continue
        what = "folder" if os.path.isdir(path) else "file"
        other = places.setdefault(os.path.realpath(path), name)
        if other != name:
            raise ValueError(f"{name} {path}: {other} would write the same {what}: name another")
        if reader := _reader_of(Path(path), read):
            raise ValueError(f"{name} {path}: {reader}: name another {what}")


def _reader_of(path: Path, read: dict[tuple[int, int], tuple[str, Path]]) -> str:
    """Say which input a path would replace, "" if none."""
    key = _identity(path)
    if key is None:  # nothing is there
        return ""
    if key in read:
        return f"it would replace what {read[key][0]} reads"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        for folder in Path(os.path.realpath(path)).parents:
            name, _ = read.get(_identity(folder) or (0, 0), ("", None))
            if name:
                return f"it would replace an image of {name}"
    if path.is_dir():
        for name, file in read.values():
            if any(_identity(folder) == key for folder in Path(os.path.realpath(file)).parents):
                return f"it holds what {name} reads"
    return ""


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return what two names of one file have in common, links included; None if it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def require_file_taken(text: str, folder: Path, *names: str) -> None:
    """Make a file in a folder, and remove it, as permissions alone do not tell (/proc, root).

    Args:
        text: what the user wrote.
        folder: that exists.
        names: that are to be made below it.

    Raises:
        argparse.ArgumentTypeError: the folder takes no file, or no such name. A full disk is
            another matter, which is told by another exit status when something is written.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in names:  # each alone: the system looks no further than what is there
            with contextlib.suppress(FileNotFoundError):
                os.lstat(folder / name)
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            return
        raise argparse.ArgumentTypeError(
            f"{text}: {folder} cannot be written to ({str(error.strerror or error).lower()})"
        ) from error
