#!/usr/bin/env python3
"""Solve a multicut or asymmetric multiway cut problem in a file.

    panoptic-solve problem.txt
    panoptic-solve problem.txt.gz --bound --output labels.txt
    panoptic-solve problem.txt --convert problem.npz

FILE is text in the form of LPMP and RAMA (MULTICUT, or ASYMMETRIC MULTIWAY CUT), or the same with
gzip (.gz). Or it is an .npz archive of the arrays edges, edge_costs and either node_costs and
partitionable, or num_nodes. A positive cost is paid for cutting an edge: it keeps two nodes
together.

Prints nodes, edges, classes, clusters, energy and seconds. With --bound also a lower bound of all
energies, and how far above it the result is at most. --output writes one line per node: its
cluster, or its class and its cluster. Progress goes to stderr. Exit status: 0, or 2 if the file or
the command is wrong, which one sentence says.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

import numpy as np

from cops.solver import METHODS, solve_amwc, solve_multicut
from cops.solver.files import FileError, StoredProblem, read_problem, write_problem
from panoptic_common.files import naming, write_atomically
from panoptic_common.processes.scratch import scratch_folder
from panoptic_common.processes.stopping import end_at_once
from panoptic_tools.arguments import (
    input_file,
    make_parser,
    orderly,
    output_file,
    refuse,
    require_at_least,
)
from panoptic_tools.outputs import refuse_own_inputs


def problem_file(text: str) -> Path:
    """Take a regular file; a file is read whole, so none comes through a pipe."""
    try:
        return input_file(text)
    except argparse.ArgumentTypeError as error:
        path = Path(text)
        if text == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
            raise argparse.ArgumentTypeError(
                f"{text}: standard input, pipes and devices are not read: give a regular file"
            ) from error
        raise


class Solution(NamedTuple):
    """What is printed and written of a result; `classes` is None for multicut."""

    classes: np.ndarray | None
    clusters: np.ndarray
    energy: float
    seconds: float


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("file", type=problem_file, help="the problem")
    add("--method", choices=METHODS, default="auto")
    add("--refine", type=int, default=1, help="cycles of multilevel's refinement")
    add("--threads", type=int, default=1, help="the result does not depend on it")
    add("--bound", action="store_true", help="bound the distance to the optimum")
    add("--budget", type=int, default=20, help="passes of the bound; more make it no worse")
    add("--output", type=output_file, metavar="FILE", help="write the labels here")
    text = "write the problem here (.txt, .gz, .npz)"
    add("--convert", type=output_file, metavar="FILE", help=text)
    options = parser.parse_args(arguments)
    require_at_least(parser, options, 0, "refine", "budget")
    require_at_least(parser, options, 1, "threads")
    written = [("--output", options.output), ("--convert", options.convert)]
    refuse_own_inputs(parser, written, [("the solver", options.file)])
    return options


def report(text: str) -> None:
    """Print progress for who waits."""
    print(text, file=sys.stderr, flush=True)


def solve(problem: StoredProblem, options: argparse.Namespace) -> Solution:
    """Solve, and take the time."""
    more = {"method": options.method, "refine": options.refine, "num_threads": options.threads}
    begin = time.perf_counter()
    if problem.node_costs is None:
        found = solve_multicut(
            problem.edges, problem.edge_costs, num_nodes=problem.num_nodes, **more
        )
        return Solution(None, found.labels, found.energy, time.perf_counter() - begin)
    result = solve_amwc(*problem.amwc(), **more)
    return Solution(
        result.node_classes, result.node_clusters, result.energy, time.perf_counter() - begin
    )


def find_bound(problem: StoredProblem, solution: Solution, budget: int) -> list[tuple[str, str]]:
    """Bound the energy from below; return what is to be printed of it."""
    from tqdm import tqdm

    from cops.solver.dual import dual_bound

    if not np.isfinite(problem.edge_costs).all():
        raise ValueError("--bound has no way with infinite edge costs yet: leave it out")
    classes = np.zeros_like(solution.clusters) if solution.classes is None else solution.classes
    with tqdm(total=budget, unit="pass", desc="bound", disable=not sys.stderr.isatty()) as bar:
        bound = dual_bound(
            problem.amwc(),
            budget,
            labels=(classes, solution.clusters),
            progress=lambda passes, lower: bar.update(passes - bar.n),
        )
    gap = bound.gap_percent(solution.energy)
    # No share of 0 says anything.
    absolute = f"{solution.energy - bound.lower:.10g} (of a bound of 0)"
    return [
        ("bound", f"{bound.lower:.10g}"),
        ("gap", f"{gap:.4f} %" if np.isfinite(gap) else absolute),
        ("seconds of the bound", f"{bound.seconds:.3f}"),
    ]


def write_labels(path: Path, solution: Solution) -> None:
    """Write a line per node."""
    columns = [solution.clusters] if solution.classes is None else list(solution[:2])
    labels = np.stack(columns, axis=1)
    with naming(path):
        write_atomically(path, partial(np.savetxt, X=labels, fmt="%d"))


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Let what the solver says of a problem name the file that it came from."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise FileError(f"{path}: {error}") from error


def convert(path: Path, problem: StoredProblem) -> None:
    """Write a problem, whole or not at all; the name says in which form."""
    with naming(path), scratch_folder(path.absolute().parent) as folder:
        write_problem(folder / path.name, problem)
        os.replace(folder / path.name, path)


def run(options: argparse.Namespace) -> None:
    """Read, solve, bound, print and write."""
    begin = time.perf_counter()
    report(f"reading {options.file}")
    problem = read_problem(options.file)
    seconds = time.perf_counter() - begin
    report(f"{problem.num_nodes} nodes and {len(problem.edges)} edges in {seconds:.1f} s; solving")
    with about(options.file):
        if options.convert:
            convert(options.convert, problem)
        with end_at_once():
            solution = solve(problem, options)
    rows: list[tuple[str, Any]] = [
        ("nodes", problem.num_nodes),
        ("edges", len(problem.edges)),
    ]
    if problem.node_costs is not None:
        rows.append(("classes", problem.node_costs.shape[1]))
    rows += [
        ("clusters", int(solution.clusters.max()) + 1),
        ("energy", f"{solution.energy:.10g}"),
        ("seconds", f"{solution.seconds:.3f}"),
    ]
    if options.bound:
        report("bounding")
        with about(options.file), end_at_once():
            rows += find_bound(problem, solution, options.budget)
    if options.output:
        write_labels(options.output, solution)
    for name, value in rows:
        print(f"{name:<22}{value}")


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Run the program; 2 if the file or the command is wrong."""
    options = parse_args(arguments)
    try:
        run(options)
    except (OSError, ValueError, TypeError) as error:
        return refuse(__file__, error)
    except MemoryError:
        return refuse(__file__, f"{options.file} does not fit into memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
