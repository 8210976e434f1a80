#!/usr/bin/env python3
"""How far from the optimum solutions of image size are, at most: gaps to a dual bound.

    python tools/studies/solver_gaps.py
    python tools/studies/solver_gaps.py --sizes 160x160 --noise 3 --seeds 0 1 2 --solves 50
    python tools/studies/solver_gaps.py --sizes --costs COSTS/scenes COSTS/nuclei

The bound (`cops.solver.bounds.dual_bound`) ascends pass by pass. Its processor time is compared
with that of one solve by "multilevel" (best of three) of the same problem. The last bound within
`--solves` times that counts, and no more than `--passes` are made. Gaps are those of the solvers'
energies to this bound, in percent of its magnitude. So they are limits of what is lost, by solution
and bound together. Planted problems are those of benchmark_solver.py. --costs takes folders of real
costs, which `benchmark_solver.py --dump FOLDER` writes. The table has the median over the problems
of a row, and the range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

from cops.solver import solve_amwc
from cops.solver.bounds import DualBound, dual_bound
from cops.solver.dual.bound import gap_percent
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem
from panoptic_common.files import write_json
from panoptic_tools.arguments import input_folder, make_parser, output_file
from panoptic_tools.studies.library.solver_problems import SIZES, load_problem
from panoptic_tools.value_types import finite

SOLVERS: dict[str, dict[str, Any]] = {
    "greedy": {"method": "greedy"},
    "multilevel": {"method": "multilevel"},
    "auto": {"method": "auto"},
}
BEST_OF = 3


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--sizes", nargs="*", choices=SIZES, default=["256x512"])
    add("--noise", nargs="+", type=finite, default=[1.0, 3.0, 6.0])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add("--costs", nargs="+", type=input_folder, default=[], metavar="FOLDER")
    add("--solves", type=finite, default=20.0, help="the bound's time, in solves by multilevel")
    add("--passes", type=int, default=64, help="of the bound, at most")
    add("--json", type=output_file, help="write all numbers here, too")
    options = parser.parse_args(arguments)
    if options.solves <= 0 or options.passes < 1:
        parser.error("--solves and --passes must be positive")
    for folder in options.costs:
        if not any(folder.glob("*.npz")):
            parser.error(f"{folder} holds no .npz: benchmark_solver.py --dump {folder} writes some")
    if not options.sizes and not options.costs:
        parser.error("nothing to solve: give --sizes or --costs")
    return options


def problems(options: argparse.Namespace) -> Iterator[tuple[str, str, Problem]]:
    """Yield the row, the name and the problem, made one at a time."""
    for size in options.sizes:
        *shape, num_things = SIZES[size]
        for noise in options.noise:
            for seed in options.seeds:
                problem = planted_problem(seed, *shape, noise, num_things=num_things)
                yield f"{size}, noise {noise:g}", f"seed {seed}", problem
    for folder in options.costs:
        for path in sorted(folder.glob("*.npz")):
            yield folder.name, path.stem, load_problem(path)


class _SpentError(Exception):
    """The bound's time is over."""


def bound_in_time(problem: Problem, seconds: float, passes: int, labels: Any) -> tuple[float, int]:
    """Return the best bound that is known after so much processor time, and its passes."""
    # Before the first pass the trivial bound is known.
    best = dual_bound(problem, 0, labels=labels).lower, 0
    begin = time.process_time()

    def note(done: int, lower: float) -> None:
        nonlocal best
        if time.process_time() - begin > seconds:
            raise _SpentError
        best = lower, done

    try:
        found: DualBound = dual_bound(problem, passes, labels=labels, progress=note)
    except _SpentError:
        return best
    return found.lower, found.passes


def measure(problem: Problem, options: argparse.Namespace) -> dict[str, Any]:
    """Solve and bound one problem."""
    results = {name: solve_amwc(*problem, **given) for name, given in SOLVERS.items()}
    times = []
    for _ in range(BEST_OF):
        begin = time.process_time()
        solve_amwc(*problem, **SOLVERS["multilevel"])
        times.append(time.process_time() - begin)
    allowed = options.solves * min(times)
    lower, passes = bound_in_time(problem, allowed, options.passes, results["multilevel"][:2])
    gaps = {name: gap_percent(lower, result.energy) for name, result in results.items()}
    return {"lower": lower, "passes": passes, "seconds": min(times), "gap_percent": gaps}


def spread(values: list[float]) -> str:
    """Write the median of values, and their range."""
    low, middle, high = (f"{f(values):.3g}" for f in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def sum_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the table: a row for each kind of problem."""
    table = []
    for name in dict.fromkeys(row["row"] for row in rows):
        of_row = [row for row in rows if row["row"] == name]
        summary: dict[str, Any] = {"problems": name, "number": len(of_row)}
        summary["passes"] = spread([row["passes"] for row in of_row])
        for solver in SOLVERS:
            gaps = [row["gap_percent"][solver] for row in of_row]
            summary[f"{solver}, gap %"] = spread(gaps)
        table.append(summary)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    options = parse_args(arguments)
    rows = []
    # Kernels are compiled or loaded before any time is taken.
    measure(planted_problem(0, *SIZES["16x24"][:4], noise=3.0), options)
    for row, name, problem in problems(options):
        rows.append({"row": row, "problem": name} | measure(problem, options))
        print(f"{row}, {name}: {rows[-1]['gap_percent']}", file=sys.stderr, flush=True)
    print(tabulate(sum_up(rows), headers="keys", tablefmt="github", disable_numparse=True))
    if options.json:
        write_json(options.json, {"solves": options.solves, "rows": rows}, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
