"""Asymmetric multiway cut (AMWC) and multiway cut (MWC) on any graph; needs numpy and Numba only.

    minimise  sum_v node_costs[v, class of v]  +  sum over cut edges e of edge_costs[e]

over all ways to give each node a class and to divide the nodes into clusters of one class each. A
class that is not "partitionable" has one cluster at most. A cost is *paid*: a positive edge cost
keeps two nodes together. `docs/solver.md` introduces the problem and the algorithms.

Examples:
    Four nodes in a row, two classes; class 0 may have many clusters, class 1 has one. All like
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

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver.grid import solve_amwc_grid
from cops.solver.labelling import Result, energy, is_feasible, pair_of_labels
from cops.solver.methods import METHODS, check_options, solve_checked
from cops.solver.multicut import Multicut, solve_multicut
from cops.solver.parallel import Workers, call_beside, run_all
from cops.solver.problem import Problem, check_labels, check_problem, survey_problem

__all__ = [
    "METHODS",
    "Multicut",
    "Result",
    "check_problem",
    "energy",
    "is_feasible",
    "solve_amwc",
    "solve_amwc_grid",
    "solve_many",
    "solve_multicut",
    "solve_mwc",
]


def solve_amwc(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    partitionable: npt.ArrayLike,
    *,
    method: str = "auto",
    start: tuple[npt.ArrayLike, npt.ArrayLike] | Result | None = None,
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
        method: "auto" = as many kinds of moves and cycles as the problem asks for, never above
            "multilevel". "multilevel" = local moves on coarser and coarser graphs
            (`cops.solver.multilevel`). "greedy" = Algorithm 2 of the paper (`cops.solver.greedy`).
        start: (V,) classes and (V,) clusters from which "auto" and "multilevel" start, instead of
            from single nodes. Such are those of the image before in a video. A whole result does,
            too. What comes out costs no more.
        refine: of "multilevel" only: cycles of refinement, 0 = as fast as possible.
        num_threads: threads for this one problem, >= 1. The result does not depend on it, to the
            last bit. Greedy contraction uses one. For many problems at once `solve_many` is the
            better use of threads.

    Raises:
        ValueError, TypeError: see `check_problem`; the method is unknown or takes no start, or the
            start is not feasible.
    """
    check_options(method, start, refine)

    def solve() -> Result:
        with Workers(num_threads) as workers:
            arrays = (node_costs, edges, edge_costs, partitionable)
            problem, survey = survey_problem(*arrays, workers)
            first = None if start is None else _check_labelling(start, problem)
            return solve_checked(
                problem, survey, method, start=first, refine=refine, workers=workers
            )

    return call_beside(solve)


def solve_mwc(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    *,
    method: str = "auto",
    start: npt.ArrayLike | Result | None = None,
    refine: int = 1,
    num_threads: int = 1,
) -> Result:
    """Give each node a class at a low cost (MWC): AMWC where no class has two clusters.

    Args:
        node_costs: (V, K), as for `solve_amwc`.
        edges: (E, 2).
        edge_costs: (E,), paid if the ends of the edge have different classes.
        method: "auto", "multilevel" or "greedy".
        start: (V,) classes from which "auto" and "multilevel" start, instead of from single nodes,
            or a whole result.
        refine: of "multilevel" only: cycles of refinement, 0 = as fast as possible.
        num_threads: threads for this one problem, >= 1. The result does not depend on it, to the
            last bit. Greedy contraction uses one. For many problems at once `solve_many` is the
            better use of threads.

    Returns:
        A result whose clusters are the classes that occur.

    Raises:
        ValueError, TypeError: see `check_problem`; the method is unknown or takes no start.
    """
    check_options(method, start, refine)
    classes = start.node_classes if isinstance(start, Result) else start

    def solve() -> Result:
        with Workers(num_threads) as workers:
            problem, survey = survey_problem(node_costs, edges, edge_costs, None, workers)
            first = None if classes is None else (_check_start("start", classes, problem),) * 2
            return solve_checked(
                problem, survey, method, start=first, refine=refine, workers=workers
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
        ValueError, TypeError: a problem is no mapping of these arguments.
    """
    return run_all([_as_task(*numbered) for numbered in enumerate(problems)], num_threads)


def _as_task(number: int, problem: Mapping[str, Any]) -> Callable[[], Result]:
    """Return a call that solves one of many problems, or refuse arguments that are none."""
    name = f"problems[{number}]"
    if not isinstance(problem, Mapping):
        raise TypeError(
            f"{name} must be a mapping of arguments, such as a dict with node_costs, edges and "
            f"edge_costs, not {type(problem).__name__}"
        )
    solve = solve_amwc if "partitionable" in problem else solve_mwc
    parameters = signature(solve).parameters
    unknown = [str(key) for key in problem if key not in parameters]
    if unknown:
        raise TypeError(f"{name} has {unknown[0]}, which is none of {', '.join(parameters)}")
    missing = [
        key for key, what in parameters.items() if what.default is what.empty and key not in problem
    ]
    if missing:
        raise TypeError(f"{name} has no {missing[0]}")
    return partial(solve, **problem)


def _check_start(name: str, start: npt.ArrayLike, problem: Problem) -> npt.NDArray[np.int32]:
    classes = check_labels(name, start, *problem.node_costs.shape)
    return np.ascontiguousarray(classes, dtype=np.int32)


def _check_labelling(
    start: tuple[npt.ArrayLike, npt.ArrayLike] | Result, problem: Problem
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Bring a start into the form that the multilevel method reads, or refuse it."""
    classes, clusters = pair_of_labels("start", start)
    first = _check_start("start[0]", classes, problem)
    second = check_labels("start[1]", clusters, len(first))
    # Clusters of several classes would be read as several clusters: they are an error somewhere.
    _, one_of, numbers = np.unique(second, return_index=True, return_inverse=True)
    numbers = numbers.reshape(-1)
    wrong = np.flatnonzero(first != first[one_of[numbers]])
    if len(wrong):
        raise ValueError(
            f"start gives nodes {one_of[numbers[wrong[0]]]} and {wrong[0]} one cluster and two "
            "classes; all nodes of a cluster have one class"
        )
    return first, numbers.astype(np.int32)
