"""Tasks in worker processes: their order, their errors, and how many processes there are."""

from __future__ import annotations

import os
import time

import pytest

from panoptic_tools.worker_pool import map_tasks


def slow_first(task: int) -> tuple[int, int]:
    time.sleep(0.2 if task == 0 else 0)
    return task, os.getpid()


def refuse_two(task: int) -> int:
    if task == 2:
        raise ValueError("task 2 is wrong")
    return task


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_tasks(workers):
    results = list(map_tasks(slow_first, range(30), workers))
    assert [task for task, _ in results] == list(range(30))
    processes = {process for _, process in results}
    assert (processes == {os.getpid()}) == (workers < 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_arrives(workers):
    with pytest.raises(ValueError, match="task 2 is wrong"):
        list(map_tasks(refuse_two, range(100), workers))
