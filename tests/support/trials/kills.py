"""SIGKILL to trainings at random moments, and inside the writing of a checkpoint; then --resume."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import torch
from tiny_runs import assert_identical

from trials.outcome import Outcome
from trials.processes import (
    patience,
    started,
    train_command,
    train_words,
    wait_for,
    wait_for_end,
    workers_of,
)

NUM_ITERATIONS = 16
MEANS = (
    "the run resumes and ends; weights, optimizer and schedule are bit-identical to the run that "
    "nobody killed; no temporary file and no process is left; no iteration is logged twice"
)


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Kill `count` trainings: both systems, one process and two, half of them while they save."""
    draw, outcome = random.Random(seed), Outcome()
    whole: dict[tuple[str, int], Path] = {}
    for case in range(count):
        system, processes = ("unified", "cops")[case % 2], 1 + case // 2 % 2
        writing = case // 4 % 2 == 0
        name = (
            f"{case} ({system}, {processes} process(es), {'saving' if writing else 'any moment'})"
        )
        if (system, processes) not in whole:
            whole[system, processes] = reference(folder, system, processes)
        try:
            torn = kill_and_resume(
                folder / f"kill{case}", whole[system, processes], system, processes, writing, draw
            )
        except (AssertionError, subprocess.TimeoutExpired) as error:
            outcome.record(name, str(error))
        else:
            outcome.record(name, None, "in the middle of a file" if torn else "between files")
    return outcome


def reference(folder: Path, system: str, processes: int) -> Path:
    """The run that nobody kills."""
    out = folder / f"whole_{system}_{processes}"
    finish(train_words(folder / "data", out, NUM_ITERATIONS, system, period=1), processes, False)
    return out


def finish(words: list[str], processes: int, resume: bool) -> None:
    """Train to the end; an AssertionError shows the end of the log."""
    out = Path(words[words.index("OUTPUT_DIR") + 1])
    log = out.with_name(f"{out.name}.txt")
    with started(train_command(words, processes, resume), log, out) as process:
        status = process.wait(timeout=patience(300))
    assert status == 0, f"status {status}: {log.read_text()[-600:]}"


def kill_and_resume(
    out: Path, whole: Path, system: str, processes: int, writing: bool, draw: random.Random
) -> bool:
    """Kill one run and resume it.

    Args:
        out: its folder.
        whole: folder of the run to compare with.
        system: "unified" or "cops".
        processes: 1 or 2; of two, the launcher or one of the workers is killed.
        writing: wait for a checkpoint's temporary file.
        draw: chooses the moment and the process.

    Returns:
        Whether a half-written checkpoint was left.
    """
    words = train_words(out.parent / "data", out, NUM_ITERATIONS, system, period=1)
    iteration = draw.randrange(NUM_ITERATIONS - 1)
    delay = draw.uniform(0, 0.003) if writing else draw.uniform(0, 0.3)
    victim = draw.randrange(3)
    with started(train_command(words, processes), out.with_suffix(".killed.txt"), out) as process:
        wait_for(out / "last_checkpoint", process)  # from here on there is something to lose
        victims = [process.pid, *workers_of(out)]
        if writing:
            # A shell's glob takes too long to look for one name.
            name = f".model_{iteration:07d}.pth."
            while process.poll() is None and not newest(out, iteration, name):
                time.sleep(0.0003)
        else:
            while process.poll() is None and not newest(out, iteration):
                time.sleep(0.005)
        time.sleep(delay)
        if process.poll() is None:
            os.kill(victims[victim % len(victims)], signal.SIGKILL)
        process.wait(timeout=patience(60))
        assert wait_for_end(out, patience(30)), "processes are left after the kill"
    torn = any(out.glob(".model_*.tmp"))
    finish(words, processes, resume=True)
    compare(out, whole)
    return torn


def newest(out: Path, iteration: int, temporary: str = "") -> bool:
    """Whether the run has come to an iteration, or is about to save it."""
    names = os.listdir(out)
    if temporary and any(name.startswith(temporary) for name in names):
        return True
    later = f"model_{iteration + (1 if temporary else 0):07d}.pth"
    return any(later <= name and name.startswith("model_") for name in names)


def compare(out: Path, whole: Path) -> None:
    """AssertionError unless the state is the same to the last bit, and the folder is tidy."""
    ours, theirs = (
        torch.load(place / "model_final.pth", weights_only=True) for place in (out, whole)
    )
    for key in ("iteration", "seed", "model", "optimizer", "scheduler"):
        assert_identical(ours[key], theirs[key], key)
    assert not list(out.glob(".*.tmp")), "a temporary file is left"
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    logged = [line["iteration"] for line in lines if "total_loss" in line]
    assert len(set(logged)) == len(logged), f"an iteration is logged twice: {logged}"
