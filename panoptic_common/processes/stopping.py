"""Ending a program in good order at SIGTERM (a batch system's), SIGINT (Ctrl-C) and SIGHUP.

SIGHUP comes when a terminal is closed or its connection breaks. Outside a training's steps a signal
raises SystemExit at once, with the status that shells use: 143, 130 or 129. During steps it is only
noted: the training saves its state after the step and ends then.
Python drops what a handler raises in some places: while it forks, in `__del__`, in C callbacks.
It only reports that (`sys.unraisablehook`), upon which the signal is sent once more.
Standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),  # not on Windows
)
STATUSES = {128 + number: number for number in SIGNALS}
SECONDS_TO_SAVE = 30.0  # what Slurm leaves between SIGTERM and SIGKILL, unless told otherwise
# Launchers pass a signal on that the whole group of processes has got already.
ECHO = 2.0  # seconds
AGAIN = 0.02  # seconds, after which Python has left the place that dropped the exception

_PR_SET_PDEATHSIG = 1


class StopRequest:
    """What signals have asked of this process.

    Attributes:
        number: the first signal that came, None if none did.
        deferred: whether a signal is only noted.
        patient: whether a second signal is ignored, since a launcher decides when to kill.
    """

    def __init__(self) -> None:
        """Start without a signal."""
        self.number: int | None = None
        self.deferred = False
        self.patient = False
        self._since = 0.0
        self._raised: SystemExit | None = None
        self._dropped = False

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal: note it, or raise SystemExit."""
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if self.deferred:
                return
        elif self._dropped:
            self._dropped = False
            if self.deferred:  # a step has begun, after which the training looks
                return
        elif self.patient or time.monotonic() - self._since < ECHO:
            return
        self._raised = SystemExit(128 + number)
        raise self._raised

    def notice(self, dropped: sys.UnraisableHookArgs) -> bool:
        """Return whether Python has dropped what `receive` raised; it is raised again soon."""
        if self._raised is None or dropped.exc_value is not self._raised:
            return False
        number = int(str(self._raised.code)) - 128
        self._raised, self._dropped = None, True
        again = threading.Timer(AGAIN, _send_to_main_thread, (number,))
        again.daemon = True
        again.start()
        return True

    def forget(self) -> None:
        """Return to the state without a signal."""
        self.number, self.deferred = None, False
        self._raised, self._dropped = None, False


def _send_to_main_thread(number: int) -> None:
    """Send a signal so that it interrupts what the main thread waits for."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)


request = StopRequest()


@contextmanager
def orderly_end(patient: bool = False) -> Iterator[StopRequest]:
    """Turn these signals into an end in good order while the block runs.

    SIGINT and SIGHUP stay ignored where they are: shells ignore the one for what a script starts in
    its background, nohup the other.
    In a thread that is not the main one nothing changes.

    Args:
        patient: see `StopRequest`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    request.forget()
    request.patient = patient
    numbers = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN or n == signal.SIGTERM]
    report = sys.unraisablehook

    def report_others(dropped: sys.UnraisableHookArgs) -> None:
        if not request.notice(dropped):
            report(dropped)

    sys.unraisablehook = report_others
    before = {number: signal.signal(number, request.receive) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = report
        request.forget()


def status_of(end: SystemExit) -> int:
    """Return the status if a signal ended the program, such as 143; other ends are raised again."""
    if end.code not in STATUSES:
        raise end
    return int(str(end.code))


@contextmanager
def end_at_once() -> Iterator[None]:
    """Let these signals kill the process while the block runs, in which nothing can be lost.

    Compiled code that works for minutes would be asked only afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_parent(*_: object) -> None:
    """Ignore them in a worker of a data loader: the training that needs it gets them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@functools.cache
def end_workers_at_exit() -> None:
    """See that workers which ignore SIGTERM end with this program, whatever still holds them.

    Python sends them SIGTERM at its end, and then waits for them.
    """
    atexit.register(_kill_daemons)


def _kill_daemons() -> None:
    """Kill the daemonic children; torch would call that the failure of a worker."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def ended(status: int) -> int:
    """Return the status of a program that has done its work, and see that the process ends so.

    gloo's threads now and then abort a process when they are taken down at the end of the
    interpreter. Where there are some, Python's own end is run, and that of C++ libraries is not.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        atexit.register(_leave, status, [])
    return status


def _leave(status: int, entered: list[bool]) -> None:
    """Run what else was registered for the end, then end; called by it again, do nothing."""
    if entered:
        return
    entered.append(True)
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or it is closed
            stream.flush()
    os._exit(status)


def die_with(parent: int) -> None:
    """End this process by SIGKILL as soon as its parent has ended, however that ends.

    Args:
        parent: process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _watch(parent: int) -> None:
    """Look for the parent twice a second."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
