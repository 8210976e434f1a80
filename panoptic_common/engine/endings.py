"""How a run ends that cannot go on: one sentence and an exit status, or else a traceback.

What the user can mend (a config, a file of weights, a full disk) is told in a sentence. Everything
else is a fault of the program, and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.checkpoint.finite import NotFiniteError
from panoptic_common.coco.records import DataFileError
from panoptic_common.data.handing_over import LoaderError, explain_worker
from panoptic_common.engine.run_folder import FolderRefused
from panoptic_common.processes.torchrun import LaunchRefused

REFUSED, FAILED = 2, 1  # exit statuses: what was asked for cannot begin; it could not go on

# The disk's part in an OSError: full, quota, file too large, read-only, damaged.
_OF_THE_DISK = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EACCES", "EPERM", "ESTALE")
    if hasattr(errno, name)
}


class RunRefused(ValueError):
    """A run cannot be set up as its config asks; the message is one sentence."""


class CannotWrite(OSError):
    """A run cannot write its files any more; the message is one sentence."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn what a faulty config, data set or file raises into `RunRefused`.

    For the set-up of a run only: the same exceptions from its work would be faults of the program.
    """
    try:
        yield
    except (RunRefused, FolderRefused, LaunchRefused):
        raise
    except (ValueError, FileNotFoundError) as error:
        raise RunRefused(str(error)) from error


def explain_disk(error: BaseException, folder: str, iteration: int) -> CannotWrite | None:
    """Say that the disk ends a training.

    Args:
        error: what a step, or a hook after it, raised.
        folder: OUTPUT_DIR.
        iteration: in which it was raised.

    Returns:
        The error to raise instead; None if it is another one.
    """
    if not isinstance(error, OSError) or error.errno not in _OF_THE_DISK:
        return None
    place = error.filename or f"OUTPUT_DIR {folder}"
    pointer = Path(folder, "last_checkpoint")
    try:
        last = f"the last whole checkpoint is {pointer.read_text(encoding='utf-8')}: mend that"
    except OSError:
        last = "there is no checkpoint yet: mend that"
    return CannotWrite(
        f"{place} cannot be written to any more ({error.strerror}) after iteration {iteration}; "
        f"{last}, and --resume goes on from there"
    )


def ending(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the sentence of an error.

    Args:
        error: of a run, or of `launch`, whose cause is what a worker process raised.

    Returns:
        None for an error that is none of the user's: its traceback is wanted.
    """
    if isinstance(error, (CheckpointError, RunRefused, FolderRefused, LaunchRefused)):
        return REFUSED, str(error)
    if isinstance(error, (NotFiniteError, DataFileError, CannotWrite, LoaderError)):
        return FAILED, str(error)
    if sentence := explain_worker(error):
        return FAILED, sentence
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        place = f"{error.filename} " if error.filename else "a file "
        return FAILED, f"{place}cannot be written or read: {error.strerror}"
    cause = error.__cause__
    return ending(cause) if isinstance(error, RuntimeError) and cause is not None else None


@contextlib.contextmanager
def without_traceback() -> Iterator[None]:
    """Keep Detectron2's loop from logging a traceback of an error that is told in a sentence."""

    def is_other(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or ending(error) is None

    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(is_other)
    try:
        yield
    finally:
        loop.removeFilter(is_other)
