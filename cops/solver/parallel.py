"""Many problems at once on a pool of threads.

The kernels release the interpreter (`_jit.py`), so plain threads suffice: no process is forked, no
array is copied. Each problem is solved by one thread as it would be alone, so the results do not
depend on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_all(tasks: Iterable[Callable[[], T]], num_threads: int) -> list[T]:
    """Call all tasks and return what they return, in their order.

    Args:
        tasks: functions without argument.
        num_threads: how many run at a time, >= 1; with 1 the caller's own thread runs them.

    Raises:
        ValueError: `num_threads` is not positive.
        Exception: that of the first task, in their order, that failed. Tasks that have not begun
            by then are not begun.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {num_threads}")
    tasks = list(tasks)
    if num_threads == 1 or len(tasks) < 2:
        return [call_beside(task) for task in tasks]
    with ThreadPoolExecutor(min(num_threads, len(tasks))) as pool:
        try:
            futures = [pool.submit(task) for task in tasks]
            return [future.result() for future in futures]
        except BaseException:  # also Ctrl-C: leave as soon as the solves under way are done
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def call_beside(task: Callable[[], T]) -> T:
    """Call a task that runs kernels, so that Ctrl-C neither waits for it nor falls into a kernel.

    Python handles signals in the main thread only. While a kernel runs there, Ctrl-C has to wait.
    When a kernel that was interrupted hands over arrays, Numba raises SystemError or, with a
    NamedTuple, crashes. So the main thread lets another one work, and waits for that.
    """
    if threading.current_thread() is not threading.main_thread():
        return task()
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(task())
        except BaseException as error:
            errors.append(error)

    # A daemon: the end of the program does not wait for a solve that nobody waits for.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
