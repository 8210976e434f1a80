"""Plain Python threads, for many problems at once and for the phases of one.

The kernels release the interpreter (`_jit.py`), so plain threads suffice: no process is forked, no
array is copied.

* Many problems (`run_all`): each is solved by one thread as it would be alone.
* One problem (`Workers`): what a phase does to nodes, edges or clusters is cut into blocks. Threads
  take the next block until none is left. Blocks write to different places, and what they return is
  put together in their order. How a phase is cut depends on its size only.

So in neither case the results depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cops.solver.arguments import whole_number
from cops.solver.memory import Memory, give_back, lend

T = TypeVar("T")

# A phase is cut into as many blocks at most: enough for threads to end at about the same time.
MAX_BLOCKS = 16
# A block has as many nodes (or other items) at least: a call of a kernel takes some microseconds.
LEAST_BLOCK = 1 << 13
# So many threads wait for the next task at most.
MAX_IDLE = 4
LONGEST_WAIT = 0.2  # seconds


def count_processors() -> int:
    """Return how many processors this process may use, at least one."""
    known = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(known(0)) if known else os.cpu_count() or 1


def cut_into_blocks(size: int, least: int = LEAST_BLOCK) -> list[tuple[int, int]]:
    """Cut 0 .. size - 1 into blocks of about one length; return begin and end of each."""
    if size < 2 * least:
        return [(0, size)]
    count = min(size // least, MAX_BLOCKS)
    return [(size * b // count, size * (b + 1) // count) for b in range(count)]


class Workers:
    """Threads that share the phases of one problem; a context, at whose end they are gone.

    The memory of its large arrays is kept for the next one (`memory.py`).

    Args:
        num_threads: how many compute at a time, >= 1, the caller's own among them.

    Raises:
        ValueError, TypeError: `num_threads` is no positive integer.
    """

    def __init__(self, num_threads: int) -> None:
        self.num_threads = whole_number("num_threads", num_threads, 1)
        self._helpers: list[_Helper] = []
        self._lent: list[Memory] | None = None  # outside of the context nothing is lent

    def __enter__(self) -> Workers:
        self._lent = []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for helper in self._helpers:
            helper.let_go()
        self._helpers = []
        if self._lent is not None:
            give_back(self._lent)
        self._lent = None

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array with any content, which may be used as long as the context lasts."""
        if self._lent is None:
            return np.empty(shape, dtype)
        array, memory = lend(shape, dtype)
        if memory is not None:
            self._lent.append(memory)
        return array

    def over(self, size: int, task: Callable[[int, int], T], least: int = LEAST_BLOCK) -> list[T]:
        """Call task(begin, end) for each block of 0 .. size - 1; return what they return."""
        blocks = cut_into_blocks(size, least)
        if len(blocks) == 1:  # all there is, where a problem is small
            return [task(*blocks[0])]
        return self.run([partial(task, *block) for block in blocks])

    def run(self, tasks: list[Callable[[], T]]) -> list[T]:
        """Call all tasks, in any order and side by side; return what they return, in theirs."""
        num_others = min(self.num_threads, len(tasks)) - 1
        if num_others < 1:
            return [task() for task in tasks]
        results: dict[int, T] = {}
        errors: list[BaseException] = []
        # Whoever is free takes the next number.
        numbers = iter(range(len(tasks)))

        def work() -> None:
            try:
                for number in numbers:
                    results[number] = tasks[number]()
            except BaseException as error:
                errors.append(error)

        if self._lent is None:  # no context, at whose end helpers would be let go
            waits = [_begin(work) for _ in range(num_others)]
        else:
            while len(self._helpers) < num_others:
                self._helpers.append(_find_helper())
            waits = [helper.begin(work, stays=True) for helper in self._helpers[:num_others]]
        work()
        for wait in waits:
            _wait(wait)
        if errors:
            raise errors[0]
        return [results[number] for number in range(len(tasks))]


def run_all(tasks: Iterable[Callable[[], T]], num_threads: int) -> list[T]:
    """Call all tasks and return what they return, in their order.

    Args:
        tasks: functions without argument.
        num_threads: how many run at a time, >= 1; with 1 the caller's own thread runs them.

    Raises:
        ValueError, TypeError: `num_threads` is no positive integer.
        Exception: that of the first task, in their order, that failed. Tasks that have not begun
            by then are not begun.
    """
    num_threads = whole_number("num_threads", num_threads, 1)
    tasks = list(tasks)
    if num_threads == 1 or len(tasks) < 2:
        return [call_beside(task) for task in tasks]
    # Whoever is free takes the next number. So when a task fails, all before it have begun.
    numbers = iter(range(len(tasks)))
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    stopped = threading.Event()

    def work() -> None:
        for number in numbers:
            if stopped.is_set():
                return
            try:
                results[number] = tasks[number]()
            except BaseException as error:
                errors[number] = error
                stopped.set()

    try:
        waits = [_begin(work) for _ in range(min(num_threads, len(tasks)))]
        for wait in waits:
            _wait(wait)
    except BaseException:  # Ctrl-C: those under way compute on, and no other begins
        stopped.set()
        raise
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(tasks))]


class _Helper:
    """A thread that is kept for the next task: to start one takes a quarter of a small solve."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], None], threading.Lock, bool]] = SimpleQueue()
        # A daemon: the end of the program does not wait for a solve that nobody waits for.
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            run, done, stays = self._tasks.get()
            run()
            del run  # and with it the arrays of the task
            if not stays and len(_IDLE) >= MAX_IDLE:
                done.release()
                return
            if not stays:
                _IDLE.append(self)
            done.release()

    def begin(self, run: Callable[[], None], stays: bool = False) -> threading.Lock:
        """Begin a function that raises nothing; the lock that is returned is free when it is done.

        Then the helper is idle again, or gone where enough are idle; unless it `stays` with whoever
        has begun it, until it is let go.
        """
        done = threading.Lock()
        done.acquire()
        self._tasks.put((run, done, stays))
        return done

    def let_go(self) -> None:
        """Let a helper that has stayed be idle, or go where enough are idle."""
        self.begin(_do_nothing)


def _do_nothing() -> None:
    pass


def _find_helper() -> _Helper:
    """Return an idle helper or a new one."""
    try:
        return _IDLE.pop()
    except IndexError:
        return _Helper()


def _begin(run: Callable[[], None]) -> threading.Lock:
    """Let an idle helper or a new one begin a function."""
    return _find_helper().begin(run)


def _wait(done: threading.Lock) -> None:
    """Wait until a helper is done.

    Python looks for Ctrl-C when a wait begins and when a signal ends it. One that comes between the
    two, or to another thread, it would see at the end only.
    """
    while not done.acquire(timeout=LONGEST_WAIT):
        pass


# Those that wait for a task. After Ctrl-C one is missing until its solve is done.
_IDLE: list[_Helper] = []
if hasattr(os, "register_at_fork"):  # threads are not copied
    os.register_at_fork(after_in_child=_IDLE.clear)

ALONE = Workers(1)


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

    _wait(_begin(run))
    if errors:
        raise errors[0]
    return outcome[0]
