"""Local moving without the stuff rule: how the multilevel method finds clusters in the first place.

A node v that is in no cluster joins cluster B for a gain of

    sum of edge costs between v and B  +  low(B)  -  min_k (c_B(k) + c_v(k))

where c are (summed, reduced) node costs, low(B) = min_k c_B(k), and min_k c_v(k) = 0. That is the
similarity of Algorithm 2, but towards the *whole* cluster: one bad edge is outvoted by the others.
The last two terms together are never positive, so the sum of edge costs bounds the gain, and the
minimum over K classes is taken for candidates only that could win.

As in the Louvain method for modularity, the best cluster is taken at once, in the order of the
nodes; `first_sweep` does so on the input, `move_freely` again and again on contracted graphs.
Here every class may have several clusters; multilevel.py joins those of a class outside P later.

Shapes: n nodes of a graph, K classes, M clusters.
"""

from __future__ import annotations

import numpy as np

from cops.solver._jit import jit
from cops.solver.multilevel.rows import (
    jit_inline,
    jit_pass,
    load_labels,
    row_capacity,
    wake_neighbours,
)

# A move must gain more than this share of what the node has now: rounding is no reason to move.
RELATIVE_GAIN = 1e-6


@jit_inline
def lowest_sum(sums, cluster, node_costs, node):
    """Min over k of sums[cluster, k] + node_costs[node, k]."""
    # Four minima side by side: a comparison need not wait for the one before.
    a = b = c = d = sums[cluster, 0] + node_costs[node, 0]
    size = sums.shape[1]
    for k in range(0, size - 3, 4):
        a = min(a, sums[cluster, k] + node_costs[node, k])
        b = min(b, sums[cluster, k + 1] + node_costs[node, k + 1])
        c = min(c, sums[cluster, k + 2] + node_costs[node, k + 2])
        d = min(d, sums[cluster, k + 3] + node_costs[node, k + 3])
    for k in range(size - size % 4, size):
        a = min(a, sums[cluster, k] + node_costs[node, k])
    return min(min(a, b), min(c, d))


@jit_inline
def lowest_difference(sums, cluster, node_costs, node):
    """Min over k of sums[cluster, k] - node_costs[node, k]."""
    # Four minima side by side: a comparison need not wait for the one before.
    a = b = c = d = sums[cluster, 0] - node_costs[node, 0]
    size = sums.shape[1]
    for k in range(0, size - 3, 4):
        a = min(a, sums[cluster, k] - node_costs[node, k])
        b = min(b, sums[cluster, k + 1] - node_costs[node, k + 1])
        c = min(c, sums[cluster, k + 2] - node_costs[node, k + 2])
        d = min(d, sums[cluster, k + 3] - node_costs[node, k + 3])
    for k in range(size - size % 4, size):
        a = min(a, sums[cluster, k] - node_costs[node, k])
    return min(min(a, b), min(c, d))


@jit_inline
def add_to_cluster(sums, low, best_of, cluster, graph, node):
    """Add the node's costs to its cluster's, and renew the cluster's lowest cost and best class."""
    least = low[cluster]
    # Where the class stays the best, the node pays nothing for it.
    another = best_of[cluster] != graph.best[node]
    if another:
        least = lowest_sum(sums, cluster, graph.node_costs, node)
        low[cluster] = least
    for k in range(sums.shape[1]):
        sums[cluster, k] += graph.node_costs[node, k]
    if another:
        best_of[cluster] = find_lowest(sums, cluster, least)


@jit_inline
def find_lowest(sums, cluster, low):
    """The first class k with sums[cluster, k] == low, which must exist."""
    lowest = 0
    while sums[cluster, lowest] > low:
        lowest += 1
    return lowest


@jit_inline
def gain_of_joining(weight, sums, low, best_of, cluster, graph, node):
    """What the node gains by joining a cluster to which it has edges of this sum."""
    gain = weight
    if best_of[cluster] != graph.best[node]:
        gain = weight + low[cluster] - lowest_sum(sums, cluster, graph.node_costs, node)
    return gain


