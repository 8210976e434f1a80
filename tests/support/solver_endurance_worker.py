"""What test_endurance.py does in other processes: `python FILE FUNCTION ARGUMENT...`.

Memory, threads, signals, forks and the cache of compiled kernels belong to a process. The one
that runs the tests has much else in it. Each function prints one line of JSON at its end, and one
says "ready" before it is to be interrupted.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

from cops.solver import METHODS, Result, counting, solve_amwc, solve_many, solve_mwc
from cops.solver.greedy import algorithm as greedy
from cops.solver.greedy import contraction
from cops.solver.planted import planted_problem


def small_problem(seed: int, height: int = 6, width: int = 8) -> dict[str, Any]:
    fields = planted_problem(seed, height, width, 4, (1, 2), noise=3.0, num_things=2)._asdict()
    if seed % 2:
        del fields["partitionable"]
    return fields


def digest(results: list[Result]) -> str:
    """A fingerprint of results, to the last bit."""
    sha = hashlib.sha256()
    for result in results:
        for array in result[:3]:
            sha.update(repr((array.dtype, array.shape)).encode() + array.tobytes())
        sha.update(result.energy.hex().encode())
    return sha.hexdigest()


def peak_kilobytes() -> int:
    """The most memory this process has had in use at a time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def solve_for_long(num_solves: str, how: str, leaked_bytes: str = "0") -> dict[str, Any]:
    """Growth of the peak memory and of the number of threads over many solves after a warm-up.

    Args:
        num_solves: with each method.
        how: "one by one" or "threads".
        leaked_bytes: are lost on purpose with each solve, to see whether that is noticed.
    """
    problems = [small_problem(seed) for seed in range(10)]
    lost = []

    def solve(count: int) -> None:
        for begin in range(0, count, 100):
            for method in METHODS:
                tasks = [problems[i % 10] | {"method": method} for i in range(begin, begin + 100)]
                if how == "threads":
                    solve_many(tasks, 2)
                else:
                    for task in tasks:
                        (solve_amwc if "partitionable" in task else solve_mwc)(**task)
                lost.append(np.ones(100 * int(leaked_bytes), dtype=np.uint8))

    solve(1000)
    lost.clear()
    # Loading has left free memory behind, in which a leak could hide: fill that.
    start, ballast = peak_kilobytes(), []
    while peak_kilobytes() < start + 512:
        ballast.append(np.ones(8192, dtype=np.uint8))
    solve(200)
    lost.clear()
    before = peak_kilobytes()
    solve(int(num_solves))
    return {"kilobytes": peak_kilobytes() - before, "threads": threading.active_count()}


def solve_until_interrupted(num_threads: str, height: str, width: str, method: str) -> dict:
    """Solve 200 problems; says when KeyboardInterrupt came up, by the monotonic clock."""
    problem = planted_problem(0, int(height), int(width), noise=3.0)._asdict() | {"method": method}
    solve_many([problem], 1)  # compiled and loaded
    begun = time.monotonic()
    solve_many([problem], 1)
    alone = time.monotonic() - begun
    print("ready", flush=True)
    try:
        solve_many([problem] * 200, int(num_threads))
    except KeyboardInterrupt:
        return {"interrupted": time.monotonic(), "alone": alone}
    return {"interrupted": None, "alone": alone}


def interrupt_in_the_middle(height: str, width: str, method: str) -> dict[str, Any]:
    """Interrupt one solve when half is done; seconds of the processor until that comes up."""
    problem = planted_problem(0, int(height), int(width), noise=3.0)._asdict()
    solve_amwc(**problem, method=method)
    begun = time.process_time()
    solve_amwc(**problem, method=method)
    alone = time.process_time() - begun
    sent = 0.0

    def send() -> None:
        nonlocal sent
        while time.process_time() < begun + 0.5 * alone:
            time.sleep(0.002)
        sent = time.process_time()
        os.kill(os.getpid(), signal.SIGINT)

    begun = time.process_time()
    try:
        threading.Thread(target=send).start()
        solve_amwc(**problem, method=method)
    except KeyboardInterrupt:
        return {"waited": time.process_time() - sent, "alone": alone}
    return {"waited": alone, "alone": alone}


def survive_interrupts(how_many: str, method: str) -> dict[str, Any]:
    """Be interrupted at all sorts of moments of a solve, in the thread that called it."""
    problem = planted_problem(0, 64, 128, noise=3.0)._asdict()
    solve_amwc(**problem, method=method)
    delays = np.random.default_rng(0).uniform(0.001, 0.03, int(how_many))
    count = 0
    for delay in delays:
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while True:
                solve_amwc(**problem, method=method)
        except KeyboardInterrupt:
            count += 1
    return {"interrupts": count}


def solve_cold(method: str, types: str) -> dict[str, Any]:
    """Solve with kernels that may have to be compiled; how long that took, and how many were not.

    Args:
        types: of the costs, in the order in which they are solved, "float32,float64" for example.
    """
    begun = time.monotonic()
    results = []
    for name in types.split(","):
        problem = small_problem(0)
        for key in ("node_costs", "edge_costs"):
            problem[key] = np.round(problem[key]).astype(name)
        results.append(solve_amwc(**problem, method=method))
    seconds = time.monotonic() - begun
    kernels = (contraction._fill, greedy._contract_all, counting.number_clusters)
    loaded = sum(sum(kernel.stats.cache_hits.values()) for kernel in kernels)
    return {"digest": digest(results), "seconds": seconds, "loaded": loaded}


def _solve_small(seed: int) -> Result:
    return solve_many([small_problem(seed) | {"method": "multilevel"}] * 4, 2)[0]


def solve_in_forks() -> dict[str, Any]:
    """Results of this process, of its forks, and whether they came back whole."""
    here = [_solve_small(seed) for seed in range(8)]  # threads have run, kernels are loaded
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map_async(_solve_small, range(8)).get(timeout=60)
    whole = all(type(r) is Result for r in there)
    return {"here": digest(here), "there": digest(there), "whole": whole}


if __name__ == "__main__":
    # A process that a shell has started in the background ignores Ctrl-C, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
