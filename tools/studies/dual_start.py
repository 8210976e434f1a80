#!/usr/bin/env python3
"""What "auto" gains on multicuts by a start from the costs that cycles leave, and what it takes.

    python tools/studies/dual_start.py
    python tools/studies/dual_start.py --heights 64 --noise 6 --seeds 20 21 22 23

Planted grids (`cops.solver.planted`, the edges alone) and Delaunay triangulations of random points,
whose edges join what lies nearest to the same of some random centres. Each is solved by "auto"
without this start, with it, and with another one in its place. That one is the control, as any
further start gains something: the costs with a tenth of their mean magnitude as noise. Processor
time, the shorter one of two; changes are against no such start, in percent of the energy.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from cops.solver import solve_multicut
from cops.solver.multilevel import auto
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem
from panoptic_tools.arguments import make_parser, require_at_least
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.value_types import finite

JITTER = 0.1
POINTS_PER_CENTRE = 50


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--heights", nargs="*", type=int, default=[32, 64, 96], help="of grids, twice as wide")
    add("--noise", nargs="+", type=finite, default=[2.0, 3.0, 4.0, 6.0], help="of the grids")
    add("--points", nargs="*", type=int, default=[2000, 20000], help="of the triangulations")
    add("--point-noise", nargs="+", type=finite, default=[0.7, 1.0, 2.0])
    add("--seeds", nargs="+", type=int, default=[20, 21, 22, 23])
    parsed = parser.parse_args(words)
    require_at_least(parser, parsed, 4, "heights", "points")
    require_at_least(parser, parsed, 0, "noise", "point_noise", "seeds")
    return parsed


def triangulation(points: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make edges (E, 2) and costs (E,): +1 within a cell of a centre, -1 between, plus noise."""
    rng = np.random.default_rng(seed)
    places = rng.random((points, 2))
    corners = Delaunay(places).simplices
    pairs = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])
    edges = np.unique(np.sort(pairs, axis=1), axis=0).astype(np.int32)
    nearest = cKDTree(rng.random((max(points // POINTS_PER_CENTRE, 1), 2))).query(places)[1]
    same = nearest[edges[:, 0]] == nearest[edges[:, 1]]
    costs = np.where(same, 1.0, -1.0) + noise * rng.normal(size=len(edges))
    return edges, costs.astype(np.float32)


def all_problems(
    options: argparse.Namespace,
) -> Iterator[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """Yield the name of each kind, and edges and costs by seed."""
    for height in options.heights:
        size = (height, 2 * height)
        for noise in options.noise:
            made = [planted_problem(seed, *size, noise=noise) for seed in options.seeds]
            name = f"grid {size[0]}x{size[1]}, noise {noise:g}"
            yield name, [(problem.edges, problem.edge_costs) for problem in made]
    for points in options.points:
        for noise in options.point_noise:
            name = f"{points} points, noise {noise:g}"
            yield name, [triangulation(points, noise, seed) for seed in options.seeds]


def no_start(problem: Problem, *others: Any) -> Any:
    """Stand for `auto._contract_after_cycles`: what there was stays."""
    return others[2]


def jittered(problem: Problem, *others: Any) -> tuple[np.ndarray, np.ndarray]:
    """Stand for `costs_after_cycles`: the costs with noise."""
    noise = np.random.default_rng(0).normal(size=len(problem.edge_costs))
    size = JITTER * np.abs(problem.edge_costs).mean()
    return problem.edges, (problem.edge_costs + size * noise).astype(np.float32)


def solve(edges: np.ndarray, costs: np.ndarray) -> tuple[float, float]:
    """Return the energy by "auto", and the processor seconds."""
    seconds = []
    for _ in range(2):
        begin = time.process_time()
        energy = solve_multicut(edges, costs).energy
        seconds.append(time.process_time() - begin)
    return energy, min(seconds)


def compare(problems: list[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """Solve the problems of a kind in three ways; return what the columns say."""
    without, with_it, control = [], [], []
    for problem in problems:
        with mock.patch.object(auto, "_contract_after_cycles", no_start):
            without.append(solve(*problem))
        with_it.append(solve(*problem))
        with mock.patch.object(auto, "costs_after_cycles", jittered):
            control.append(solve(*problem))
    columns = [f"{1e3 * statistics.median(seconds for _, seconds in without):.0f}"]
    for found in (with_it, control):
        pairs = list(zip(without, found, strict=True))
        changes = [100.0 * (new - old) / max(abs(old), 1e-30) for (old, _), (new, _) in pairs]
        times = [new / old for (_, old), (_, new) in pairs]
        columns += [spread(changes, "+.3f"), spread(times, ".2f")]
    return columns


def spread(values: list[float], form: str) -> str:
    """Write the mean of values, and their range."""
    return f"{statistics.fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main(words: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = parse_arguments(words)
    problem = planted_problem(0, 32, 64, noise=6.0)
    solve(problem.edges, problem.edge_costs)  # loads the kernels
    rows = []
    for name, problems in all_problems(options):
        rows.append([name, *compare(problems)])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    headings = ("", "ms without", "after cycles, %", "time", "with noise, %", "time")
    print(markdown_table(headings, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
