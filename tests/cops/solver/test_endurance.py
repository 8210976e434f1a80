"""The solver over a long time and beside others: memory, Ctrl-C, threads, forks, the shared cache.

What needs a process of its own is done by solver_endurance_worker.py. Figures that a slow machine
could miss have a margin of several times what they were measured to be.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import solver_endurance_worker as worker
from project import ROOT

import cops.solver.parallel as parallel
from cops.solver import METHODS, Result, solve_amwc, solve_many

# Less than this was not seen to be gained in 20,000 solves: it is 100 bytes each.
KILOBYTES = 2000


def start(function: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(Path(worker.__file__)), function, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def compiled():
    """All kernels that the workers need are in the cache: compiling takes memory and time."""
    for seed in range(2):
        for method in METHODS:
            solve_many([worker.small_problem(seed) | {"method": method}], 1)


# Memory.


@pytest.mark.parametrize("how", ["one by one", "threads"])
def test_ten_thousand_solves_with_each_method_leave_nothing_behind(how, compiled):
    found = finish(start("solve_for_long", "10000", how))
    assert found["kilobytes"] < KILOBYTES
    kept = 1 if how == "one by one" else parallel.MAX_IDLE
    assert found["threads"] <= 1 + kept  # the main one, and those that are kept beside it


def test_a_leak_of_a_few_hundred_bytes_would_be_seen(compiled):
    assert finish(start("solve_for_long", "4000", "one by one", "600"))["kilobytes"] > KILOBYTES


# Ctrl-C.


@pytest.mark.parametrize(
    ("method", "num_threads", "height", "width"),
    [("greedy", "1", 128, 256), ("greedy", "2", 128, 256), ("multilevel", "2", 256, 512)],
)
def test_an_interrupt_waits_for_the_solves_under_way_only(
    method, num_threads, height, width, compiled
):
    process = start("solve_until_interrupted", num_threads, str(height), str(width), method)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", finish(process)
    time.sleep(0.5)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    found = finish(process)
    assert found["interrupted"] is not None, "all was solved before the signal"
    # Of 200 solves: as many as there are threads, and a margin for a machine that does other work.
    assert found["interrupted"] - sent < 6.0 * found["alone"] + 1.0


@pytest.mark.parametrize("method", ["greedy", "multilevel"])
def test_interrupts_at_any_moment_of_a_solve_are_survived(method, compiled):
    assert finish(start("survive_interrupts", "60", method)) == {"interrupts": 60}


def test_an_interrupt_does_not_wait_for_a_long_solve(compiled):
    found = finish(start("interrupt_in_the_middle", "192", "384", "greedy"))
    assert found["waited"] < 0.2 * found["alone"]


def test_an_interrupt_while_tasks_are_handed_out(monkeypatch):
    """The first of two threads has begun with them by then."""
    begun, handed_out = [], []
    begin = parallel._begin

    def begin_one(run):
        if handed_out:
            raise KeyboardInterrupt
        handed_out.append(begin(run))
        return handed_out[0]

    def task(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)

    tasks = [lambda n=n: task(n) for n in range(100)]
    monkeypatch.setattr(parallel, "_begin", begin_one)
    with pytest.raises(KeyboardInterrupt):
        parallel.run_all(tasks, 2)
    assert handed_out[0].acquire(timeout=60)  # its thread has come to an end
    assert len(begun) < 50


# Beside others.


def assert_equal(ours: Result, theirs: Result) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_problems_from_many_threads_at_once():
    problems = [
        worker.small_problem(seed, 12, 16) | {"method": method}
        for seed in range(20)
        for method in METHODS
    ]
    expected = solve_many(problems, 1)
    barrier = threading.Barrier(5, timeout=60)
    found: dict[int, list[Result]] = {}

    def solve_all(caller: int) -> None:
        barrier.wait()
        # Some callers bring threads of their own, and all read the same arrays.
        found[caller] = solve_many(problems, 1 + caller % 3)

    callers = [threading.Thread(target=solve_all, args=(caller,)) for caller in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(found) == [0, 1, 2, 3, 4]
    for results in found.values():
        for ours, theirs in zip(results, expected, strict=True):
            assert_equal(ours, theirs)


def test_a_result_is_no_view_of_the_input_or_of_another_result():
    problem = worker.small_problem(0)
    for method in METHODS:
        first, second = (solve_amwc(**problem, method=method) for _ in range(2))
        kept = [np.copy(array) for array in first]
        for array in second[:3]:
            array[:] = 0
        problem["node_costs"] = problem["node_costs"] + 1.0
        assert_equal(first, Result(*kept[:3], float(kept[3])))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_results_travel(protocol):
    result = solve_amwc(**worker.small_problem(0))
    copy = pickle.loads(pickle.dumps(result, protocol))
    assert type(copy) is Result and isinstance(copy.energy, float)
    assert [a.dtype for a in copy[:3]] == [a.dtype for a in result[:3]]
    assert_equal(copy, result)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_of_a_process_that_has_solved_on_threads(compiled):
    found = finish(start("solve_in_forks"))
    assert found["whole"]
    assert found["there"] == found["here"]


# The cache of compiled kernels.


@pytest.mark.slow  # two processes compile all kernels of a method
def test_two_processes_fill_one_cache_at_the_same_time(tmp_path):
    both = [start("solve_cold", "greedy", "float32", NUMBA_CACHE_DIR=str(tmp_path)) for _ in "12"]
    first, second = (finish(process) for process in both)
    third = finish(start("solve_cold", "greedy", "float32", NUMBA_CACHE_DIR=str(tmp_path)))
    assert first["digest"] == second["digest"] == third["digest"]
    assert min(first["loaded"], second["loaded"]) == 0  # at least one found an empty cache
    assert third["loaded"] == 3
    assert third["seconds"] < min(first["seconds"], second["seconds"]) / 2


KERNEL = """
from package._jit import jit

@jit
def advance(x):
    return x + {step}
"""
KILLED = """
import os
from numba.core.caching import IndexDataCacheFile
IndexDataCacheFile._save_data = lambda *arguments: os._exit(9)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_no_old_kernel(tmp_path):
    """Numba writes into the index first that there is a kernel, then the kernel.

    Who is killed between the two leaves an index that names the file of an older kernel, if there
    still is one. It would be used without a word.
    """
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(ROOT / "cops/solver/_jit.py", package)

    def call(before: str = "") -> tuple[int, str]:
        program = before + "from package.kernel import advance; print(advance(1))"
        run = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
        )
        return run.returncode, run.stdout.strip()

    (package / "kernel.py").write_text(KERNEL.format(step=1))
    assert call() == (0, "2")
    (package / "kernel.py").write_text(KERNEL.format(step=20))
    assert call(KILLED) == (9, "")
    assert call() == (0, "21")
