"""Local moving under the stuff rule: how the multilevel method improves a feasible labelling.

A labelling of a graph is a pair of arrays: `clusters` (n,) and `class_of`, the class of each
cluster. Cluster numbers below K are set aside. Number k is *the* cluster of class k if k is not
partitionable (and not used otherwise). Clusters of partitionable classes have numbers from K on. So
the rule "one cluster for a class outside P" holds by construction. Joining that cluster uncuts the
edges to all its nodes, wherever they are.

What node v gains over standing alone for nothing (its reduced node costs have a zero) is

    in a cluster c of some neighbour:     sum of edge costs between v and c  -  cost of c's class
    in the cluster of a class outside P
        in which it has no neighbour:     - cost of that class
    in a new cluster of a class in P:     - cost of that class

and it moves to where it gains most. Each move lowers the cost of the labelling, so moves end.

The same kernel moves nodes of the input, parts of clusters and whole clusters: they are all nodes
of some graph. Moving a whole cluster changes its class, or merges it with another.

Shapes: n nodes of a graph, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit, jit_inner_pass, jit_step
from cops.solver.multilevel.cluster_numbers import count_sizes, leave, take_unused
from cops.solver.multilevel.rows import (
    MISSING,
    NODES_AT_ONCE,
    Graph,
    add_up,
    load_earlier,
    load_labels,
    load_run,
    make_row,
    make_tally,
    sum_sides,
    wake_neighbours,
)
from cops.solver.multilevel.sums import RELATIVE_GAIN
from cops.solver.parallel import ALONE, Workers


def move_constrained(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    max_passes: int,
    workers: Workers = ALONE,
) -> float:
    """Move each node to where it gains most until no move gains, or for `max_passes`.

    Args:
        graph: with forward and backward links.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place.
        class_of: (at least K + n,) int32, changed in place.
        max_passes: after the first pass, only nodes are looked at for which the move of a neighbour
            may have changed the best.
        workers: threads, which do not change the result.

    Returns:
        What the moves have gained in sum; 0 if there was none.
    """
    waiting = find_restless(graph, clusters, class_of, workers)
    if not waiting.any():
        return 0.0
    return float(_move_waiting(graph, partitionable, max_passes, clusters, class_of, waiting))


@jit
def _move_waiting(graph, partitionable, max_passes, clusters, class_of, waiting):
    """Do the passes of `move_constrained` over the nodes that wait."""
    num_nodes, num_classes = graph.node_costs.shape
    num_numbers = num_classes + num_nodes
    numbers = count_sizes(clusters, num_classes, num_numbers)
    row = make_row(graph)
    tally = make_tally(row, np.empty(num_numbers, np.float32))
    total = np.float64(0.0)
    for number in range(max_passes):
        gain = _pass_constrained(
            graph, partitionable, number, clusters, class_of, numbers, waiting, row, tally
        )
        total += gain
        if gain == 0.0:
            break
    return total


@jit_inner_pass
def _pass_constrained(
    graph, partitionable, number, clusters, class_of, numbers, waiting, row, tally
):
    """Do one pass of `move_constrained`; return what its moves have gained."""
    num_nodes, num_classes = graph.node_costs.shape
    total = np.float64(0.0)
    # Invariant: the labelling is feasible and costs `total` less than at first, and a node that
    # does not wait gains by no move.
    for v in range(num_nodes):
        if not waiting[v]:
            continue
        waiting[v] = False
        own = clusters[v]
        # Deep inside a segment the node stays. Nothing can gain more than the sum of the other
        # positive edges, and nothing without contact more than 0.
        count = load_labels(graph, v, clusters, row)
        inside, outside = sum_sides(row, count, own)
        stay = inside - graph.node_costs[v, class_of[own]]
        if stay >= outside:
            continue

        now = number * num_nodes + v
        tally.stamp[own] = now  # so that it is not listed
        num_touched = add_up(row, count, now, tally)
        threshold = stay + np.float32(RELATIVE_GAIN) * abs(stay)
        best, gain = find_contact(graph, v, class_of, tally, num_touched, own, threshold)
        alone = -1
        if gain < 0.0:
            alone, gain = find_class(graph, v, partitionable, tally, now, gain)
        if alone >= 0 and not partitionable[alone]:
            best = alone
        elif alone >= 0 and numbers.size[own] == 1 and own >= num_classes:
            # Alone already: a change of class.
            class_of[own] = alone
            total += gain - stay
            wake_neighbours(graph, v, clusters, waiting)
            continue
        elif alone >= 0:
            best = take_unused(numbers)
            class_of[best] = alone
        if best == own:
            continue
        total += gain - stay
        leave(numbers, own, num_classes)
        numbers.size[best] += 1
        clusters[v] = best
        wake_neighbours(graph, v, clusters, waiting)
    return total


@jit_step
def find_contact(graph, v, class_of, tally, num_touched, best, threshold):
    """Find the neighbouring cluster where v gains most, and more than `threshold`; else `best`."""
    for t in range(num_touched):
        c = tally.touched[t]
        weight = tally.weight[index(c)]
        if weight > threshold:
            gain = weight - graph.node_costs[index(v), index(class_of[index(c)])]
            if gain > threshold:
                threshold = gain
                best = c
    return best, threshold


@jit_step
def find_class(graph, v, partitionable, tally, now, threshold):
    """Find the class for which v gains most without contact, and more than `threshold`; else -1.

    The cluster of a class outside P is only meant where v does not touch it (its stamp).
    """
    best = -1
    for k in range(partitionable.size):
        gain = -graph.node_costs[index(v), k]
        if gain > threshold and (partitionable[k] or tally.stamp[k] != now):
            threshold = gain
            best = k
    return best, threshold


def find_restless(
    graph: Graph,
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    workers: Workers = ALONE,
    reach: float = 1.0,
) -> npt.NDArray[np.bool_]:
    """Mark (n,) nodes by False if they stay where they are as long as no neighbour moves.

    That is the first test of `move_constrained`. With a stencil it is made for many nodes at a
    time, run by run, in loops that compilers make vector instructions of. The terms of a node are
    added in the order of its row, so both tests have the same outcome to the last bit. In other
    graphs every node is restless.

    Args:
        graph: with forward and backward links.
        clusters: (n,) int32.
        class_of: (at least K + n,) int32.
        workers: threads, which do not change the result.
        reach: the other positive edges count so many times. Above 1, nodes are restless, too, that
            move only if others move with them.
    """
    num_nodes = graph.node_costs.shape[0]
    if graph.offsets.size == 0:
        return np.ones(num_nodes, np.bool_)
    restless = np.empty(num_nodes, np.bool_)
    workers.over(
        num_nodes, lambda *block: _mark_restless(graph, clusters, class_of, reach, *block, restless)
    )
    return restless


@jit
def _mark_restless(graph, clusters, class_of, reach, first, last, restless):
    """Do `find_restless` for nodes first .. last - 1."""
    node_costs = graph.node_costs
    inside = np.empty(NODES_AT_ONCE, np.float32)
    outside = np.empty(NODES_AT_ONCE, np.float32)
    zero = np.float32(0.0)
    for begin in range(first, last, NODES_AT_ONCE):
        end = min(begin + NODES_AT_ONCE, last)
        inside[:] = zero
        outside[:] = zero
        own = clusters[begin:end]
        for r in range(2 * graph.offsets.size):
            low, high, others, costs = load_run(graph, r, begin, end, clusters)
            _add_sides(own[low:high], others, costs, inside[low:high], outside[low:high])
        for v in range(begin, end):
            i = v - begin
            pays = node_costs[index(v), index(class_of[index(own[index(i)])])]
            restless[index(v)] = inside[index(i)] - pays < reach * outside[index(i)]
    return 0


@jit_inner_pass
def _add_sides(own, other, costs, inside, outside):
    """Add costs[i] to inside[i] where own[i] == other[i], else its positive part to outside[i]."""
    zero = np.float32(0.0)
    for i in range(own.size):
        same = own[i] == other[i]
        cost = costs[i] if costs[i] > MISSING else zero
        inside[i] += cost if same else zero
        outside[i] += zero if same else max(cost, zero)


@jit
def labelling_cost(graph, clusters, class_of):
    """Sum the cost of a labelling in reduced node costs, in float64."""
    return _sum_labelling(graph, clusters, class_of, make_row(graph))


@jit_inner_pass
def _sum_labelling(graph, clusters, class_of, row):
    """Do the pass of `labelling_cost`."""
    cost = np.float64(0.0)
    for v in range(clusters.size):
        cost += graph.node_costs[v, class_of[clusters[v]]]
        count = load_earlier(graph, v, np.int64(0), clusters, row)
        for i in range(count):
            cost += row.costs[i] if row.labels[i] != clusters[v] else 0.0
    return cost
