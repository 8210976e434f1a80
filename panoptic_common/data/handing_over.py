"""How worker processes of a loader hand over what they have loaded, and what is said if they fail.

By itself a worker sends its batch from a thread of its queue, through shared memory and open files.
Where either runs out that thread prints a traceback and drops the batch: the program would wait
for ever. Containers often have 64 MB of shared memory, which a few large images fill. So

- a batch is packed in the worker's own thread, whose errors reach the program;
- where shared memory is small it goes through a pipe, which needs none: one copy more.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"  # Linux; other systems have no such limit
ROOM = 1 << 30  # bytes: two batches ahead of each of some workers
SEMAPHORES = 64 << 10  # bytes per worker, of a page each
_DIED = re.compile(r"DataLoader worker \(pid.*?\) (is killed by signal: \w[\w ]*|exited)")
_HAS_ENDED = (
    "a worker process of the loader was ended {}; if that was for want of memory, free some, "
    "or set DATALOADER.NUM_WORKERS to less, such as 0"
)
_ADVICE = "or set DATALOADER.NUM_WORKERS to less, such as 0"


class LoaderError(RuntimeError):
    """Worker processes cannot do their work; the message is one sentence."""

    def __str__(self) -> str:
        """Return the sentence alone; a loader puts the traceback of its worker before it."""
        return super().__str__().rpartition("LoaderError: ")[2].strip()


class HandingLoader(DataLoader):
    """A loader whose batches come packed if it has workers, and are unpacked here."""

    def __init__(self, *arguments: Any, num_workers: int = 0, **options: Any) -> None:
        """Prepare to load.

        Args:
            arguments: of torch's loader.
            num_workers: worker processes; 0 loads in this process.
            options: of torch's loader; `collate_fn` is not among them: a batch is a list.
        """
        options["collate_fn"] = pack_function() if num_workers else as_list
        super().__init__(*arguments, num_workers=num_workers, **options)

    def __iter__(self) -> Any:
        """Return an iterator over lists of samples.

        Raises:
            LoaderError: workers cannot be started, or later, cannot hand over what they have.
        """
        if not self.num_workers:
            return super().__iter__()
        try:
            self._require_semaphores()
            batches = super().__iter__()
        except OSError as error:
            raise LoaderError(
                f"worker processes of the loader cannot start {_why(error)}"
            ) from error
        return _Unpacked(batches)

    def _require_semaphores(self) -> None:
        """Raise OSError if there is no room for them; torch's half-made iterator would complain."""
        free = _free_shared_memory()
        if free is not None and free < SEMAPHORES * (self.num_workers + 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), SHARED_MEMORY)


class _Unpacked(Iterator[list[Any]]):
    """Unpacks what workers have packed."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.shut_down: Callable[[], None] = batches._shutdown_workers

    def __next__(self) -> list[Any]:
        packed = next(self._batches)
        try:
            return pickle.loads(packed)
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # of its socket
            raise LoaderError(
                _HAS_ENDED.format("before all that it has loaded was taken")
            ) from error
        except (OSError, RuntimeError) as error:
            raise LoaderError(f"what a worker has loaded cannot be taken {_why(error)}") from error


def as_list(samples: list[Any]) -> list[Any]:
    """Collate nothing: a batch is a list."""
    return samples


def pack_function() -> Callable[[list[Any]], bytes]:
    """Return how workers pack a batch: by shared memory, or whole where that is small."""
    free = _free_shared_memory()
    if free is None or free >= ROOM:
        return functools.partial(pack, dumps=ForkingPickler.dumps)
    logger.info(
        "%s has only %d MB free: workers send what they load through pipes.",
        SHARED_MEMORY,
        free >> 20,
    )
    return functools.partial(pack, dumps=pickle.dumps)


def pack(samples: list[Any], *, dumps: Callable[[Any], Any]) -> bytes:
    """Pack a batch in a worker.

    Raises:
        LoaderError: shared memory or open files have run out.
    """
    try:
        return bytes(dumps(samples))
    except (OSError, RuntimeError) as error:
        raise LoaderError(f"a worker cannot hand over what it has loaded {_why(error)}") from error


def explain_worker(error: BaseException) -> str | None:
    """Return a sentence for torch's error that a worker has died; None for any other error."""
    found = _DIED.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    signal = found[1].rpartition(": ")[2].strip() if ":" in found[1] else ""
    return _HAS_ENDED.format(f"by the signal {signal}" if signal else "unexpectedly")


def _free_shared_memory() -> int | None:
    """Return how many bytes of shared memory are free; None where nobody knows."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def _why(error: Exception) -> str:
    """Return the reason in brackets, and what to do."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    free = _free_shared_memory()
    if os.strerror(errno.EMFILE) in reason:
        advice = "allow more by `ulimit -n`"
    elif free is not None and free < ROOM:
        advice = (
            f"{SHARED_MEMORY} has {free >> 10} KB free, give it more (docker run --shm-size 2g)"
        )
    else:
        advice = "free memory and processes"
    return f"({reason}): {advice}, {_ADVICE}"
