"""Many problems on threads: results in order, whatever the number of threads; the first error."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial

import numpy as np
import pytest
from project import ROOT

from cops.solver import parallel, solve_amwc, solve_many, solve_mwc
from cops.solver.parallel import Workers, call_beside, run_all
from cops.solver.planted import planted_problem


@pytest.fixture(scope="module")
def problems():
    """Problems of different sizes, AMWC and MWC."""
    made = []
    for seed in range(9):
        problem = planted_problem(seed, 8 + 3 * seed, 20, 5, (1, 4), noise=4.0, num_things=4)
        fields = problem._asdict()
        if seed % 3 == 0:
            del fields["partitionable"]
        made.append(fields)
    return made


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8, 30])
def test_results_do_not_depend_on_the_number_of_threads(problems, num_threads):
    results = solve_many(problems, num_threads)
    assert len(results) == len(problems)
    for fields, result in zip(problems, results, strict=True):
        solve = solve_amwc if "partitionable" in fields else solve_mwc
        for ours, theirs in zip(result, solve(**fields), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_nothing_to_solve():
    assert solve_many([], 2) == []


def test_options_are_part_of_a_problem(problems):
    with pytest.raises(ValueError, match="not 'fast'"):
        solve_many([problems[1] | {"method": "fast"}], 1)


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_the_first_error_is_raised_and_says_what_it_says(problems, num_threads):
    broken = [dict(p) for p in problems]
    broken[5]["node_costs"] = np.full_like(broken[5]["node_costs"], np.nan)
    broken[7]["edge_costs"] = broken[7]["edge_costs"][:-1]
    with pytest.raises(ValueError, match="is NaN"):
        solve_many(broken, num_threads)


def test_after_an_error_no_further_task_begins():
    begun = []

    def task(number: int):
        begun.append(number)
        if number == 0:
            raise RuntimeError("first")
        time.sleep(0.01)

    with pytest.raises(RuntimeError, match="first"):
        run_all([lambda n=n: task(n) for n in range(200)], 2)
    time.sleep(0.05)
    assert len(begun) < 100


def test_tasks_run_side_by_side():
    # Each waits for the other: one thread alone would wait for ever.
    barrier = threading.Barrier(2, timeout=20)
    assert sorted(run_all([barrier.wait, barrier.wait], 2)) == [0, 1]


@pytest.mark.parametrize("num_threads", [0, -1])
def test_a_number_of_threads_is_positive(num_threads):
    with pytest.raises(ValueError, match="at least 1"):
        solve_many([], num_threads)


def test_one_thread_beside_serves_call_after_call():
    threads = {call_beside(threading.current_thread) for _ in range(5)}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_what_a_task_holds_is_let_go_when_it_is_done():
    held = np.zeros(3)
    watched = weakref.ref(held)
    task = partial(np.sum, held)
    assert call_beside(task) == 0.0
    del task, held
    assert watched() is None


def test_after_an_interrupt_the_next_task_does_not_wait_for_the_last():
    go_on = threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of `&` ignores it

    def last():
        _thread.interrupt_main()
        return go_on.wait(20)

    try:
        with pytest.raises(KeyboardInterrupt):
            call_beside(last)
        begun = time.monotonic()
        assert call_beside(lambda: 7) == 7
        assert time.monotonic() - begun < 10
    finally:
        go_on.set()
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_many_is_answered_at_once_and_no_further_one_begins():
    go_on = threading.Event()
    begun = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def task(number: int):
        begun.append(number)
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        go_on.wait(20)

    try:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run_all([partial(task, number) for number in range(9)], 2)
        assert time.monotonic() - start < 10
    finally:
        go_on.set()
        signal.signal(signal.SIGINT, before)
    time.sleep(0.1)
    assert len(begun) == 2
    assert run_all([lambda: 1, lambda: 2], 2) == [1, 2]


def test_few_threads_stay_idle():
    run_all([partial(time.sleep, 0.01)] * 40, 20)
    time.sleep(0.1)
    assert len(parallel._IDLE) <= parallel.MAX_IDLE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_solves():
    """Threads are not copied: waiting for the parent's would last for ever."""
    program = """
import os, signal
from cops.solver.parallel import call_beside
call_beside(int)
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(call_beside(lambda: 5))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "5"


def test_the_same_threads_help_in_all_phases_of_a_solve():
    barrier = threading.Barrier(3)

    def thread() -> int:
        barrier.wait(20)  # so that each of three threads takes one
        return threading.get_ident()

    with Workers(3) as workers:
        phases = [set(workers.run([thread] * 3)) for _ in range(4)]
    assert len(phases[0]) == 3 and all(phase == phases[0] for phase in phases)
    with pytest.raises(ZeroDivisionError), Workers(2) as workers:
        workers.run([partial(divmod, 1, 0), partial(divmod, 1, 1)] * 4)
    # Without a context nobody would let helpers go, so they are idle after each phase.
    assert Workers(2).run([partial(divmod, n, 3) for n in range(5)]) == [
        divmod(n, 3) for n in range(5)
    ]
    assert len(parallel._IDLE) <= parallel.MAX_IDLE
