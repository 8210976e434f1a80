"""Local moving under the stuff rule: how the multilevel method improves a feasible labelling.

A labelling of a graph is a pair of arrays: `clusters` (n,) and `class_of`, the class of each
cluster. Cluster numbers below K are set aside: number k is *the* cluster of class k if k is not
partitionable (and not used otherwise); clusters of partitionable classes have numbers from K on. So
the rule "one cluster for a class outside P" holds by construction, and joining that cluster uncuts
the edges to all its nodes, wherever they are.

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

from cops.solver._jit import jit
from cops.solver.multilevel.chain import chain_budget, move_chains
from cops.solver.multilevel.graph import contract, find_components
from cops.solver.multilevel.rows import (
    MISSING,
    jit_pass,
    load_labels,
    row_capacity,
    wake_neighbours,
)
from cops.solver.multilevel.sweep import RELATIVE_GAIN

# Nodes of which `find_restless` sums costs at a time: a few arrays of this size fit into L1.
RESTLESS_BLOCK = 1024
# A chain of parts (chain.py) ends when so many have brought nothing better. In a round,
# chains of parts may visit this share of the links that those of nodes may.
PART_PATIENCE = 8
PART_BUDGET = 0.3


@jit
def move_constrained(graph, partitionable, clusters, class_of, max_passes):
    """Move each node to where it gains most until no move gains, or for `max_passes`.

    Args:
        graph: with forward and backward links.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place.
        class_of: (at least K + n,) int32, changed in place.
        max_passes: after the first pass, only nodes are looked at for which the move of a neighbour
            may have changed the best.

    Returns:
        What the moves have gained in sum; 0 if there was none.
    """
    num_nodes, num_classes = graph.node_costs.shape
    num_numbers = num_classes + num_nodes
    size = np.zeros(num_numbers, np.int32)
    for v in range(num_nodes):
        size[clusters[v]] += 1
    unused = np.empty(num_nodes, np.int32)
    num_unused = np.zeros(1, np.int64)
    for c in range(num_numbers - 1, num_classes - 1, -1):
        if size[c] == 0:
            unused[num_unused[0]] = c
            num_unused[0] += 1
    weight = np.empty(num_numbers, np.float32)
    stamp = np.full(num_numbers, -1, np.int64)
    capacity = row_capacity(graph)
    labels = np.empty(capacity, np.int32)
    costs = np.empty(capacity, np.float32)
    touched = np.empty(capacity, np.int32)
    waiting = find_restless(graph, clusters, class_of)
    total = np.float64(0.0)
    for number in range(max_passes):
        gain = pass_constrained(
            graph,
            partitionable,
            number,
            clusters,
            class_of,
            size,
            unused,
            num_unused,
            waiting,
            weight,
            stamp,
            labels,
            costs,
            touched,
        )
        total += gain
        if gain == 0.0:
            break
    return total


@jit_pass
def pass_constrained(
    graph,
    partitionable,
    number,
    clusters,
    class_of,
    size,
    unused,
    num_unused,
    waiting,
    weight,
    stamp,
    labels,
    costs,
    touched,
):
    """One pass of `move_constrained`; returns what its moves have gained."""
    num_nodes, num_classes = graph.node_costs.shape
    total = np.float64(0.0)
    for v in range(num_nodes):
        if not waiting[v]:
            continue
        waiting[v] = False
        own = clusters[v]
        # Deep inside a segment the node stays: nothing can gain more than the sum of the other
        # positive edges, and nothing without contact more than 0.
        count = load_labels(graph, v, 0, True, clusters, labels, costs)
        inside = np.float32(0.0)
        outside = np.float32(0.0)
        for i in range(count):
            if labels[i] == own:
                inside += costs[i]
            else:
                outside += max(costs[i], np.float32(0.0))
        stay = inside - graph.node_costs[v, class_of[own]]
        if stay >= outside:
            continue

        now = number * num_nodes + v
        num_touched = 0
        stamp[own] = now
        for i in range(count):
            c = labels[i]
            if stamp[c] != now:
                stamp[c] = now
                weight[c] = costs[i]
                touched[num_touched] = c
                num_touched += 1
            else:
                weight[c] += costs[i]
        best = own
        threshold = stay + np.float32(RELATIVE_GAIN) * abs(stay)
        for t in range(num_touched):
            c = touched[t]
            if weight[c] > threshold:
                gain = weight[c] - graph.node_costs[v, class_of[c]]
                if gain > threshold:
                    threshold = gain
                    best = c
        alone = -1
        if threshold < 0.0:
            for k in range(num_classes):
                gain = -graph.node_costs[v, k]
                if gain > threshold and (partitionable[k] or stamp[k] != now):
                    threshold = gain
                    alone = k
        if alone >= 0:
            if not partitionable[alone]:
                best = alone
            elif size[own] == 1 and own >= num_classes:
                # Alone already: a change of class.
                class_of[own] = alone
                total += threshold - stay
                wake_neighbours(graph, v, clusters, waiting)
                continue
            else:
                num_unused[0] -= 1
                best = unused[num_unused[0]]
                class_of[best] = alone
        if best == own:
            continue
        total += threshold - stay
        size[own] -= 1
        if size[own] == 0 and own >= num_classes:
            unused[num_unused[0]] = own
            num_unused[0] += 1
        size[best] += 1
        clusters[v] = best
        wake_neighbours(graph, v, clusters, waiting)
    return total


@jit
def find_restless(graph, clusters, class_of):
    """(n,) bool: False for nodes that stay where they are as long as no neighbour moves.

    That is the first test of `move_constrained`, for a graph with a stencil for many nodes at a
    time, run by run, in loops that compilers make vector instructions of. The terms of a node are
    added in the order of its row, so both tests have the same outcome to the last bit. In other
    graphs every node is restless.
    """
    num_nodes = graph.node_costs.shape[0]
    restless = np.ones(num_nodes, np.bool_)
    if graph.offsets.size == 0:
        return restless
    inside = np.empty(RESTLESS_BLOCK, np.float32)
    outside = np.empty(RESTLESS_BLOCK, np.float32)
    mark_restless(graph, clusters, class_of, inside, outside, restless)
    return restless


@jit_pass
def mark_restless(graph, clusters, class_of, inside, outside, restless):
    """The pass of `find_restless`."""
    num_nodes = restless.size
    zero = np.float32(0.0)
    for begin in range(0, num_nodes, RESTLESS_BLOCK):
        end = min(begin + RESTLESS_BLOCK, num_nodes)
        inside[:] = zero
        outside[:] = zero
        own = clusters[begin:end]
        for r in range(2 * graph.offsets.size):
            backward = r < graph.offsets.size
            offset = graph.offsets[r if backward else r - graph.offsets.size]
            # Nodes from .. to - 1 of the block may have a neighbour there.
            low = max(offset - begin, 0) if backward else 0
            high = end - begin if backward else min(end, num_nodes - offset) - begin
            if high <= low:
                continue
            shift = begin - offset if backward else begin
            costs = graph.run_costs[r if backward else r - graph.offsets.size]
            costs = costs[shift + low : shift + high]
            others = begin - offset if backward else begin + offset
            other = clusters[others + low : others + high]
            add_sides(own[low:high], other, costs, inside[low:high], outside[low:high])
        for v in range(begin, end):
            i = v - begin
            restless[v] = inside[i] - graph.node_costs[v, class_of[own[i]]] < outside[i]
    return 0


@jit_pass
def add_sides(own, other, costs, inside, outside):
    """Add costs[i] to inside[i] where own[i] == other[i], else its positive part to outside[i]."""
    zero = np.float32(0.0)
    for i in range(own.size):
        same = own[i] == other[i]
        cost = costs[i] if costs[i] > MISSING else zero
        inside[i] += cost if same else zero
        outside[i] += zero if same else max(cost, zero)


@jit
def renumber(clusters, class_of, num_classes, capacity):
    """The same labelling with its instances numbered K, K + 1, ... by their first nodes.

    Returns:
        clusters (n,) int32 and class_of (K + capacity,) int32.
    """
    new = np.full(class_of.size, -1, np.int32)
    compact = np.empty(clusters.size, np.int32)
    classes = np.zeros(num_classes + capacity, np.int32)
    for k in range(num_classes):
        new[k] = k
        classes[k] = k
    count = num_classes
    for v in range(clusters.size):
        c = clusters[v]
        if new[c] < 0:
            new[c] = count
            classes[count] = class_of[c]
            count += 1
        compact[v] = new[c]
    return compact, classes


@jit
def move_parts(graph, partitionable, clusters, class_of, max_rounds):
    """Move parts of clusters as wholes, alone and in chains: small ones, then connected clusters.

    In the first round a part is a connected set of nodes that have one cluster *and* one best class
    of their own: where a segment has swallowed another, this is what its class costs still show.
    Later rounds take the connected parts of the clusters that have come out.

    Args:
        graph: backward rows suffice.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place.
        class_of: (K + n,) int32, changed in place.
        max_rounds: how often at most to contract.

    Returns:
        What the moves have gained in sum; 0 if there was none.
    """
    num_nodes, num_classes = graph.node_costs.shape
    # Invariant: `parts` leads from nodes of the graph to nodes of `small`; `coarse` and `classes`
    # are the labelling of the latter.
    small = graph
    parts = np.arange(num_nodes).astype(np.int32)
    coarse = clusters.copy()
    classes = class_of.copy()
    total = np.float64(0.0)
    budget = np.int64(PART_BUDGET * chain_budget(graph))
    for number in range(max_rounds):
        joined, num_parts = find_components(small, coarse, number == 0)
        representative = np.empty(num_parts, np.int32)
        for v in range(joined.size):
            representative[joined[v]] = coarse[v]
        for v in range(num_nodes):
            parts[v] = joined[parts[v]]
        small, _ = contract(small, joined, num_parts)
        coarse, classes = renumber(representative, classes, num_classes, num_parts)
        gain = move_constrained(small, partitionable, coarse, classes, 20)
        chained = move_chains(
            small, coarse, classes, np.ones(num_parts, np.bool_), PART_PATIENCE, budget, False
        )
        if chained > 0.0:
            gain += chained + move_constrained(small, partitionable, coarse, classes, 20)
        total += gain
        if gain == 0.0 and number > 0:
            break
    for v in range(num_nodes):
        clusters[v] = coarse[parts[v]]
    class_of[: classes.size] = classes
    return total


@jit
def labelling_cost(graph, clusters, class_of):
    """The cost of a labelling in reduced node costs, summed in float64."""
    capacity = row_capacity(graph)
    labels = np.empty(capacity, np.int32)
    costs = np.empty(capacity, np.float32)
    return sum_labelling(graph, clusters, class_of, labels, costs)


@jit_pass
def sum_labelling(graph, clusters, class_of, labels, costs):
    """The pass of `labelling_cost`."""
    cost = np.float64(0.0)
    for v in range(clusters.size):
        cost += graph.node_costs[v, class_of[clusters[v]]]
        count = load_labels(graph, v, 0, False, clusters, labels, costs)
        for i in range(count):
            cost += costs[i] if labels[i] != clusters[v] else 0.0
    return cost
