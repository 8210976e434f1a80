"""Two runs in one OUTPUT_DIR, and two runs of two processes each on one machine at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

from trials.kills import compare
from trials.outcome import Outcome
from trials.processes import patience, started, train_command, train_words, wait_for

MEANS = (
    "one folder: the second run is refused with status 2 and one sentence, and the first ends as "
    "if it were alone, bit for bit; two folders: both end with status 0 and the same bits"
)
NUM_ITERATIONS = 12


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Try both by turns, with the systems by turns; the seed chooses who begins."""
    outcome = Outcome()
    for case in range(count):
        system, one_folder = ("unified", "cops")[(case + seed) // 2 % 2], case % 2 == 0
        attempt = in_one_folder if one_folder else at_once
        name = f"{case} {system}, {'one folder' if one_folder else 'two runs of 2 processes'}"
        try:
            attempt(system, folder / str(case))
        except (AssertionError, subprocess.TimeoutExpired) as error:
            outcome.record(name, str(error))
        else:
            outcome.record(name, None, "in one folder" if one_folder else "at once")
    return outcome


def words(system: str, out: Path, iterations: int = NUM_ITERATIONS) -> list[str]:
    """Arguments of a run in `out`."""
    return train_words(out.parent / "data", out, iterations, system, period=4)


def ended(processes: list, logs: list[Path]) -> None:
    """Wait for runs that must end well."""
    for process, log in zip(processes, logs, strict=True):
        status = process.wait(timeout=patience(300))
        assert status == 0, f"status {status}: {log.read_text(errors='replace')[-500:]}"


def in_one_folder(system: str, folder: Path) -> None:
    """Start a run beside another one, in its folder; afterwards the first is compared."""
    folder.mkdir(parents=True)
    alone, shared = folder / "alone", folder / "shared"
    log, refused = folder / "first.txt", folder / "second.txt"
    command = train_command(words(system, shared))
    with started(train_command(words(system, alone)), folder / "alone.txt", alone) as process:
        ended([process], [folder / "alone.txt"])
    # The lock is taken before the first step, and the run outlasts the 8 s that the second waits.
    with started(train_command(words(system, shared, 10**6)), log, shared) as first:
        wait_for(shared / "last_checkpoint", first)
        with started(command, refused, folder / "second") as second:
            status = second.wait(timeout=patience(200))
        said = refused.read_text(errors="replace")
        assert status == 2 and "Traceback" not in said, f"status {status}: {said[-500:]}"
        assert "still works in" in said.strip().splitlines()[-1], said[-500:]
        assert first.poll() is None, "the first run ended"
        first.terminate()
        assert first.wait(timeout=patience(60)) == 143, "the first run did not end in good order"
    with started(command, folder / "third.txt", folder / "third") as third:
        ended([third], [folder / "third.txt"])
    compare(shared, alone)


def at_once(system: str, folder: Path) -> None:
    """Two runs of two processes each; the ports must not clash."""
    folder.mkdir(parents=True)
    outs = [folder / "a", folder / "b"]
    logs = [folder / "a.txt", folder / "b.txt"]
    words(system, outs[0])  # makes the data set, which both read
    commands = [train_command(words(system, out), processes=2) for out in outs]
    with (
        started(commands[0], logs[0], outs[0]) as first,
        started(commands[1], logs[1], outs[1]) as second,
    ):
        ended([first, second], logs)
    compare(*outs)
