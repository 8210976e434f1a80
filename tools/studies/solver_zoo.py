#!/usr/bin/env python3
"""Where local moves end above greedy contraction: 5,000 graphs of many shapes and costs.

    python tools/studies/solver_zoo.py
    python tools/studies/solver_zoo.py --number 500 --solvers multilevel-3 auto --json zoo.json
    python tools/studies/solver_zoo.py --show star rounded 17
    python tools/studies/solver_zoo.py --show "large planted" 160x160:2 2
    python tools/studies/solver_zoo.py --number 0 --large 60 --costs COSTS/scenes COSTS/nuclei

Instance n of a shape and a kind of costs is made from that number alone; --show compares one. The
table has a row per shape and solver: how many instances end above greedy by more than 1e-5 of
|energy|, by how much at most, and the recipe of the worst; and how many end below. "multilevel-3"
has three cycles of refinement. --large adds planted problems of the sizes of images (a kind is
SIZE:NOISE), which take seconds each. --costs adds real costs: all problems in a folder, such as
those of a trained network that `benchmark_solver.py --dump FOLDER` writes. With --mwc each is
solved as multiway cut, too, where no class has several clusters. Exit status: 1 if an instance has
ended above greedy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from cops.solver import solve_amwc
from cops.solver.planted import VARIANTS, planted_problem
from cops.solver.problem import Problem
from panoptic_tools.arguments import input_folder, make_parser, output_file
from panoptic_tools.studies.library.solver_problems import SIZES, load_problem

TOLERANCE = 1e-5
# Problems from files have a shape that begins so, and goes on with the name of their folder. The
# path stands for the kind of costs.
REAL = "real costs: "
MWC = ", MWC"  # ends the shape of those whose classes may all have one cluster only
LARGE = "large planted"
LARGE_COSTS = tuple(
    f"{size}:{noise}" for size in ("64x128", "160x160", "256x512") for noise in (1, 2, 3, 6)
)
SHAPES = (
    *("planted", "star", "clique", "tree", "chain", "power law", "bipartite", "complete"),
    *("grid", "no attractive edge"),
)
SOLVERS: dict[str, dict[str, Any]] = {
    "multilevel-1": {"method": "multilevel", "refine": 1},
    "multilevel-3": {"method": "multilevel", "refine": 3},
    "auto": {"method": "auto"},
}
# How costs may look; the first five are those of planted problems.
COSTS = VARIANTS


class Instance(NamedTuple):
    """A recipe: the same three make the same problem."""

    shape: str
    costs: str
    number: int


def make_edges(shape: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the edges (E, 2) of a graph of this shape."""
    size = int(rng.integers(5, 200))
    if shape == "complete":
        size = 200
    if shape == "star":
        return np.stack([np.zeros(size - 1, int), np.arange(1, size)], axis=1)
    if shape in ("clique", "complete"):
        size = size if shape == "complete" else size // 4 + 3
        return np.stack(np.triu_indices(size, k=1), axis=1)
    if shape == "tree":
        nodes = np.arange(1, size)
        return np.stack([(rng.random(size - 1) * nodes).astype(int), nodes], axis=1)
    if shape == "chain":
        nodes = np.arange(20 * size)
        return np.stack([nodes[:-1], nodes[1:]], axis=1)
    if shape == "power law":
        # Each new node takes ends of edges that are there: preferential attachment.
        ends = [0, 1]
        for node in range(2, size):
            for _ in range(3):
                ends += [int(ends[rng.integers(len(ends))]), node]
        pairs = np.array(ends).reshape(-1, 2)
        return pairs[pairs[:, 0] != pairs[:, 1]]
    if shape == "bipartite":
        half = size // 2 + 1
        pairs = np.stack([rng.integers(0, half, 4 * size), rng.integers(half, size + 2, 4 * size)])
        return np.unique(pairs.T, axis=0)
    pairs = rng.integers(0, size, (5 * size, 2))
    return np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def make_problem(instance: Instance) -> Problem:
    """Make the problem of a recipe."""
    shape, costs, number = instance
    if shape.startswith(REAL):
        problem = load_problem(Path(costs))
        if shape.endswith(MWC):
            return problem._replace(partitionable=np.zeros_like(problem.partitionable))
        return problem
    if shape == LARGE:
        name, _, noise = costs.partition(":")
        *size, num_things = SIZES[name]
        return planted_problem(number, *size, float(noise), num_things=num_things)
    rng = np.random.default_rng([SHAPES.index(shape), COSTS.index(costs), number])
    if shape in ("planted", "grid"):
        height, width = (int(n) for n in rng.integers(6, 28, 2))
        noise = 6.0 if shape == "planted" else 3.0
        distances = (1, 3, 8) if shape == "planted" else (1,)
        return planted_problem(
            number, height, width, 6, distances, noise=noise, variant=costs, num_things=6
        )
    edges = make_edges(shape, rng).astype(np.int32)
    num_nodes, num_classes = int(edges.max()) + 1, int(rng.integers(1, 6))
    # White costs are equally often positive and negative; others lean to one side.
    lean = 0.0 if costs == "white" else rng.normal()
    edge_costs = rng.normal(lean, 2.0, len(edges))
    node_costs = rng.normal(0.0, rng.choice([0.3, 2.0, 8.0]), (num_nodes, num_classes))
    if shape == "no attractive edge":
        edge_costs = -np.abs(edge_costs)
    if costs == "rounded":
        edge_costs, node_costs = np.round(edge_costs), np.round(node_costs)
    elif costs == "signs":
        edge_costs, node_costs = np.sign(edge_costs), np.sign(node_costs)
    elif costs == "zeroed":
        edge_costs[rng.random(len(edges)) < 0.3] = 0.0
        node_costs[rng.random(num_nodes) < 0.3] = 0.0
    partitionable = rng.random(num_classes) < rng.choice([0.3, 0.7, 1.0])
    return Problem(
        node_costs.astype(np.float32), edges, edge_costs.astype(np.float32), partitionable
    )


