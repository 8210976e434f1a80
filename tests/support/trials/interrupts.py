"""SIGTERM and Ctrl-C to the programs beside training, at random moments of their work."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from trials.outcome import Outcome
from trials.processes import LISTENING, marked, patience, started, wait_for_end
from trials.programs import (
    Program,
    half_written,
    new_output,
    prepare,
    programs,
    tool,
    with_many,
)

MEANS = (
    "ends within 30 s, times the load per core, with status 143 or 130, without a traceback; no "
    "process, no temporary folder and nothing half-written is left"
)
SECONDS = 30.0


def run(count: int, seed: int, folder: Path) -> Outcome:
    """End programs by SIGTERM and SIGINT by turns, at random moments of their work."""
    draw, outcome, inputs = random.Random(seed), Outcome(), prepare(folder)
    names = len(all_programs(inputs, folder))
    for case in range(count):
        out = new_output(folder / str(case), inputs)
        program = all_programs(inputs, out)[(case + seed) % names]
        number = (signal.SIGTERM, signal.SIGINT)[(case + seed) // names % 2]
        problem = interrupt(program, number, with_many(program, inputs), out, draw)
        outcome.record(f"{case} {program.name}, {number.name}", problem, program.name)
        shutil.rmtree(out.parent)
    return outcome


def all_programs(inputs: dict[str, Path], out: Path) -> list[Program]:
    """Those that write, and two more that have other processes."""
    many = inputs["many"]
    places = [many / "many", many / "panoptic_many.json", many / "panoptic_many"]
    options = zip(("--images", "--json", "--png"), map(str, places), strict=True)
    words = [word for option in options for word in option]
    check = [tool("check_dataset.py"), "many", *words, "--workers", "2"]
    demo = [tool("quickstart.py"), "--fast", "--output", str(out / "demo"), "--scenes", str(out)]
    return [
        *programs(inputs, out),
        Program("check_dataset", check, lambda out: True),
        Program("quickstart", demo, lambda out: (out / "demo/unified/metrics.json").exists()),
    ]


def interrupt(
    program: Program, number: signal.Signals, words: list[str], out: Path, draw: random.Random
) -> str | None:
    """Start a program, send the signal to its whole group, and return what is wrong then."""
    temporary, log = out.parent / "temporary", out.parent / "log.txt"
    temporary.mkdir()
    listening = [sys.executable, "-c", LISTENING, sys.executable, *words]
    with started(listening, log, out, TMPDIR=str(temporary)) as process:
        end = time.monotonic() + patience(120)
        # A second of processor time is more than the imports of the one that writes nothing.
        while process.poll() is None and not (program.begun(out) and worked(out) > 1.0):
            if time.monotonic() > end:
                return "has not begun"
            time.sleep(0.1)
        time.sleep(draw.uniform(0, 0.2))
        if process.poll() is not None:
            return None if process.returncode == 0 else f"status {process.returncode} by itself"
        limit = patience(SECONDS)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return f"still alive after {limit:.0f} s"
        left = [] if wait_for_end(out, patience(5)) else marked(out)
        if left:
            return f"processes {left} are left"
    said = log.read_text(errors="replace")
    # It may have come to its end in that very moment.
    if status not in (0, 128 + number, -number):
        return f"status {status}: {said[-300:]}"
    if "Traceback" in said:
        return said[said.index("Traceback") :][-300:]
    if list(temporary.iterdir()):
        return f"{[path.name for path in temporary.iterdir()]} is left in the temporary folder"
    return half_written(out)


def worked(mark: Path) -> float:
    """Seconds of processor time of all processes with the mark."""
    ticks = 0
    for number in marked(mark):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
