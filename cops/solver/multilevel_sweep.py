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
from cops.solver.multilevel_graph import jit_minimum

# A move must gain more than this share of what the node has now: rounding is no reason to move.
RELATIVE_GAIN = 1e-6


@jit_minimum
def lowest_sum(sums, cluster, node_costs, node):  # type: ignore[no-untyped-def]
    """min over k of sums[cluster, k] + node_costs[node, k]."""
    low = sums[cluster, 0] + node_costs[node, 0]
    for k in range(1, sums.shape[1]):
        low = min(low, sums[cluster, k] + node_costs[node, k])
    return low


@jit_minimum
def lowest_difference(sums, cluster, node_costs, node):  # type: ignore[no-untyped-def]
    """min over k of sums[cluster, k] - node_costs[node, k]."""
    low = sums[cluster, 0] - node_costs[node, 0]
    for k in range(1, sums.shape[1]):
        low = min(low, sums[cluster, k] - node_costs[node, k])
    return low


@jit_minimum
def add_to_cluster(sums, cluster, node_costs, node):  # type: ignore[no-untyped-def]
    """Add the node's costs to its cluster's; returns the new minimum."""
    low = sums[cluster, 0] + node_costs[node, 0]
    for k in range(sums.shape[1]):
        cost = sums[cluster, k] + node_costs[node, k]
        sums[cluster, k] = cost
        low = min(low, cost)
    return low


@jit
def first_sweep(graph, begin, end, clusters):  # type: ignore[no-untyped-def]
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
    weight = np.empty(size, np.float32)
    seen = np.full(size, -1, np.int32)
    touched = np.empty(size, np.int32)
    num_clusters = 0
    for v in range(begin, end):
        start = graph.first[v]
        stop = graph.middle[v]
        while start < stop and graph.links[start]["node"] < begin:
            start += 1
        best = -1
        if start < stop:
            # Inside a segment the first neighbour's cluster wins by far. It has won if its gain
            # exceeds what all other links together could bring.
            guess = clusters[graph.links[start]["node"]]
            inside = np.float32(0.0)
            outside = np.float32(0.0)
            for i in range(start, stop):
                link = graph.links[i]
                cost = link["cost"]
                if link["node"] < begin:
                    continue
                if clusters[link["node"]] == guess:
                    inside += cost
                elif cost > 0.0:
                    outside += cost
            if inside > outside:
                gain = inside + low[guess] - lowest_sum(sums, guess, graph.node_costs, v)
                if gain > outside:
                    best = guess
        if best < 0:
            num_touched = 0
            for i in range(start, stop):
                link = graph.links[i]
                if link["node"] < begin:
                    continue
                c = clusters[link["node"]]
                if seen[c] != v:
                    seen[c] = v
                    weight[c] = link["cost"]
                    touched[num_touched] = c
                    num_touched += 1
                else:
                    weight[c] += link["cost"]
            best_gain = np.float32(0.0)
            for t in range(num_touched):
                c = touched[t]
                if weight[c] > best_gain:
                    gain = weight[c] + low[c] - lowest_sum(sums, c, graph.node_costs, v)
                    if gain > best_gain:
                        best_gain = gain
                        best = c
        if best < 0:
            best = num_clusters
            num_clusters += 1
            for k in range(num_classes):
                sums[best, k] = graph.node_costs[v, k]
            low[best] = 0.0
        else:
            low[best] = add_to_cluster(sums, best, graph.node_costs, v)
        clusters[v] = best
    return num_clusters


@jit
def move_freely(graph, max_passes):  # type: ignore[no-untyped-def]
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
    size = np.ones(num_nodes, np.int32)
    weight = np.empty(num_nodes, np.float64)
    touched = np.empty(num_nodes + 1, np.int32)
    stamp = np.full(num_nodes, -1, np.int64)
    unused = np.empty(num_nodes, np.int32)
    num_unused = 0
    waiting = np.ones(num_nodes, np.bool_)
    for number in range(max_passes):
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
            for i in range(graph.first[v], graph.first[v + 1]):
                link = graph.links[i]
                c = clusters[link["node"]]
                if stamp[c] != now:
                    stamp[c] = now
                    weight[c] = link["cost"]
                    touched[num_touched] = c
                    num_touched += 1
                else:
                    weight[c] += link["cost"]
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
            for t in range(num_touched):
                c = touched[t]
                if weight[c] > threshold:
                    gain = weight[c] + low[c] - lowest_sum(sums, c, graph.node_costs, v)
                    if gain > threshold:
                        threshold = gain
                        best = c
            if best == own:
                continue
            num_moves += 1
            size[own] -= 1
            if size[own] == 0:
                unused[num_unused] = own
                num_unused += 1
            for k in range(num_classes):
                # A cluster without nodes costs exactly nothing, whatever was rounded before.
                sums[own, k] = sums[own, k] - graph.node_costs[v, k] if size[own] > 0 else 0.0
            low[own] = low_without if size[own] > 0 else 0.0
            if best < 0:
                num_unused -= 1
                best = unused[num_unused]
            low[best] = add_to_cluster(sums, best, graph.node_costs, v)
            size[best] += 1
            clusters[v] = best
            for i in range(graph.first[v], graph.first[v + 1]):
                link = graph.links[i]
                # Those in the new cluster that are glad to have v there have no reason to move.
                if clusters[link["node"]] != best or link["cost"] < 0.0:
                    waiting[link["node"]] = True
        if num_moves == 0:
            break
    return clusters, number_by_first(clusters, num_nodes)


@jit
def number_by_first(clusters, limit):  # type: ignore[no-untyped-def]
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
