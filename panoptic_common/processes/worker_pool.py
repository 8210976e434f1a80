"""Apply a function to many tasks in worker processes that never outlive this one.

A signal that ends this process ends the workers at once, whatever they are at. They ignore signals
themselves: Ctrl-C in a terminal goes to all, and each would show a traceback. Nor do they run the
program that started them, as multiprocessing has it. One that does not guard its main part by
`if __name__ == "__main__"` would begin anew in each, and wait there for what this process holds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from panoptic_common.processes.stopping import SIGNALS, die_with, leave_signals_to_the_parent

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def map_in_processes(
    function: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    workers: int,
    chunk: int = 8,
    method: str | None = "spawn",
) -> Iterator[_Result]:
    """Yield the results in the order of the tasks.

    Args:
        function: of a module, as it travels to the workers by name.
        tasks: what it is called with; of the program's own classes only if the function is, too.
        workers: number of processes; up to 1 everything happens in this one.
        chunk: tasks that travel to a worker at once.
        method: how processes are started; "spawn" where this one may hold threads or a GPU, None
            for Python's default, which is faster.

    Raises:
        Exception: what the function raised for the first task for which it did; tasks that no
            worker has begun by then are not begun.
        ChildProcessError: workers cannot be started, or one was killed; no worker is left.
        SystemExit, KeyboardInterrupt: a signal came; no worker is left.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    # It takes a tenth of the time in which a program starts, so only who needs it waits.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context(method)
    others = set(multiprocessing.active_children())
    try:
        pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(os.getpid(),))
    except OSError as error:  # no room for semaphores
        raise _cannot_start(workers, error) from error
    stopped = False

    def kill() -> None:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()

    try:
        try:
            # Python's own way of starting is for our programs, which are guarded.
            with _program_hidden(method == "spawn" and function.__module__ != "__main__"):
                futures = _started(pool, function, tasks, chunk)
        except OSError as error:
            kill()  # those that run would wait for tasks for ever, and this process for them
            raise _cannot_start(workers, error) from error
        while futures:
            yield from futures.pop().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, for want of memory perhaps: try fewer workers"
        ) from error
    except (SystemExit, KeyboardInterrupt, GeneratorExit):
        # What they have begun is of no use any more, and may take long.
        stopped = True
        kill()
        raise
    finally:
        # The pool tells all tasks that its processes are gone, and fails on those cancelled.
        pool.shutdown(cancel_futures=not stopped)


def _cannot_start(workers: int, error: OSError) -> ChildProcessError:
    """Return the error that says so."""
    reason = error.strerror or error
    return ChildProcessError(
        f"{workers} worker processes cannot be started ({reason}): try fewer workers"
    )


def _started(
    pool: ProcessPoolExecutor,
    function: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    chunk: int,
) -> list[Future[list[_Result]]]:
    """Hand out all tasks, with signals blocked, also in the workers until they ignore them.

    Returns:
        The last ones first.
    """
    blocked = getattr(signal, "pthread_sigmask", None)  # not on Windows
    before = blocked(signal.SIG_BLOCK, SIGNALS) if blocked else None
    try:
        begins = range(0, len(tasks), chunk)
        return [pool.submit(_do, function, tasks[i : i + chunk]) for i in begins][::-1]
    finally:
        if blocked:
            blocked(signal.SIG_SETMASK, before)


@contextmanager
def _program_hidden(hide: bool) -> Iterator[None]:
    """Keep spawned processes from running this program's main module.

    They find it by its spec or its file, and do without where it has neither, as at a prompt.

    Args:
        hide: whether to; what the workers call may be of the main module.
    """
    if not hide:
        yield
        return
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {x: main.pop(x) for x in ("__spec__", "__file__") if x in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def _do(function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> list[_Result]:
    """Work through a few tasks, in a worker."""
    return [function(task) for task in tasks]


def _begin(parent: int) -> None:
    """Prepare a worker."""
    leave_signals_to_the_parent()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    die_with(parent)