@jit_inline
def least_gain_of_joining(weight, sums, low, best_of, cluster, graph, node):
    """A lower bound of `gain_of_joining`, from the best classes of both sides only."""
    of_cluster = graph.node_costs[node, best_of[cluster]]
    of_node = sums[cluster, graph.best[node]] - low[cluster]
    return weight - min(of_cluster, of_node)


@jit
def first_sweep(graph, begin, end, clusters):
    """Let each node of a range join the best cluster of earlier nodes of the range, or found one.

    One pass in the order of the nodes, over backward rows only: a later neighbour is in no cluster
    yet, and will itself look back. Ranges do not see each other, so they may run side by side.

    Args:
        begin, end: the range of nodes.
        clusters: (n,) int32; entries begin .. end-1 are set, to 0 .. M-1.

    Returns:
        M, the number of clusters of this range.
    """
    size = end - begin
    num_classes = graph.node_costs.shape[1]
    # Memory that is not written costs nothing, so rows for `size` clusters are asked for.
    sums = np.empty((size, num_classes), np.float32)
    low = np.empty(size, np.float32)
    best_of = np.empty(size, np.int32)
    weight = np.empty(size, np.float32)
    seen = np.full(size, -1, np.int32)
    capacity = row_capacity(graph)
    labels = np.empty(capacity, np.int32)
    costs = np.empty(capacity, np.float32)
    touched = np.empty(capacity, np.int32)
    return sweep_range(
        graph, begin, end, clusters, sums, low, best_of, weight, seen, labels, costs, touched
    )


@jit_pass
def sweep_range(
    graph, begin, end, clusters, sums, low, best_of, weight, seen, labels, costs, touched
):
    """The pass of `first_sweep`."""
    num_classes = graph.node_costs.shape[1]
    num_clusters = 0
    for v in range(begin, end):
        count = load_labels(graph, v, begin, False, clusters, labels, costs)
        best = -1
        if count > 0:
            # Inside a segment the first neighbour's cluster wins by far. It has won if its gain
            # exceeds what all other links together could bring.
            guess = labels[0]
            inside = np.float32(0.0)
            outside = np.float32(0.0)
            for i in range(count):
                if labels[i] == guess:
                    inside += costs[i]
                else:
                    outside += max(costs[i], np.float32(0.0))
            if inside > outside:
                gain = gain_of_joining(inside, sums, low, best_of, guess, graph, v)
                if gain > outside:
                    best = guess
        if best < 0:
            num_touched = 0
            for i in range(count):
                c = labels[i]
                if seen[c] != v:
                    seen[c] = v
                    weight[c] = costs[i]
                    touched[num_touched] = c
                    num_touched += 1
                else:
                    weight[c] += costs[i]
            # The best candidate gains this much at least, so those with less need no minimum.
            floor = np.float32(0.0)
            for t in range(num_touched):
                c = touched[t]
                if weight[c] > floor:
                    least = least_gain_of_joining(weight[c], sums, low, best_of, c, graph, v)
                    floor = max(floor, least)
            best_gain = np.float32(0.0)
            for t in range(num_touched):
                c = touched[t]
                if weight[c] >= floor and weight[c] > best_gain:
                    gain = gain_of_joining(weight[c], sums, low, best_of, c, graph, v)
                    if gain > best_gain:
                        best_gain = gain
                        best = c
        if best < 0:
            best = num_clusters
            num_clusters += 1
            for k in range(num_classes):
                sums[best, k] = graph.node_costs[v, k]
            low[best] = 0.0
            best_of[best] = graph.best[v]
        else:
            add_to_cluster(sums, low, best_of, best, graph, v)
        clusters[v] = best
    return num_clusters


