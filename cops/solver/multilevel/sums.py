"""What clusters cost while every class may have several, and what a node gains by joining one.

A node v that is in no cluster joins cluster B for a gain of

    sum of edge costs between v and B  +  low(B)  -  min_k (c_B(k) + c_v(k))

where c are (summed, reduced) node costs, low(B) = min_k c_B(k), and min_k c_v(k) = 0. That is the
similarity of Algorithm 2, but towards the *whole* cluster: one bad edge is outvoted by the others.
The last two terms together are never positive, so the sum of edge costs bounds the gain. The
minimum over K classes is taken for candidates only that could win.

Shapes: n nodes of a graph, K classes, M clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit_step

# A move must gain more than this share of what the node has now: rounding is no reason to move.
RELATIVE_GAIN = 1e-6


class Sums(NamedTuple):
    """What clusters cost, under their numbers; changed in place.

    Attributes:
        costs: (M, K) float32 or float64, the node costs of each cluster in sum.
        low: (M,) of the same type, the lowest cost of each.
        best: (M,) int32, a class of lowest cost.
    """

    costs: npt.NDArray[Any]
    low: npt.NDArray[Any]
    best: npt.NDArray[np.int32]


@jit_step
def lowest_sum(sums, cluster, node_costs, node):
    """Return the minimum over k of sums.costs[cluster, k] + node_costs[node, k]."""
    # Four minima side by side: a comparison need not wait for the one before.
    i, j = index(cluster), index(node)
    a = b = c = d = sums.costs[i, 0] + node_costs[j, 0]
    size = sums.costs.shape[1]
    for k in range(0, size - 3, 4):
        a = min(a, sums.costs[i, k] + node_costs[j, k])
        b = min(b, sums.costs[i, k + 1] + node_costs[j, k + 1])
        c = min(c, sums.costs[i, k + 2] + node_costs[j, k + 2])
        d = min(d, sums.costs[i, k + 3] + node_costs[j, k + 3])
    for k in range(size - size % 4, size):
        a = min(a, sums.costs[i, index(k)] + node_costs[j, index(k)])
    return min(min(a, b), min(c, d))


@jit_step
def lowest_difference(sums, cluster, node_costs, node):
    """Return the minimum over k of sums.costs[cluster, k] - node_costs[node, k]."""
    # Four minima side by side: a comparison need not wait for the one before.
    i, j = index(cluster), index(node)
    a = b = c = d = sums.costs[i, 0] - node_costs[j, 0]
    size = sums.costs.shape[1]
    for k in range(0, size - 3, 4):
        a = min(a, sums.costs[i, k] - node_costs[j, k])
        b = min(b, sums.costs[i, k + 1] - node_costs[j, k + 1])
        c = min(c, sums.costs[i, k + 2] - node_costs[j, k + 2])
        d = min(d, sums.costs[i, k + 3] - node_costs[j, k + 3])
    for k in range(size - size % 4, size):
        a = min(a, sums.costs[i, index(k)] - node_costs[j, index(k)])
    return min(min(a, b), min(c, d))


@jit_step
def find_lowest(sums, cluster, low):
    """Find the first class k with sums.costs[cluster, k] == low, which must exist."""
    lowest = 0
    while sums.costs[cluster, lowest] > low:
        lowest += 1
    return lowest


@jit_step
def found_cluster(sums, cluster, graph, node):
    """Make a cluster of one node; its lowest cost is 0, as node costs are reduced."""
    for k in range(sums.costs.shape[1]):
        sums.costs[cluster, k] = graph.node_costs[node, k]
    sums.low[cluster] = 0.0
    sums.best[cluster] = graph.best[node]


@jit_step
def add_to_cluster(sums, cluster, graph, node):
    """Add the node's costs to its cluster's, and renew the cluster's lowest cost and best class."""
    i, j = index(cluster), index(node)
    least = sums.low[i]
    # Where the class stays the best, the node pays nothing for it.
    another = sums.best[i] != graph.best[j]
    if another:
        least = lowest_sum(sums, cluster, graph.node_costs, node)
        sums.low[i] = least
    for k in range(sums.costs.shape[1]):
        sums.costs[i, k] += graph.node_costs[j, k]
    if another:
        sums.best[cluster] = find_lowest(sums, cluster, least)


@jit_step
def take_from_cluster(sums, cluster, graph, node, is_last, low):
    """Take the node's costs from its cluster's, whose lowest cost without it is `low`."""
    for k in range(sums.costs.shape[1]):
        left = sums.costs[cluster, k] - graph.node_costs[node, k]
        # A cluster without nodes costs exactly nothing, whatever was rounded before.
        sums.costs[cluster, k] = 0.0 if is_last else left
    sums.low[cluster] = 0.0
    if not is_last:
        sums.low[cluster] = low
        sums.best[cluster] = find_lowest(sums, cluster, low)


@jit_step
def gain_of_joining(weight, sums, cluster, graph, node):
    """Return what the node gains by joining a cluster to which it has edges of this sum."""
    gain = weight
    if sums.best[index(cluster)] != graph.best[index(node)]:
        gain = weight + sums.low[index(cluster)] - lowest_sum(sums, cluster, graph.node_costs, node)
    return gain


@jit_step
def least_gain_of_joining(weight, sums, cluster, graph, node):
    """Bound `gain_of_joining` from below, by the best classes of both sides only."""
    i, j = index(cluster), index(node)
    of_cluster = graph.node_costs[j, index(sums.best[i])]
    of_node = sums.costs[i, index(graph.best[j])] - sums.low[i]
    return weight - min(of_cluster, of_node)


@jit_step
def find_candidate(graph, node, tally, num_touched, sums, threshold, best):
    """Find the cluster for which the node gains most.

    Args:
        graph: of the node.
        node: in none of the clusters that are listed.
        tally: sums of its edges into the first `num_touched` clusters.
        num_touched: how many clusters there are.
        sums: of the clusters.
        threshold: a cluster must bring more than this.
        best: what is returned if none does.
    """
    # The best candidate gains this much at least, so those with less need no minimum.
    floor = threshold
    for t in range(num_touched):
        c = np.int64(tally.touched[t])
        weight = tally.weight[index(c)]
        if weight > floor:
            floor = max(floor, least_gain_of_joining(weight, sums, c, graph, node))
    for t in range(num_touched):
        c = np.int64(tally.touched[t])
        weight = tally.weight[index(c)]
        if weight >= floor and weight > threshold:
            gain = gain_of_joining(weight, sums, c, graph, node)
            if gain > threshold:
                threshold = gain
                best = c
    return best
