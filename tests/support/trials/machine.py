"""What long runs and busy machines do: memory, mutated pickles, and steps beside other work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from project import ROOT

from trials.outcome import Outcome
from trials.processes import ENVIRONMENT

SUPPORT = ROOT / "tests/support"
KILOBYTES = 2000  # the limit of tests/cops/solver/test_endurance.py, for the same reasons
USER_FACTOR = 3.0  # of user time per step beside two busy processes, against a quiet machine
MEANS = {
    "pickles": "read as numeric arrays that the file holds, or refused; no crash, 2 s and 400 MB",
    "solves": f"the peak memory of each method grows by less than {KILOBYTES} kB after a warm-up",
    "inferences": f"the memory of a system grows by less than {KILOBYTES} kB after a warm-up",
    "load": "with two threads beside two busy processes a step takes less than "
    f"{USER_FACTOR:g} times the user time that it takes without them",
}


def call(program: str, *words: str, unset: Sequence[str] = (), **environment: str) -> str:
    """Run a program of tests/support; an AssertionError shows how it failed."""
    kept = {name: value for name, value in ENVIRONMENT.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / program), *words],
        cwd=ROOT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-600:]}"
    return done.stdout.strip()


def run_pickles(count: int, seed: int, folder: Path) -> Outcome:
    """Give `count` mutated pickles to the reader of .pkl files, in processes of 1000 each."""
    outcome = Outcome()
    for begin in range(0, count, 1000):
        number = min(1000, count - begin)
        try:
            read, refused = map(
                int, call("array_pickle_fuzzer.py", str(seed + begin), str(number)).split()
            )
            problem = None if read + refused == number else f"{read} + {refused} of {number}"
        except AssertionError as error:
            read, refused, problem = 0, number, str(error)
        for kind, how_many in (("read", read), ("refused", refused)):
            for _ in range(how_many):
                outcome.record(f"seed {seed + begin}", problem, kind)
                problem = None  # one failure for the process
    return outcome


def run_solves(count: int, seed: int, folder: Path) -> Outcome:
    """Solve `count` problems with each method, one by one and on threads."""
    outcome = Outcome()
    for how in ("one by one", "threads"):
        found = json.loads(call("solver_endurance_worker.py", "solve_for_long", str(count), how))
        grown = found["kilobytes"]
        outcome.record(how, f"grows by {grown} kB" if grown >= KILOBYTES else None)
        outcome.counts[f"kB, {how}"] = grown
    return outcome


def run_inferences(count: int, seed: int, folder: Path) -> Outcome:
    """Predict `count` images with each system, and look at the memory."""
    outcome = Outcome()
    for system in ("unified", "cops"):
        grown = int(call("endurance_worker.py", "infer", system, str(count), str(seed)))
        outcome.record(system, f"grows by {grown} kB" if grown >= KILOBYTES else None)
        outcome.counts[f"kB, {system}"] = grown
    return outcome


def run_load(count: int, seed: int, folder: Path) -> Outcome:
    """User time per training step, alone and beside two processes that compute; best of `count`."""
    outcome = Outcome()
    for system in ("unified", "cops"):
        quiet = min(user_seconds(system, seed) for _ in range(count))
        busy = [start_busy() for _ in range(2)]
        try:
            loaded = min(user_seconds(system, seed) for _ in range(count))
        finally:
            for process in busy:
                process.kill()
                process.wait()
        factor = loaded / quiet
        outcome.record(system, f"{factor:.1f} times" if factor > USER_FACTOR else None)
        outcome.counts[f"% of the user time, {system}"] = round(100 * factor)
    return outcome


def user_seconds(system: str, seed: int) -> float:
    """User time of 20 training steps with two threads; a user's own OMP settings do not count."""
    words = ("endurance_worker.py", "train", system, "20", str(seed))
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # an empty one would be a user's choice, too
    return float(call(*words, unset=own, OMP_NUM_THREADS="2"))


def start_busy() -> subprocess.Popen[Any]:
    """A process that computes without end."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])
