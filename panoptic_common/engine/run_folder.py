"""The folder of a run, OUTPUT_DIR: one run at a time, and no run goes on with what another left.

Two runs in one folder would delete one another's temporary files, and mix checkpoints and metrics.
So a run holds a lock for as long as its main process lives, however that ends. The lock counts per
process: who starts a program in its own process may hold it already (`training_run.main`).

A run that starts at iteration 0 puts aside what an earlier one left. Otherwise a kill before its
first checkpoint, then a resume, would go on with the earlier run's checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from panoptic_common.engine.resuming import cut_metrics
from panoptic_common.files import first_free, require_writable

logger = logging.getLogger(__name__)

LOCK, METRICS = "lock", "metrics.json"
FINAL = "model_final"  # the checkpoint after the last iteration
# What a run opens by its name: a pipe would make it wait for ever, a device has no end.
_FILES = (LOCK, METRICS, "last_checkpoint", "config.yaml", "log.txt*", "*.pth")
# Worker processes of a data loader hold the lock, too, and outlive a killed run by 5 seconds.
PATIENCE = 8.0  # seconds


class FolderRefused(ValueError):
    """A folder cannot be used for a run; the message is one sentence."""


def still_works(folder: str | os.PathLike[str]) -> str:
    """Return the sentence that refuses a second run."""
    return (
        f"a run still works in {folder}, left by a program that was killed perhaps: wait for its "
        "end, end the process train_net.py, or name another OUTPUT_DIR"
    )


@contextmanager
def hold_folder(folder: str | os.PathLike[str], patience: float | None = None) -> Iterator[None]:
    """Make a folder if need be, and keep other runs out of it until the block ends.

    Args:
        folder: OUTPUT_DIR; on a disk that knows no locks, only a warning is logged.
        patience: seconds to wait for another run's end; None: `PATIENCE`.

    Raises:
        FolderRefused: another run holds it, it is no folder, or nothing can be written there.
    """
    try:
        require_writable(folder)
        _require_regular(Path(folder))
        lock = FileLock(os.path.join(os.path.abspath(folder), LOCK), is_singleton=True)
        lock.acquire(timeout=PATIENCE if patience is None else patience)
    except Timeout:
        raise FolderRefused(still_works(folder)) from None
    except NotImplementedError:
        logger.warning("The disk of %s knows no locks: see that one run alone uses it.", folder)
        yield
        return
    except OSError as error:
        reason = error.strerror or error
        raise FolderRefused(
            f"OUTPUT_DIR {folder} cannot be written to ({reason}): name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_regular(folder: Path) -> None:
    """Raise FolderRefused if a folder, a pipe or a device has the name of a file of runs."""
    for pattern in _FILES:
        for path in folder.glob(pattern):
            if path.exists() and not path.is_file():
                raise FolderRefused(
                    f"{path} is a folder, a pipe or a device, where a run keeps a file: remove it, "
                    "or name another OUTPUT_DIR"
                )


def put_earlier_run_aside(folder: str | os.PathLike[str], again: bool = False) -> Path | None:
    """Move checkpoints and metrics of an earlier run to `folder`/earlier.<number>.

    Args:
        folder: of a run that is about to start at iteration 0, its writers being open already.
        again: it is the same run, which was ended before its first checkpoint: metrics alone are
            dropped, since it writes them again.

    Returns:
        Where they are now; None if there was nothing to move.
    """
    folder = Path(folder)
    metrics = folder / METRICS
    kinds = ("*.pth", "model_*.safetensors", "model_*.md", "last_checkpoint")
    files = sorted(path for kind in kinds for path in folder.glob(kind))
    told = metrics.is_file() and metrics.stat().st_size > 0
    if not files and (again or not told):
        cut_metrics(str(metrics), 0)
        return None
    place = first_free(folder / "earlier")
    place.mkdir()
    # The pointer goes first: a kill in between must not leave it to name a file that moved.
    for path in sorted(files, key=lambda path: path.name != "last_checkpoint"):
        os.replace(path, place / path.name)
    if told:
        shutil.copyfile(metrics, place / METRICS)
        cut_metrics(str(metrics), 0)  # in place: the writer has the file open
    return place
