"""Temporary folders beside the result, which a killed process leaves and the next one removes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX, _LOCK = ".preparing_", ".lock"


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a folder that is removed when the block ends, and remove those of killed processes.

    Whoever works in one holds a lock in it, which the system releases if that process is killed.

    Args:
        parent: a folder, on the disk on which the result will lie.

    Yields:
        The new folder; entries whose names begin with a dot are not the caller's.
    """
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = FileLock(folder / _LOCK)
    try:
        with contextlib.suppress(OSError, NotImplementedError):  # some network file systems
            lock.acquire()
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders whose processes were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if not (folder / _LOCK).exists():  # not ours, or just being made
            continue
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            with FileLock(folder / _LOCK, blocking=False):
                pass
            shutil.rmtree(folder, ignore_errors=True)
