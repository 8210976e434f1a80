"""What `tools/studies/benchmark_solver.py` measures: time, memory, energy, feasibility.

Solvers of others can be measured beside ours. Any function will do that takes a problem,

    solve(node_costs, edges, edge_costs, partitionable) -> seconds, node_classes, is_cut[, peak]

with the arrays of `cops.solver.Problem` (V, K), (E, 2), (E,), (K,), and returns a tuple. It holds
the processor time that it alone took, without the building of its own form of the problem. Then
come the class of each node (V,) and whether each edge is cut (E,). Optionally there follows by how
many bytes the solution raised the process's memory at its peak. Else that of the whole call is
taken.

Both sides are judged by the same rule. The clusters of another solver are the components of the
edges that it does not cut. Then all clusters of one class outside P are joined, as Eq. 2 demands
and as ours are. The energy is that of the joined labelling, counted by our function from the
problem as given. It is called feasible if the joined labelling is, *with the edges that the solver
itself said are cut*. One that leaves an edge between two clusters of a stuff class cut, or cuts an
edge inside a cluster, is not. (Clusters of a stuff class without an edge between them are the same
to Eq. 2 whether joined or not. So solvers that join only neighbours lose nothing.)

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cops.solver import Result, is_feasible, solve_amwc, solve_many
from cops.solver.bounds import components
from cops.solver.labelling import finish
from cops.solver.problem import Problem
from panoptic_tools.studies.library.measure import peak_extra_bytes
from panoptic_tools.studies.library.solver_tables import Row

BEST_OF = 3  # runs of a solver beside ours; what it is compared with is our best of as many


def solver_name(method: str, refine: int) -> str:
    """Name one of ours as rows do."""
    return f"{method} {refine}" if method == "multilevel" else method


def measure(
    problem: Problem,
    method: str,
    refine: int = 1,
    num_threads: int = 1,
    repeat: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    share: bool = False,
) -> tuple[Row, Result]:
    """Measure one of ours on one problem; return a row of the table and the solution.

    Args:
        problem: what to solve.
        method: as for `solve_amwc`.
        refine: as there.
        num_threads: t; as many copies are solved side by side, and the time is divided by t.
        repeat: runs; the median counts.
        clock: returns seconds.
        share: whether the threads share one solve instead.
    """
    arguments = problem._asdict() | {"method": method, "refine": refine}
    copies = [arguments] * num_threads
    memory = peak_extra_bytes(lambda: solve_many(copies[:1], 1))
    seconds, results = [], []
    for _ in range(repeat):
        start = clock()
        if share:
            results = [solve_amwc(**arguments, num_threads=num_threads)]
        else:
            results = solve_many(copies, num_threads)
        seconds.append((clock() - start) / len(results))
    feasible = all(is_feasible(problem.edges, problem.partitionable, *r[:3]) for r in results)
    row = {"solver": solver_name(method, refine), "method": method, "threads": num_threads}
    row["refine"] = refine if method == "multilevel" else None
    return row | _figures(problem, seconds, results[0], feasible, memory), results[0]


def measure_beside(
    problem: Problem, name: str, solve: Callable[..., Sequence[Any]], repeat: int = BEST_OF
) -> tuple[Row, Result]:
    """Measure another solver; see the head of this file for what it is to return.

    Raises:
        ValueError: what it returns does not fit the problem.
    """
    seconds: list[float] = []
    answers: list[Sequence[Any]] = []

    def call() -> None:
        answers[:] = [solve(*problem)]
        seconds.append(float(answers[0][0]))

    memory = peak_extra_bytes(call)
    own_memory = [answers[0][3]] if len(answers[0]) > 3 else []
    for _ in range(repeat - 1):
        call()
        own_memory += answers[0][3:4]
    answer = answers[0]
    result, feasible = joined_labelling(problem, name, answer[1], answer[2])
    row = {"solver": name, "method": name, "threads": 1, "refine": None}
    memory = int(max(own_memory)) if own_memory else memory
    return row | _figures(problem, seconds, result, feasible, memory), result


def joined_labelling(
    problem: Problem, name: str, node_classes: Any, is_cut: Any
) -> tuple[Result, bool]:
    """Join another solver's labelling as Eq. 2 demands; tell whether it was feasible itself."""
    num_nodes, num_classes = problem.node_costs.shape
    classes, cut = np.asarray(node_classes), np.asarray(is_cut).astype(bool)
    if classes.shape != (num_nodes,) or classes.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must return {num_nodes} integers as classes of the nodes, not "
            f"{classes.dtype} {classes.shape}"
        )
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(f"{name} must return classes 0 .. {num_classes - 1}")
    if cut.shape != (len(problem.edges),):
        raise ValueError(f"{name} must return {len(problem.edges)} flags of edges, not {cut.shape}")
    result = finish(problem, classes, components(problem.edges, cut, num_nodes))
    labels = (result.node_classes, result.node_clusters, cut)
    return result, is_feasible(problem.edges, problem.partitionable, *labels)


def _figures(
    problem: Problem, seconds: list[float], result: Result, feasible: bool, memory: int | None
) -> Row:
    """Make what a row says of the runs of one solver."""
    median = statistics.median(seconds)
    return {
        "nodes": len(problem.node_costs),
        "classes": problem.node_costs.shape[1],
        "edges": len(problem.edges),
        "seconds": median,
        "seconds_least": min(seconds),
        "seconds_greatest": max(seconds),
        "seconds_best_of_3": min(seconds[:BEST_OF]),
        "energy": result.energy,
        "segments": int(result.node_clusters.max()) + 1,
        "feasible": feasible,
        "peak_extra_bytes": memory,
        # A clock of coarse steps may see nothing of a tiny problem.
        "edges_per_second": len(problem.edges) / max(median, 1e-9),
        "nodes_per_second": len(problem.node_costs) / max(median, 1e-9),
    }


# ---- another solver -----------------------------------------------------------------------------


def load_beside(name: str) -> Callable[..., Any]:
    """Import the function `solve` of another's module.

    Args:
        name: NAME.py in the current folder, or else a module that can be imported.

    Raises:
        ValueError: there is no such function.
        ImportError: there is no such module.
    """
    file = Path(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, file) if file.is_file() else None
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(name)
    solve = getattr(module, "solve", None)
    if not callable(solve):
        raise ValueError(f"--beside {name}: the module has no function solve(); see --help")
    return solve