def instances(
    number: int, large: int, folders: list[Path], mwc: bool = False
) -> Iterator[Instance]:
    """List recipes: so many small and large ones, as many of each kind, and those of folders."""
    kinds = [(shape, costs) for shape in SHAPES for costs in COSTS]
    for n in range(number):
        yield Instance(*kinds[n % len(kinds)], n // len(kinds))
    for n in range(large):
        yield Instance(LARGE, LARGE_COSTS[n % len(LARGE_COSTS)], n // len(LARGE_COSTS))
    for folder in folders:
        for path in sorted(folder.glob("*.npz")):
            yield Instance(REAL + folder.name, str(path), 0)
            if mwc:
                yield Instance(REAL + folder.name + MWC, str(path), 0)


def excess(instance: Instance, names: list[str]) -> list[float]:
    """Return by how much each of the solvers ends above greedy, in parts of |energy|."""
    problem = make_problem(instance)
    greedy = solve_amwc(*problem, method="greedy").energy
    found = [solve_amwc(*problem, **SOLVERS[name]).energy for name in names]
    return [(energy - greedy) / max(abs(greedy), 1e-12) for energy in found]


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Solve all instances, and sum up by shape and solver."""
    found: dict[tuple[str, str], list[tuple[float, Instance]]] = {}
    recipes = list(instances(options.number, options.large, options.costs, options.mwc))
    for done, instance in enumerate(recipes):
        for name, value in zip(options.solvers, excess(instance, options.solvers), strict=True):
            found.setdefault((instance.shape, name), []).append((value, instance))
        if (done + 1) % 500 == 0:
            print(f"{done + 1} of {len(recipes)}", file=sys.stderr, flush=True)
    rows = []
    for (shape, name), values in sorted(found.items()):
        worst, recipe = max(values)
        name_of_worst = f"{recipe.costs} {recipe.number}"
        if shape.startswith(REAL):
            name_of_worst = Path(recipe.costs).stem
        rows.append(
            {
                "shape": shape,
                "solver": name,
                "instances": len(values),
                "above": sum(value > TOLERANCE for value, _ in values),
                "at most, %": f"{100.0 * max(worst, 0.0):.4f}",
                "worst": name_of_worst if worst > TOLERANCE else "",
                "below": sum(value < -TOLERANCE for value, _ in values),
            }
        )
    return rows


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--number", type=int, default=5000, help="of instances")
    add("--large", type=int, default=0, help="planted ones of images' sizes besides")
    add("--costs", nargs="+", type=input_folder, default=[], metavar="FOLDER")
    add("--mwc", action="store_true", help="solve --costs as multiway cut as well")
    add("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    add("--json", type=output_file, help="write the table here, too")
    add("--show", nargs=3, metavar=("SHAPE", "COSTS", "NUMBER"))
    options = parser.parse_args(arguments)
    if options.show:
        shape, costs, number = options.show
        kinds = LARGE_COSTS if shape == LARGE else COSTS
        if shape not in (*SHAPES, LARGE) or costs not in kinds or not number.isdigit():
            parser.error(f"--show takes one of {(*SHAPES, LARGE)}, one of {kinds}, and a number")
    if min(options.number, options.large) < 0:
        parser.error("--number and --large must be 0 or more")
    for folder in options.costs:
        if not any(folder.glob("*.npz")):
            parser.error(f"{folder} holds no .npz: benchmark_solver.py --dump {folder} writes some")
    if options.mwc and not options.costs:
        parser.error("--mwc goes with --costs FOLDER")
    if options.number + options.large + len(options.costs) == 0:
        parser.error("nothing to solve: give --number, --large or --costs")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 if an instance has ended above greedy."""
    options = parse_args(arguments)
    if options.show:
        shape, costs, number = options.show
        values = excess(Instance(shape, costs, int(number)), options.solvers)
        for name, value in zip(options.solvers, values, strict=True):
            print(f"{name}: {100.0 * value:+.4f} %")
        return 0
    rows = run(options)
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["above"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
