"""Apply a function to many tasks in worker processes, with a bar that shows how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_CHUNK = 8  # tasks that travel to a worker at once


def map_tasks(
    function: Callable[[_Task], _Result], tasks: Sequence[_Task], workers: int
) -> Iterator[_Result]:
    """Yield the results in the order of the tasks.

    Args:
        function: of a module, as it travels to the workers by name.
        tasks: what it is called with.
        workers: number of processes; up to 1 everything happens in this one.

    Raises:
        Exception: what the function raised for the first task for which it did; tasks that no
            worker has begun by then are not begun.
    """
    if workers <= 1:
        yield from _watched(map(function, tasks), len(tasks))
        return
    # It takes a tenth of the time in which this process has started, so only who needs it waits.
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers)
    try:
        yield from _watched(pool.map(function, tasks, chunksize=_CHUNK), len(tasks))
    finally:
        pool.shutdown(cancel_futures=True)


def _watched(results: Iterator[_Result], total: int) -> Iterator[_Result]:
    yield from tqdm(results, total=total, unit="image", disable=None)
