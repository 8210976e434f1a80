"""Apply a function to many tasks in worker processes, with a bar that shows how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from panoptic_common.processes.worker_pool import map_in_processes

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def map_tasks(
    function: Callable[[_Task], _Result], tasks: Sequence[_Task], workers: int
) -> Iterator[_Result]:
    """Yield the results in the order of the tasks.

    Args:
        function: of a module, as it travels to the workers by name.
        tasks: what it is called with.
        workers: number of processes; up to 1 everything happens in this one.

    Raises:
        Exception: as `map_in_processes`.
    """
    # Nothing here has threads or a GPU: Python's own way to start processes is faster.
    results = map_in_processes(function, tasks, workers, method=None)
    yield from tqdm(results, total=len(tasks), unit="image", disable=None)