@jit
def move_freely(graph, max_passes):
    """Start from single nodes and move each to the best cluster until no move gains.

    A node may also leave its cluster for one of its own. Nodes are taken in order; after the first
    pass, only those are looked at again for which a move of a neighbour may have changed the best.

    Returns:
        clusters (n,) int32, 0 .. M-1 numbered by first nodes; and M.
    """
    num_nodes, num_classes = graph.node_costs.shape
    clusters = np.arange(num_nodes).astype(np.int32)
    sums = graph.node_costs.astype(np.float64)
    low = np.zeros(num_nodes, np.float64)
    best_of = graph.best.copy()
    size = np.ones(num_nodes, np.int32)
    capacity = row_capacity(graph)
    labels = np.empty(capacity, np.int32)
    costs = np.empty(capacity, np.float32)
    touched = np.empty(capacity, np.int32)
    weight = np.empty(num_nodes, np.float64)
    stamp = np.full(num_nodes, -1, np.int64)
    unused = np.empty(num_nodes, np.int32)
    num_unused = np.zeros(1, np.int64)
    waiting = np.ones(num_nodes, np.bool_)
    for number in range(max_passes):
        num_moves = pass_freely(
            graph,
            number,
            clusters,
            sums,
            low,
            best_of,
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
        if num_moves == 0:
            break
    return clusters, number_by_first(clusters, num_nodes)


@jit_pass
def pass_freely(
    graph,
    number,
    clusters,
    sums,
    low,
    best_of,
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
    """One pass of `move_freely`; returns the number of moves."""
    num_nodes, num_classes = graph.node_costs.shape
    num_moves = 0
    for v in range(num_nodes):
        if not waiting[v]:
            continue
        waiting[v] = False
        now = number * num_nodes + v
        own = clusters[v]
        stamp[own] = now
        weight[own] = 0.0
        num_touched = 0
        count = load_labels(graph, v, 0, True, clusters, labels, costs)
        for i in range(count):
            c = labels[i]
            if stamp[c] != now:
                stamp[c] = now
                weight[c] = costs[i]
                touched[num_touched] = c
                num_touched += 1
            else:
                weight[c] += costs[i]
        # Gains are those over standing alone, which is 0.
        low_without = 0.0
        best_gain = 0.0
        if size[own] > 1:
            low_without = lowest_difference(sums, own, graph.node_costs, v)
            best_gain = weight[own] + low_without - low[own]
        best = own
        threshold = best_gain + RELATIVE_GAIN * abs(best_gain)
        if size[own] > 1 and threshold < 0.0:
            best = -1
            threshold = 0.0
        floor = threshold
        for t in range(num_touched):
            c = touched[t]
            if weight[c] > floor:
                least = least_gain_of_joining(weight[c], sums, low, best_of, c, graph, v)
                floor = max(floor, least)
        for t in range(num_touched):
            c = touched[t]
            if weight[c] >= floor and weight[c] > threshold:
                gain = gain_of_joining(weight[c], sums, low, best_of, c, graph, v)
                if gain > threshold:
                    threshold = gain
                    best = c
        if best == own:
            continue
        num_moves += 1
        size[own] -= 1
        if size[own] == 0:
            unused[num_unused[0]] = own
            num_unused[0] += 1
        for k in range(num_classes):
            # A cluster without nodes costs exactly nothing, whatever was rounded before.
            sums[own, k] = sums[own, k] - graph.node_costs[v, k] if size[own] > 0 else 0.0
        low[own] = 0.0
        if size[own] > 0:
            low[own] = low_without
            best_of[own] = find_lowest(sums, own, low_without)
        if best < 0:
            num_unused[0] -= 1
            best = unused[num_unused[0]]
        add_to_cluster(sums, low, best_of, best, graph, v)
        size[best] += 1
        clusters[v] = best
        wake_neighbours(graph, v, clusters, waiting)
    return num_moves


@jit
def number_by_first(clusters, limit):
    """Renumber clusters 0 .. M-1 in the order of their first nodes, in place; returns M.

    Args:
        clusters: (n,) int32, numbers below `limit`.
    """
    new = np.full(limit, -1, np.int32)
    count = 0
    for v in range(clusters.size):
        c = clusters[v]
        if new[c] < 0:
            new[c] = count
            count += 1
        clusters[v] = new[c]
    return count
