"""Asymmetric multiway cut (AMWC) and multiway cut (MWC) on any graph; needs numpy and Numba only.

    minimise  sum_v node_costs[v, class of v]  +  sum over cut edges e of edge_costs[e]

over all ways to give each node a class and to divide the nodes into clusters of one class each. A
class that is not "partitionable" has one cluster at most. A cost is *paid*: a positive edge cost
keeps two nodes together. `docs/solver.md` introduces the problem and the algorithms.

Example: four nodes in a row, two classes; class 0 may have many clusters, class 1 has one. All like
class 0, but the edge in the middle pays for being cut.

>>> import numpy as np
>>> result = solve_amwc(
...     node_costs=[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]],
...     edges=[[0, 1], [1, 2], [2, 3]],
...     edge_costs=[2.0, -1.0, 2.0],
...     partitionable=[True, False],
... )
>>> result.node_classes.tolist(), result.node_clusters.tolist(), result.energy
([0, 0, 0, 0], [0, 0, 1, 1], -1.0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver.greedy.algorithm import contract_greedily
from cops.solver.grid import solve_amwc_grid
from cops.solver.labelling import Result, energy, finish, is_feasible
from cops.solver.parallel import call_beside, run_all
from cops.solver.problem import Problem, check_problem, survey_problem

__all__ = [
    "METHODS",
    "Result",
    "check_problem",
    "energy",
    "is_feasible",
    "solve_amwc",
    "solve_amwc_grid",
    "solve_many",
    "solve_mwc",
]

METHODS = ("greedy", "multilevel")


def solve_amwc(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    partitionable: npt.ArrayLike,
    *,
    method: str = "greedy",
    refine: int = 1,
    num_threads: int = 1,
) -> Result:
    """Give each node a class and divide the nodes into clusters at a low cost (AMWC, Eq. 2).

    Float32 and float64 arrays that are C-contiguous are read as they are, and so are int32 edges;
    torch tensors on the CPU work too. The same input gives the same result, whatever runs beside.

    Args:
        node_costs: (V, K), what node v pays for class k; +inf means "never".
        edges: (E, 2), the two ends of each edge, 0 .. V-1; parallel edges add up.
        edge_costs: (E,), what is paid if the edge is cut: positive = wants to stay together.
        partitionable: (K,) bools, True for classes that may have several clusters.
        method: "greedy" = Algorithm 2 of the paper (`cops.solver.greedy`); "multilevel" = local
            moves on coarser and coarser graphs (`cops.solver.multilevel`).
        refine: of "multilevel" only: cycles of refinement, 0 = as fast as possible.
        num_threads: of "multilevel" only: threads for this one problem. The result does not depend
            on it. For many problems at once `solve_many` is the better use of threads.

    Raises:
        ValueError, TypeError: see `check_problem`; or the method is unknown.
    """
    _check_method(method)

    def solve() -> Result:
        problem, survey = survey_problem(node_costs, edges, edge_costs, partitionable)
        if method == "greedy":
            return finish(problem, *contract_greedily(problem))
        # Imported on first use: the module compiles (or loads) a good many kernels.
        from cops.solver.multilevel.algorithm import solve_multilevel

        return solve_multilevel(problem, survey, refine=refine, num_threads=num_threads)

    return call_beside(solve)


def solve_mwc(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    *,
    method: str = "greedy",
    start: npt.ArrayLike | None = None,
    refine: int = 1,
    num_threads: int = 1,
) -> Result:
    """Give each node a class at a low cost (MWC): AMWC where no class has two clusters.

    Args:
        node_costs: (V, K), as for `solve_amwc`.
        edges: (E, 2).
        edge_costs: (E,), paid if the ends of the edge have different classes.
        method: "greedy" or "multilevel".
        start: (V,) classes from which "multilevel" starts, instead of from single nodes.
        refine: of "multilevel" only: cycles of refinement, 0 = as fast as possible.
        num_threads: of "multilevel" only: threads for this one problem. The result does not depend
            on it. For many problems at once `solve_many` is the better use of threads.

    Returns:
        A result whose clusters are the classes that occur.

    Raises:
        ValueError, TypeError: see `check_problem`; the method is unknown or takes no start.
    """
    _check_method(method)
    if method == "greedy" and start is not None:
        raise ValueError("the greedy method has no start; use method='multilevel'")

    def solve() -> Result:
        problem, survey = survey_problem(node_costs, edges, edge_costs)
        if method == "greedy":
            return finish(problem, *contract_greedily(problem))
        from cops.solver.multilevel.algorithm import solve_multilevel

        first = None if start is None else _check_start(start, problem)
        return solve_multilevel(
            problem, survey, start=first, refine=refine, num_threads=num_threads
        )

    return call_beside(solve)


def solve_many(problems: Iterable[Mapping[str, Any]], num_threads: int) -> list[Result]:
    """Solve problems side by side on threads; the results do not depend on how many there are.

    Args:
        problems: keyword arguments, one mapping per problem: those of `solve_amwc` where there is a
            "partitionable", else those of `solve_mwc`.
        num_threads: how many are solved at a time, >= 1.

    Returns:
        The results in the order of the problems.

    Raises:
        Exception: that of the first problem, in their order, that could not be solved.
    """
    tasks = [
        partial(solve_amwc if "partitionable" in problem else solve_mwc, **problem)
        for problem in problems
    ]
    return run_all(tasks, num_threads)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")


def _check_start(start: npt.ArrayLike, problem: Problem) -> npt.NDArray[np.int32]:
    num_nodes, num_classes = problem.node_costs.shape
    classes = np.asarray(start)
    if classes.shape != (num_nodes,) or classes.dtype.kind not in "iu":
        raise ValueError(
            f"start must be {num_nodes} integers, one class per node, but has shape "
            f"{classes.shape} and type {classes.dtype}"
        )
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(f"start must hold classes 0 .. {num_classes - 1}")
    return np.ascontiguousarray(classes, dtype=np.int32)
