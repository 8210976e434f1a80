#!/usr/bin/env python3
"""Time and energy of starts from the image before, on a planted "video" that moves sideways.

    python tools/studies/warm_start.py
    python tools/studies/warm_start.py --size 128 256 --noise 3 --shift 2 --frames 20

Each frame is a window of one wide planted layout (`cops.solver.planted`), `--shift` columns further
right than the last. It has fresh noise of its own besides. The labels of the last frame are the
start of the next, as they are: nothing is shifted to fit. Cold and warm solves of one frame follow
one another; times are processor time. "gain" is cold's energy minus warm's, in percent of cold's
magnitude: + means that the start has helped. AMWC has the classes and the edges of the layout,
multicut its edges alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tabulate import tabulate

from cops.solver import solve_amwc, solve_multicut
from cops.solver.planted import grid_edges, planted_problem
from cops.solver.problem import Problem
from panoptic_tools.value_types import finite

FRESH = 0.2  # share of the noise that is another in each frame
DISTANCES = (1, 4, 16, 32, 64, 128)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs=2, type=int, default=[256, 512], metavar=("H", "W"))
    parser.add_argument("--noise", nargs="+", type=finite, default=[1.0, 3.0, 6.0])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--shift", type=int, default=4, help="columns from frame to frame")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def make_frames(options: argparse.Namespace, noise: float) -> list[Problem]:
    """Cut the frames out of one wide problem."""
    height, width = options.size
    wide = width + options.shift * options.frames
    whole = planted_problem(options.seed, height, wide, distances=DISTANCES, noise=noise)
    rng = np.random.default_rng(options.seed)
    number = np.arange(height * wide).reshape(height, wide)
    edges = grid_edges(height, width, DISTANCES)
    row, column = whole.edges[:, 0] // wide, whole.edges[:, 0] % wide
    other = whole.edges[:, 1] % wide
    frames = []
    for frame in range(options.frames):
        left = options.shift * frame
        inside = (column >= left) & (other < left + width) & (row >= 0)
        node_costs = whole.node_costs[number[:, left : left + width].ravel()]
        node_costs = node_costs + FRESH * noise * rng.normal(size=node_costs.shape)
        costs = whole.edge_costs[inside]
        costs = costs + 0.5 * FRESH * noise * rng.normal(size=len(costs))
        frames.append(
            Problem(
                node_costs.astype(np.float32), edges, costs.astype(np.float32), whole.partitionable
            )
        )
    return frames


def timed(solve: Callable[[], Any]) -> tuple[Any, float]:
    """Solve, and take the processor time."""
    begin = time.process_time()
    return solve(), time.process_time() - begin


def spread(middle: Callable[[list[float]], float], values: list[float], form: str) -> str:
    """Write the middle of values, and their range."""
    return f"{middle(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def compare(frames: list[Problem], warm_refine: int, multicut: bool) -> dict[str, Any]:
    """Solve all frames but the first cold and warm; sum up."""

    def solve(frame: Problem, start: Any, refine: int) -> Any:
        if multicut:
            labels = start and start.labels
            return solve_multicut(*frame[1:3], method="multilevel", start=labels, refine=refine)
        start = start and start[:2]
        return solve_amwc(*frame, method="multilevel", start=start, refine=refine)

    last = solve(frames[0], None, 1)
    solve(frames[0], last, 1)
    cold_times, warm_times, gains = [], [], []
    for frame in frames[1:]:
        cold, cold_time = timed(lambda frame=frame: solve(frame, None, 1))
        last, warm_time = timed(lambda frame=frame, last=last: solve(frame, last, warm_refine))
        cold_times.append(cold_time)
        warm_times.append(warm_time)
        gains.append(100.0 * (cold.energy - last.energy) / abs(cold.energy))
    ratios = [a / b for a, b in zip(cold_times, warm_times, strict=True)]
    return {
        "cold ms": f"{1e3 * statistics.median(cold_times):.0f}",
        "warm ms": f"{1e3 * statistics.median(warm_times):.0f}",
        "times as fast": spread(statistics.median, ratios, ".2f"),
        "gain %": spread(statistics.fmean, gains, "+.4f"),
        "last frame's gain %": f"{gains[-1]:+.4f}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    options = parse_args(arguments)
    rows = []
    for noise in options.noise:
        frames = make_frames(options, noise)
        for multicut in (False, True):
            for refine in (1, 2):
                kind = "multicut" if multicut else "AMWC"
                row = {"problem": kind, "noise": noise, "cycles of the warm solve": refine}
                rows.append(row | compare(frames, refine, multicut))
                print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
