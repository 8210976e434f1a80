"""Solutions of an asymmetric multiway cut problem: their cost, their constraints, their form.

Shapes: V nodes, K classes, E edges, M clusters.
"""

from __future__ import annotations

from math import fsum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver.counting import mark_cut, number_clusters, sum_chosen, sum_cut
from cops.solver.parallel import ALONE, Workers
from cops.solver.problem import Problem
from cops.solver.stencil import EDGES_PER_BLOCK, Stencil, find_cut_in_pieces


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


def energy(
    node_costs: npt.NDArray[Any],
    edges: npt.NDArray[Any],
    edge_costs: npt.NDArray[Any],
    node_classes: npt.NDArray[Any],
    is_cut: npt.NDArray[Any],
    workers: Workers = ALONE,
) -> float:
    """Sum the cost of a labelling (Eq. 2) in float64; whether it is feasible is not asked.

    Args:
        node_costs: (V, K).
        edges: (E, 2); only their number must fit that of the costs.
        edge_costs: (E,).
        node_classes: (V,) integers in 0 .. K-1.
        is_cut: (E,) bools.
        workers: threads, which do not change the result.
    """
    node_costs, edge_costs = np.asarray(node_costs), np.asarray(edge_costs)
    classes = np.asarray(node_classes, dtype=np.int32)
    cut = np.asarray(is_cut, dtype=bool)
    if not len(edges) == len(edge_costs) == len(cut):
        raise ValueError(
            f"{len(edges)} edges, {len(edge_costs)} edge costs and {len(cut)} cut flags must be "
            "equally many"
        )
    return float(total_chosen(node_costs, classes, workers) + total_cut(edge_costs, cut, workers))


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
            len(is_cut), lambda *block: sum_cut(edge_costs, is_cut, *block), EDGES_PER_BLOCK
        )
    )


def is_feasible(
    edges: npt.NDArray[Any],
    partitionable: npt.NDArray[Any],
    node_classes: npt.NDArray[Any],
    node_clusters: npt.NDArray[Any],
    is_cut: npt.NDArray[Any],
) -> bool:
    """Tell whether a labelling obeys the constraints of Eq. 2.

    That is: an edge is cut exactly if its ends lie in two clusters. Each cluster has one class, and
    a class outside P has one cluster at most. (A cluster need not be connected: a non-partitionable
    class has one cluster wherever its nodes are.)
    """
    ends = np.asarray(edges, dtype=np.intp).reshape(-1, 2)
    flags = np.asarray(partitionable, dtype=bool)
    classes = np.asarray(node_classes, dtype=np.intp)
    clusters = np.asarray(node_clusters, dtype=np.intp)
    cut = np.asarray(is_cut, dtype=bool)
    if classes.shape != clusters.shape or classes.ndim != 1 or cut.shape != (len(ends),):
        return False
    if classes.min() < 0 or classes.max() >= len(flags):
        return False
    if not np.array_equal(cut, clusters[ends[:, 0]] != clusters[ends[:, 1]]):
        return False
    pairs = np.unique(np.stack([clusters, classes], axis=1), axis=0)
    if len(np.unique(pairs[:, 0])) != len(pairs):
        return False  # a cluster with two classes
    clusters_per_class = np.bincount(pairs[:, 1], minlength=len(flags))
    return bool((clusters_per_class[~flags] <= 1).all())


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
    is_cut = find_cut(problem.edges, clusters, stencil, workers)
    cost = energy(*problem[:3], classes, is_cut, workers)
    return Result(classes, clusters, is_cut, cost)


def find_cut(
    edges: npt.NDArray[np.int32],
    clusters: npt.NDArray[np.int32],
    stencil: Stencil | None = None,
    workers: Workers = ALONE,
) -> npt.NDArray[np.bool_]:
    """Find whether the ends of each edge lie in two clusters, (E,) bool."""
    is_cut = np.empty(len(edges), dtype=bool)

    def mark(begin: int, end: int) -> None:
        if stencil is None or len(stencil.offsets) == 0:
            mark_cut(edges, clusters, begin, end, is_cut)
        else:
            find_cut_in_pieces(stencil, clusters, begin, end, is_cut)

    workers.over(len(edges), mark, EDGES_PER_BLOCK)
    return is_cut
