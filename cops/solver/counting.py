"""Kernels over all nodes or all edges of a problem: maxima, sums, cuts, numbers.

Shapes: V nodes, K classes, E edges, M clusters.
"""

from __future__ import annotations

import numpy as np

from cops.solver._jit import jit


@jit
def largest_masked(bits, mask, begin, end):
    """Return the largest of some unsigned integers of which only the bits in `mask` count."""
    largest = mask ^ mask
    for i in range(begin, end):
        largest = max(largest, bits[i] & mask)
    return largest


@jit
def mark_cut(edges, clusters, begin, end, is_cut):
    """Fill is_cut[begin:end] of (E,): whether the ends of each edge have different clusters."""
    for e in range(begin, end):
        is_cut[e] = clusters[edges[e, 0]] != clusters[edges[e, 1]]


@jit
def sum_cut(edge_costs, is_cut, begin, end):
    """Sum the costs of the cut edges among begin .. end - 1, in float64 and in a fixed order."""
    # Four sums side by side, so that an addition need not wait for the one before; and products
    # instead of branches, which nobody could predict.
    a = b = c = d = np.float64(0.0)
    for e in range(begin, end - 3, 4):
        a += np.float64(edge_costs[e]) * is_cut[e]
        b += np.float64(edge_costs[e + 1]) * is_cut[e + 1]
        c += np.float64(edge_costs[e + 2]) * is_cut[e + 2]
        d += np.float64(edge_costs[e + 3]) * is_cut[e + 3]
    for e in range(end - (end - begin) % 4, end):
        a += np.float64(edge_costs[e]) * is_cut[e]
    return (a + b) + (c + d)


@jit
def sum_chosen(node_costs, classes, begin, end):
    """Sum what nodes begin .. end - 1 pay for their classes, in float64 and in their order."""
    total = np.float64(0.0)
    for v in range(begin, end):
        total += node_costs[v, classes[v]]
    return total


@jit
def number_clusters(node_classes, node_clusters, partitionable):
    """Give clusters the numbers 0 .. M-1 by their first nodes, one per class outside P.

    Args:
        node_classes: (V,) int32.
        node_clusters: (V,) int32 in 0 .. K+V-1.
        partitionable: (K,) bool.

    Returns:
        (V,) int32.
    """
    num_nodes = node_classes.size
    num_classes = partitionable.size
    # A key for each cluster: its class if the class may have one cluster only, else K + its number.
    number = np.full(2 * num_classes + num_nodes, -1, dtype=np.int32)
    numbered = np.empty(num_nodes, dtype=np.int32)
    count = 0
    for node in range(num_nodes):
        key = node_classes[node]
        if partitionable[key]:
            key = num_classes + node_clusters[node]
        if number[key] < 0:
            number[key] = count
            count += 1
        numbered[node] = number[key]
    return numbered
