#!/usr/bin/env python3
"""Where the time of one solve goes, and how much of it threads share.

    python tools/studies/solver_threads.py
    python tools/studies/solver_threads.py --sizes 1024x2048 --noise 1 3 --repeat 3 --wall
    python tools/studies/solver_threads.py --method auto

Planted problems, "multilevel", or "auto" by `--method`: then phases are those of all cycles, and
what it does besides is in the whole only. One thread solves, and its processor time is taken in all
and in each phase. Then it does alone what t threads would do, and the time of each block is taken
that `cops.solver.parallel.Workers` hands out. From these follows the *critical path* with t
threads. It is what is left in sequence, and the busiest thread of each phase; whoever is free takes
the next block. That says what t idle cores would gain, also on a machine that is busy. `--wall`
measures seconds with 1 and t threads as well, one after the other and the best of all: on busy
cores they say less. Of `--repeat` solves the fastest counts.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from tabulate import tabulate

from cops import solver
from cops.solver.multilevel import algorithm, parts
from cops.solver.parallel import Workers
from cops.solver.planted import planted_problem
from panoptic_tools.arguments import orderly
from panoptic_tools.value_types import finite

# What is timed as a phase: where a function is called from, and its name in the table.
PHASES: list[tuple[Any, str, str]] = [
    (solver, "survey_problem", "checks"),
    (algorithm, "input_graph", "graph"),
    (algorithm, "_sweep_ranges", "first sweep"),
    (algorithm, "contract", "contraction"),
    (algorithm, "move_freely", "coarse moves"),
    (algorithm, "move_constrained", "moves"),
    (algorithm, "split_clusters", "splits"),
    (algorithm, "find_restless", "restless"),
    (algorithm, "move_chains", "chains"),
    (algorithm, "move_parts", "parts"),
    (algorithm, "finish_best", "certificate"),
    (parts, "find_components", "(parts: components)"),
    (parts, "contract", "(parts: contraction)"),
    (parts, "move_constrained", "(parts: moves)"),
    (parts, "move_chains", "(parts: chains)"),
]

clock = time.thread_time


class Record:
    """Processor time of one solve on one thread.

    Attributes:
        seconds: of all.
        phases: of each phase.
        blocks: of each block of each call of `Workers.run`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.phases: dict[str, float] = defaultdict(float)
        self.blocks: list[list[float]] = []

    def path(self, num_threads: int) -> float:
        """Return the seconds of the critical path."""
        path = self.seconds
        for block in self.blocks:
            busy = [0.0] * num_threads
            for second in block:
                heapq.heapreplace(busy, busy[0] + second)
            path += max(busy) - sum(block)
        return path


@contextmanager
def recorded(record: Record) -> Iterator[None]:
    """Take the times of all that is solved inside, on the thread of the caller."""

    def run(self: Workers, tasks: list[Callable[[], Any]]) -> list[Any]:
        results, seconds = [], []
        for task in tasks:
            begin = clock()
            results.append(task())
            seconds.append(clock() - begin)
        record.blocks.append(seconds)
        return results

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begin = clock()
            try:
                return function(*arguments, **options)
            finally:
                record.phases[name] += clock() - begin

        return call

    replacements = [(m, name, timed(getattr(m, name), title)) for m, name, title in PHASES]
    replacements += [(Workers, "run", run), (solver, "call_beside", lambda task: task())]
    with ExitStack() as stack:
        for owner, name, function in replacements:
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def best_records(solve: Callable[..., Any], threads: list[int], repeat: int) -> list[Record]:
    """Solve some times as so many threads would, in turns; return the record of the fastest."""
    records: list[list[Record]] = [[] for _ in threads]
    for _ in range(repeat):
        for number, of_number in zip(threads, records, strict=True):
            record = Record()
            with recorded(record):
                begin = clock()
                solve(num_threads=number)
                record.seconds = clock() - begin
            of_number.append(record)
    return [min(of_number, key=lambda record: record.seconds) for of_number in records]


def wall_gain(solve: Callable[..., Any], num_threads: int, repeat: int) -> float:
    """Return the best wall time of one thread over that of several, measured in turns."""
    best = {1: float("inf"), num_threads: float("inf")}
    for _ in range(repeat):
        for threads in best:
            begin = time.perf_counter()
            solve(num_threads=threads)
            best[threads] = min(best[threads], time.perf_counter() - begin)
    return best[1] / best[num_threads]


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["256x512"], metavar="HxW")
    parser.add_argument("--noise", nargs="+", type=finite, default=[1.0, 3.0, 6.0])
    parser.add_argument("--method", choices=("multilevel", "auto"), default="multilevel")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 8], metavar="T")
    parser.add_argument("--wall", action="store_true", help="measure seconds as well")
    return parser.parse_args(arguments)


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Print a table: a column per problem."""
    options = parse_args(arguments)
    columns: list[dict[str, str]] = []
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        for noise in options.noise:
            problem = planted_problem(0, height, width, noise=noise)

            def solve(problem: Any = problem, **more: Any) -> Any:
                return solver.solve_amwc(*problem, method=options.method, **more)

            solve()
            record, *others = best_records(solve, [1, *options.threads], options.repeat)
            column = {"problem": f"{size}, {noise:g}", "all, ms": f"{1e3 * record.seconds:.1f}"}
            for _, _, title in PHASES:
                column[title] = f"{1e3 * record.phases[title]:.1f}"
            shared = sum(map(sum, record.blocks)) / record.seconds
            column["in blocks, %"] = f"{100 * shared:.0f}"
            for threads, other in zip(options.threads, others, strict=True):
                gain = record.seconds / other.path(threads)
                column[f"critical path, {threads} threads"] = f"{gain:.2f}"
                if options.wall:
                    gain = wall_gain(solve, threads, options.repeat)
                    column[f"wall, {threads} threads"] = f"{gain:.2f}"
            columns.append(column)
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    print(tabulate(rows[1:], headers=rows[0], tablefmt="github", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
