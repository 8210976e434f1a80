"""Multilevel local moving for AMWC and MWC: many times faster than greedy contraction, and as good.

Greedy contraction (greedy.py) makes the best of all contractions, then the next: a long sequence of
small steps, each with random memory accesses. Here all nodes decide in one pass over the graph, and
what was decided badly is mended later:

1.  `first_sweep`: in the order of the nodes, each joins the neighbouring cluster with which it is
    most similar in sum, or founds one.
2.  The clusters become the nodes of a smaller graph, on which nodes move from cluster to cluster
    until none gains; again and again, until no cluster joins another (3 to 5 levels).
3.  Now the stuff rule: each cluster takes its best class, and those of one class outside P become
    one cluster. From the smallest graph up to that of step 2, nodes move under this rule.
4.  `refine` cycles. In the first, single nodes of the input move, then parts of clusters as wholes.
    Each later one does steps 2 and 3 again, for those parts, then moves as the first, and is kept
    if that has lowered the cost; if not, the first cycle's moves go on. Without a move, it ends.
5.  The result is compared with each node alone in its best class (those of one class outside P
    joined) and with all nodes in one cluster, and the best is returned.

A pass costs O(E + V K), and the number of passes is bounded. The first cycle of step 4 decides the
quality; a second and third one are worth their time on problems with much noise or many classes.

Everything is deterministic. Large graphs are swept in step 1 as several ranges of nodes that do not
see each other; how many depends on V only, so the number of threads does not change the result.

Shapes: V nodes, K classes, E edges, M clusters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit
from cops.solver.multilevel_graph import (
    Graph,
    contract,
    find_components,
    find_scale,
    make_graph,
    reduce_node_costs,
)
from cops.solver.multilevel_refine import labelling_cost, move_constrained, move_parts
from cops.solver.multilevel_sweep import first_sweep, move_freely, number_by_first
from cops.solver.parallel import run_all

# Bounds on passes, reached on hard problems only; all passes but the first visit few nodes.
FREE_PASSES = 4
CONSTRAINED_PASSES = 10
PART_ROUNDS = 4
# Step 1 takes ranges of about this many nodes. With fewer, their seams would show.
NODES_PER_RANGE = 1 << 16
MAX_RANGES = 16

Labels = npt.NDArray[np.int32]


def multilevel_amwc(
    node_costs: npt.NDArray[Any],
    edges: npt.NDArray[np.int32],
    edge_costs: npt.NDArray[Any],
    partitionable: npt.NDArray[np.bool_],
    refine: int = 1,
    num_threads: int = 1,
) -> tuple[Labels, Labels]:
    """Solve an AMWC problem that `cops.solver.check_problem` has checked and that has no infinity.

    Args:
        node_costs: (V, K) float32 or float64, finite, C-contiguous.
        edges: (E, 2) int32.
        edge_costs: (E,) float32 or float64, finite.
        partitionable: (K,) bool.
        refine: cycles of refinement; 0 = as fast as possible, 1 = usual, 2 or 3 = still better on
            problems with much noise.
        num_threads: threads for step 1 of this one problem; the result does not depend on it. Many
            problems at once are better solved on a thread each (`solve_many`).

    Returns:
        Class (V,) int32 and cluster (V,) int32 of each node; the clusters are numbered 0 .. M-1 by
        their first nodes, each has one class, and each class outside P has one at most.

    Raises:
        ValueError: `refine` is negative or `num_threads` not positive.
    """
    _check_counts(refine, num_threads)
    graph = _input_graph(node_costs, edges, edge_costs, both=refine > 0)
    parts, count = _sweep_ranges(graph, num_threads)
    clusters, class_of, _ = _solve_parts(graph, partitionable, parts, count)
    _refine(graph, partitionable, clusters, class_of, refine)
    classes = class_of[clusters]
    _take_trivial_if_better(node_costs, edges, edge_costs, partitionable, classes, clusters)
    number_by_first(clusters, sum(node_costs.shape))
    return classes, clusters


def multilevel_mwc(
    node_costs: npt.NDArray[Any],
    edges: npt.NDArray[np.int32],
    edge_costs: npt.NDArray[Any],
    start: Labels | None = None,
    refine: int = 1,
    num_threads: int = 1,
) -> Labels:
    """Solve an MWC problem: AMWC with P empty, so the clusters are the classes that occur.

    Args:
        node_costs, edges, edge_costs, refine, num_threads: as for `multilevel_amwc`.
        start: (V,) int32 classes; if given, step 4 begins with them, and steps 1 to 3 are left out.
            The result is at least as good as the start.

    Returns:
        (V,) int32 class of each node.

    Raises:
        ValueError: as for `multilevel_amwc`.
    """
    num_nodes, num_classes = node_costs.shape
    nowhere = np.zeros(num_classes, dtype=bool)
    if start is None:
        return multilevel_amwc(node_costs, edges, edge_costs, nowhere, refine, num_threads)[0]
    _check_counts(refine, num_threads)
    # Outside P, the number of a class is the number of its cluster.
    clusters = np.array(start, dtype=np.int32)
    if refine > 0:
        graph = _input_graph(node_costs, edges, edge_costs, both=True)
        class_of = np.arange(num_classes + num_nodes, dtype=np.int32)
        _refine(graph, nowhere, clusters, class_of, refine)
        # Moves are chosen in float32. The one who gave the start shall not lose by rounding.
        if _cost(node_costs, edges, edge_costs, start, start) < _cost(
            node_costs, edges, edge_costs, clusters, clusters
        ):
            clusters[:] = start
    _take_trivial_if_better(node_costs, edges, edge_costs, nowhere, clusters, clusters.copy())
    return clusters


def _check_counts(refine: int, num_threads: int) -> None:
    if refine < 0:
        raise ValueError(f"refine must be 0 or more cycles, not {refine}")
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {num_threads}")


def _input_graph(
    node_costs: npt.NDArray[Any],
    edges: npt.NDArray[np.int32],
    edge_costs: npt.NDArray[Any],
    both: bool,
) -> Graph:
    scale = find_scale(node_costs, edge_costs)
    reduced = reduce_node_costs(node_costs, scale)
    return make_graph(edges, edge_costs, scale, reduced, both)


def _sweep_ranges(graph: Graph, num_threads: int) -> tuple[Labels, int]:
    """Step 1, range by range: clusters (V,) 0 .. M-1, and M."""
    clusters = np.empty(len(graph.node_costs), np.int32)
    num_ranges = min(max(len(clusters) // NODES_PER_RANGE, 1), MAX_RANGES)
    bounds = [len(clusters) * r // num_ranges for r in range(num_ranges + 1)]
    pairs = list(zip(bounds[:-1], bounds[1:], strict=True))
    counts = run_all(
        [partial(first_sweep, graph, begin, end, clusters) for begin, end in pairs], num_threads
    )
    total = 0
    for (begin, end), count in zip(pairs, counts, strict=True):
        clusters[begin:end] += total
        total += count
    return clusters, total


@jit
def _solve_parts(graph, partitionable, parts, num_parts):  # type: ignore[no-untyped-def]
    """Steps 2 and 3: from small clusters of the input to a feasible labelling of it.

    Args:
        graph: backward rows suffice.
        partitionable: (K,) bool.
        parts: (V,) int32, 0 .. M-1: nodes that shall have one cluster.
        num_parts: M.

    Returns:
        clusters (V,) int32 and class_of (K + V,) int32 of the labelling (multilevel_refine.py), and
        the contracted graph.
    """
    num_nodes, num_classes = graph.node_costs.shape
    levels = [contract(graph, parts, num_parts)]
    # Invariant: parents[i] leads from the nodes of the level above levels[i] to those of levels[i].
    parents = [parts]
    while True:
        level = levels[-1]
        joined, count = move_freely(level, FREE_PASSES)
        if count == level.node_costs.shape[0]:
            break
        levels.append(contract(level, joined, count))
        parents.append(joined)

    smallest = levels[-1].node_costs
    class_of = np.zeros(num_classes + num_nodes, np.int32)
    for k in range(num_classes):
        class_of[k] = k
    clusters = np.empty(smallest.shape[0], np.int32)
    for c in range(smallest.shape[0]):
        best = np.argmin(smallest[c])
        clusters[c] = num_classes + c if partitionable[best] else best
        class_of[num_classes + c] = best
    for i in range(len(levels) - 1, -1, -1):
        move_constrained(levels[i], partitionable, clusters, class_of, CONSTRAINED_PASSES)
        finer = np.empty(parents[i].size, np.int32)
        for v in range(finer.size):
            finer[v] = clusters[parents[i][v]]
        clusters = finer
    return clusters, class_of, levels[0]


@jit
def _solve_again(graph, partitionable, clusters, class_of):  # type: ignore[no-untyped-def]
    """Steps 2 and 3 for the parts into which a labelling falls.

    Returns:
        Another labelling (clusters, class_of), and by how much it costs more (or less, if < 0).
    """
    parts, num_parts = find_components(graph, clusters, True)
    new_clusters, new_class_of, small = _solve_parts(graph, partitionable, parts, num_parts)
    # Both labellings give one cluster to each part, so their costs are compared on the small graph.
    old = np.empty(num_parts, np.int32)
    new = np.empty(num_parts, np.int32)
    for v in range(parts.size):
        old[parts[v]] = clusters[v]
        new[parts[v]] = new_clusters[v]
    change = labelling_cost(small, new, new_class_of) - labelling_cost(small, old, class_of)
    return new_clusters, new_class_of, change


def _refine(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    refine: int,
) -> None:
    """Step 4; changes the labelling in place."""
    for cycle in range(refine):
        if cycle > 0:
            others, classes, change = _solve_again(graph, partitionable, clusters, class_of)
            change -= _improve(graph, partitionable, others, classes)
            if change < 0.0:
                clusters[:], class_of[:] = others, classes
                continue
        if _improve(graph, partitionable, clusters, class_of) == 0.0:
            break


def _improve(
    graph: Graph, partitionable: npt.NDArray[np.bool_], clusters: Labels, class_of: Labels
) -> float:
    gain = move_constrained(graph, partitionable, clusters, class_of, CONSTRAINED_PASSES)
    gain += move_parts(graph, partitionable, clusters, class_of, PART_ROUNDS)
    return float(gain)


@jit
def _cost(node_costs, edges, edge_costs, classes, clusters):  # type: ignore[no-untyped-def]
    """The cost of a labelling, summed in float64."""
    cost = np.float64(0.0)
    for v in range(node_costs.shape[0]):
        cost += node_costs[v, classes[v]]
    for e in range(edges.shape[0]):
        if clusters[edges[e, 0]] != clusters[edges[e, 1]]:
            cost += edge_costs[e]
    return cost


@jit
def _take_trivial_if_better(  # type: ignore[no-untyped-def]
    node_costs, edges, edge_costs, partitionable, classes, clusters
):
    """Step 5: put a trivial labelling in the place of `classes` and `clusters` if it costs less."""
    num_nodes, num_classes = node_costs.shape
    best = np.empty(num_nodes, np.int32)
    alone = np.empty(num_nodes, np.int32)
    # Costs over those of the best class of each node, which all three have in common.
    sums = np.zeros(num_classes, np.float64)
    cost = np.float64(0.0)
    cost_alone = np.float64(0.0)
    for v in range(num_nodes):
        k = 0
        for j in range(1, num_classes):
            if node_costs[v, j] < node_costs[v, k]:
                k = j
        best[v] = k
        alone[v] = num_classes + v if partitionable[k] else k
        low = np.float64(node_costs[v, k])
        for j in range(num_classes):
            sums[j] += node_costs[v, j] - low
        cost += node_costs[v, classes[v]] - low
    for e in range(edges.shape[0]):
        a = edges[e, 0]
        b = edges[e, 1]
        edge_cost = np.float64(edge_costs[e])
        cost += edge_cost if clusters[a] != clusters[b] else 0.0
        cost_alone += edge_cost if alone[a] != alone[b] else 0.0
    if cost_alone < cost:
        cost = cost_alone
        classes[:] = best
        clusters[:] = alone
    if sums.min() < cost:
        classes[:] = np.argmin(sums)
        clusters[:] = 0
