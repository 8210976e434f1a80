"""SIGTERM, SIGINT, SIGHUP and SIGKILL to trainings, however they were started."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from trials.outcome import Outcome
from trials.processes import (
    LISTENING,
    marked,
    patience,
    started,
    train_command,
    train_words,
    wait_for,
    wait_for_end,
    workers_of,
)

MEANS = {
    "signals": "ends within 30 s, times the load per core, with status 143, 130 or 129; a "
    "checkpoint of the last step; no traceback, process or temporary folder is left; Ctrl-C is "
    "ignored where a shell ignores it",
    "background": "after SIGKILL no process of the run is left, and the status tells",
}
STARTS = ("foreground", "script &", "nohup &", "setsid")
IGNORING = ("script &", "nohup &")  # there the shell has SIGINT ignored
SECONDS = 30.0


class Case(NamedTuple):
    """One training and its end.

    Attributes:
        start: of STARTS.
        processes: that train.
        number: of the signal.
        target: "launcher", "worker", or "group": all processes, as a terminal or Slurm sends it.
        loaders: worker processes of each data loader.
    """

    start: str
    processes: int
    number: signal.Signals
    target: str
    loaders: int = 0

    def __str__(self) -> str:
        where = f"{self.number.name} to the {self.target}"
        loaders = f" with {self.loaders} loader workers" if self.loaders else ""
        return f"{where}, {self.processes} process(es){loaders}, {self.start}"


def orderly_cases() -> list[Case]:
    """SIGTERM and SIGINT: every start, one process and two, launcher and worker; SIGHUP."""
    both = (signal.SIGTERM, signal.SIGINT)
    cases = [Case(start, 1, number, "launcher") for start in STARTS for number in both]
    for start, number, target in itertools.product(STARTS, both, ("launcher", "worker")):
        cases.append(Case(start, 2, number, target))
    for processes, number in itertools.product((1, 2), both):
        cases.append(Case("foreground", processes, number, "group", loaders=2))
    cases += [Case("foreground", processes, signal.SIGINT, "group") for processes in (1, 2)]
    cases += [Case("foreground", processes, signal.SIGHUP, "group") for processes in (1, 2)]
    cases += [Case("setsid", processes, signal.SIGHUP, "launcher") for processes in (1, 2)]
    return cases


def killing_cases() -> list[Case]:
    """What leaves no time to save, of two processes."""
    cases = [Case(start, 2, signal.SIGKILL, "launcher") for start in STARTS]
    return [*cases, Case("script &", 2, signal.SIGKILL, "worker")]


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Try the orderly ends in an order that the seed gives, over again if `count` is larger."""
    return try_all(orderly_cases(), count, seed, folder)


def run_background(count: int, seed: int, folder: Path) -> Outcome:
    """The same for the ends by force."""
    return try_all(killing_cases(), count, seed, folder)


def try_all(cases: list[Case], count: int, seed: int, folder: Path) -> Outcome:
    """Try `count` of the cases."""
    draw, outcome = random.Random(seed), Outcome()
    draw.shuffle(cases)
    for index, case in zip(range(count), itertools.cycle(cases)):
        try:
            try_training(case, folder / str(index), pause=draw.uniform(0, 0.2))
        except (AssertionError, subprocess.TimeoutExpired) as error:
            outcome.record(str(case), str(error))
        else:
            outcome.record(str(case), None)
    return outcome


def try_training(case: Case, folder: Path, pause: float = 0.0) -> None:
    """Start a training that would take hours, send the signal, and look at what is left.

    Args:
        case: what to do.
        folder: to work in; made.
        pause: seconds between the first checkpoint and the signal.

    Raises:
        AssertionError: it did not end as promised; says how.
    """
    out, log = folder / "out", folder / "log.txt"
    folder.mkdir(parents=True, exist_ok=True)
    # Not below `folder`, whose name may be too long for the sockets of loader workers.
    with tempfile.TemporaryDirectory() as temporary:
        _try_training(case, folder, out, log, Path(temporary), pause)


def _try_training(
    case: Case, folder: Path, out: Path, log: Path, temporary: Path, pause: float
) -> None:
    words = train_words(folder / "data", out, 100000)
    words += ["DATALOADER.NUM_WORKERS", str(case.loaders)]
    command = train_command(words, case.processes)
    with started(wrapped(case, command, folder), log, folder, TMPDIR=str(temporary)) as process:
        wait_for(out / "last_checkpoint", process)
        time.sleep(pause)
        launcher = process.pid
        if case.start != "foreground":
            launcher = int((folder / "pid").read_text())
        number = case.number
        if number == signal.SIGINT and case.start in IGNORING:
            send(case, launcher, folder)
            require_progress(out, process)
            number = signal.SIGTERM
        limit = patience(SECONDS)
        send(case._replace(number=number), launcher, folder)
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still alive after {limit:.0f} s") from None
        # What the kernel ends with its parent is gone a moment later.
        left = [] if wait_for_end(folder, patience(5)) else marked(folder)
        assert not left, f"processes {left} are left"
    require_end(case._replace(number=number), status, out, log.read_text(errors="replace"))
    if case.number != signal.SIGKILL:
        assert not list(temporary.iterdir()), f"left: {list(temporary.iterdir())}"


def wrapped(case: Case, command: list[str], folder: Path) -> list[str]:
    """Start a command as a terminal, a script or a batch system does."""
    listening = [sys.executable, "-c", LISTENING, *command]
    if case.start == "foreground":
        return listening
    prefix = {"script &": "", "nohup &": "nohup ", "setsid": "setsid "}[case.start]
    script = f'{prefix}"$@" & echo $! > "$0"; wait $!'
    words = listening if case.start == "setsid" else command
    return ["sh", "-c", script, str(folder / "pid"), *words]


def send(case: Case, launcher: int, folder: Path) -> None:
    """Send the signal of a case."""
    if case.target == "group":
        os.killpg(launcher, case.number)
    elif case.target == "worker":
        os.kill(workers_of(folder)[-1], case.number)
    else:
        os.kill(launcher, case.number)


def require_progress(out: Path, process: subprocess.Popen) -> None:
    """Wait for another checkpoint: the signal was ignored."""
    before, end = (out / "last_checkpoint").read_text(), time.monotonic() + patience(60)
    while (out / "last_checkpoint").read_text() == before:
        assert process.poll() is None, "an ignored SIGINT ended the run"
        assert time.monotonic() < end, "no step after an ignored SIGINT"
        time.sleep(0.05)


def require_end(case: Case, status: int, out: Path, output: str) -> None:
    """AssertionError unless status, log and checkpoint are those of such an end."""
    if case.number == signal.SIGKILL and case.target == "worker":
        assert status == 1 and "was killed by SIGKILL" in output, f"status {status}"
        return
    # A shell shows -15 of a program that does not handle it as 143.
    assert status in (128 + case.number, -case.number), f"status {status}: {output[-300:]}"
    assert "Traceback" not in output, output[output.index("Traceback") :][:600]
    pointer = out / "last_checkpoint"
    saved = torch.load(out / pointer.read_text(), weights_only=True)
    if case.number != signal.SIGKILL:
        assert status == 128 + case.number, f"status {status}"
        told = re.findall(r"saved after iteration (\d+) and ending", output)
        assert told == [str(saved["iteration"])], f"told {told}, saved {saved['iteration']}"
        assert not list(out.glob(".*.tmp")), "a temporary file is left"
