"""Solutions of an asymmetric multiway cut problem: their cost, their constraints, their form.

Shapes: V nodes, K classes, E edges, M clusters.
"""

from __future__ import annotations

from math import fsum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver.arguments import float_array, is_whole, plain_array
from cops.solver.counting import mark_cut, number_clusters, sum_chosen, sum_cut
from cops.solver.parallel import ALONE, Workers
from cops.solver.problem import (
    Problem,
    check_labels,
    check_partitionable,
    edge_array,
    node_cost_array,
    refuse_wrong_edges,
    survey_values,
)
from cops.solver.stencil import EDGES_PER_BLOCK, Stencil, find_cut_in_pieces, no_stencil


class Result(NamedTuple):
    """A feasible labelling.

    Attributes:
        node_classes: (V,) int32, class of each node.
        node_clusters: (V,) int32, cluster of each node; 0 .. M-1, numbered by their first nodes.
        is_cut: (E,) bool, whether the ends of each edge lie in two clusters.
        energy: the cost of the labelling (Eq. 2), summed in float64.
    """

    node_classes: npt.NDArray[np.int32]
    node_clusters: npt.NDArray[np.int32]
    is_cut: npt.NDArray[np.bool_]
    energy: float


def pair_of_labels(name: str, given: Any) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    """Return the classes and clusters that a caller gives, as a pair or as a whole result.

    Args:
        name: of the argument.
        given: a `Result`, or what has two entries.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(given, Result):
        return given.node_classes, given.node_clusters
    try:
        classes, clusters = given
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be a result, or a pair of (V,) classes and (V,) clusters such as "
            "result[:2]"
        ) from error
    return classes, clusters


def energy(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    node_classes: npt.ArrayLike,
    is_cut: npt.ArrayLike,
    workers: Workers = ALONE,
) -> float:
    """Sum the cost of a labelling (Eq. 2) in float64; whether it is feasible is not asked.

    Infinite edge costs are constraints, as for `solve_multicut`: they cost nothing where they are
    obeyed. A broken one makes the sum +inf.

    Args:
        node_costs: (V, K).
        edges: (E, 2); only their number must fit that of the costs.
        edge_costs: (E,).
        node_classes: (V,) integers in 0 .. K-1.
        is_cut: (E,) bools.
        workers: threads, which do not change the result.

    Raises:
        ValueError, TypeError: an argument is malformed; the message names it.
    """
    nodes = node_cost_array(node_costs)
    costs = float_array("edge_costs", edge_costs)
    cut = plain_array("is_cut", is_cut)
    if costs.ndim != 1 or cut.ndim != 1 or (cut.dtype != bool and cut.size):
        raise ValueError(
            "edge_costs must be numbers and is_cut bools, one per edge, but they have shapes "
            f"{costs.shape} and {cut.shape}, and is_cut has type {cut.dtype}"
        )
    num_edges = len(edge_array(edges))
    if not num_edges == len(costs) == len(cut):
        raise ValueError(
            f"{num_edges} edges, {len(costs)} edge costs and {len(cut)} cut flags must be "
            "equally many"
        )
    classes = check_labels("node_classes", node_classes, *nodes.shape).astype(np.int32, order="C")
    cut = np.ascontiguousarray(cut, dtype=bool)
    infinite = np.isinf(costs)
    broken = bool((infinite & (cut == (costs > 0.0))).any())
    costs = np.where(infinite, costs.dtype.type(0.0), costs)
    survey_values(nodes, costs, no_stencil(), workers)
    total = float(total_chosen(nodes, classes, workers) + total_cut(costs, cut, workers))
    return np.inf if broken else total


def total_cost(
    problem: Problem,
    classes: npt.NDArray[np.int32],
    is_cut: npt.NDArray[np.bool_],
    workers: Workers = ALONE,
) -> float:
    """Sum the cost of a labelling of a checked problem; see `energy`."""
    of_nodes = total_chosen(problem.node_costs, classes, workers)
    return float(of_nodes + total_cut(problem.edge_costs, is_cut, workers))


def total_chosen(
    node_costs: npt.NDArray[Any], classes: npt.NDArray[np.int32], workers: Workers = ALONE
) -> float:
    """Sum what all nodes pay for their classes, block by block, in float64."""
    return fsum(workers.over(len(classes), lambda *block: sum_chosen(node_costs, classes, *block)))


def total_cut(
    edge_costs: npt.NDArray[Any], is_cut: npt.NDArray[np.bool_], workers: Workers = ALONE
) -> float:
    """Sum the costs of all cut edges, block by block, in float64."""
    return fsum(
        workers.over(
            len(is_cut),
            lambda begin, end: sum_cut(edge_costs[begin:end], is_cut[begin:end]),
            EDGES_PER_BLOCK,
        )
    )


def is_feasible(
    edges: npt.ArrayLike,
    partitionable: npt.ArrayLike,
    node_classes: npt.ArrayLike,
    node_clusters: npt.ArrayLike,
    is_cut: npt.ArrayLike,
) -> bool:
    """Tell whether a labelling obeys the constraints of Eq. 2.

    That is: an edge is cut exactly if its ends lie in two clusters. Each cluster has one class, and
    a class outside P has one cluster at most. (A cluster need not be connected: a non-partitionable
    class has one cluster wherever its nodes are.) A labelling with classes that are not there, or
    of another length, is not feasible.

    Raises:
        ValueError, TypeError: labels are no integers, flags no bools, there is no node, or an edge
            names a node that is not there.
    """
    flags = plain_array("partitionable", partitionable)
    flags = check_partitionable(flags, flags.size)
    classes = _label_array("node_classes", node_classes)
    clusters = _label_array("node_clusters", node_clusters)
    if classes.size == 0:
        raise ValueError("node_classes must hold the class of at least one node")
    ends = edge_array(edges)
    cut = plain_array("is_cut", is_cut)
    if cut.dtype != bool and cut.size:
        raise ValueError(f"is_cut must be bools, one per edge, not {cut.dtype}")
    if classes.shape != clusters.shape or classes.ndim != 1 or cut.shape != (len(ends),):
        return False
    refuse_wrong_edges(ends, len(classes))
    if classes.min() < 0 or classes.max() >= len(flags):
        return False
    if not np.array_equal(cut, clusters[ends[:, 0]] != clusters[ends[:, 1]]):
        return False
    # One by one: together, int64 and uint64 would become floats.
    numbers = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([numbers, classes.astype(np.intp)], axis=1), axis=0)
    if len(np.unique(pairs[:, 0])) != len(pairs):
        return False  # a cluster with two classes
    clusters_per_class = np.bincount(pairs[:, 1], minlength=len(flags))
    return bool((clusters_per_class[~flags] <= 1).all())


def _label_array(name: str, labels: npt.ArrayLike) -> npt.NDArray[Any]:
    array = plain_array(name, labels)
    if not is_whole(array):
        raise TypeError(f"{name} must hold integers, not {array.dtype}")
    return array


def finish(
    problem: Problem,
    node_classes: npt.NDArray[Any],
    node_clusters: npt.NDArray[Any],
    stencil: Stencil | None = None,
    workers: Workers = ALONE,
) -> Result:
    """Make the result of a clustering: one cluster per class outside P, then counted.

    Joining clusters of one non-partitionable class is lines 19 to 23 of Algorithm 2.

    Args:
        problem: a checked problem.
        node_classes: (V,) integers in 0 .. K-1.
        node_clusters: (V,) integers in 0 .. K+V-1 without further meaning; all nodes of a cluster
            have one class.
        stencil: of the edges, where it is known.
        workers: threads, which do not change the result.
    """
    classes = np.ascontiguousarray(node_classes, dtype=np.int32)
    clusters = number_clusters(
        classes, np.ascontiguousarray(node_clusters, dtype=np.int32), problem.partitionable
    )
    is_cut, cost = cut_between(problem, clusters, stencil, workers)
    return Result(
        classes, clusters, is_cut, total_chosen(problem.node_costs, classes, workers) + cost
    )


def cut_between(
    problem: Problem,
    clusters: npt.NDArray[np.int32],
    stencil: Stencil | None = None,
    workers: Workers = ALONE,
) -> tuple[npt.NDArray[np.bool_], float]:
    """Find whether the ends of each edge lie in two clusters, (E,) bool, and what they cost then.

    Returns:
        That, and what `total_cut` returns of it.
    """
    is_cut = np.empty(len(problem.edges), dtype=bool)

    def mark(begin: int, end: int) -> float:
        return _cut_block(problem, clusters, stencil, begin, end, is_cut[begin:end])

    return is_cut, fsum(workers.over(len(is_cut), mark, EDGES_PER_BLOCK))


def cost_between(
    problem: Problem,
    clusters: npt.NDArray[np.int32],
    stencil: Stencil | None = None,
    workers: Workers = ALONE,
) -> float:
    """Return the cost of `cut_between` alone."""

    def mark(begin: int, end: int) -> float:
        return _cut_block(problem, clusters, stencil, begin, end, np.empty(end - begin, bool))

    return fsum(workers.over(len(problem.edges), mark, EDGES_PER_BLOCK))


def _cut_block(
    problem: Problem,
    clusters: npt.NDArray[np.int32],
    stencil: Stencil | None,
    begin: int,
    end: int,
    is_cut: npt.NDArray[np.bool_],
) -> float:
    """Fill `is_cut` for edges begin .. end - 1, and return what they cost."""
    if stencil is None or len(stencil.offsets) == 0:
        mark_cut(problem.edges, clusters, begin, end, is_cut)
    else:
        find_cut_in_pieces(stencil, clusters, begin, end, is_cut)
    return float(sum_cut(problem.edge_costs[begin:end], is_cut))
