"""Kernels over all nodes or all edges of a problem: maxima, sums, cuts, numbers.

They go through slices from 0 on. Of an index that might be negative, Numba asks each time whether
it counts from the end. Such a loop does not become vector instructions and takes ten times as long.

Shapes: V nodes, K classes, E edges, M clusters.
"""

from __future__ import annotations

import numpy as np

from cops.solver._jit import index, jit, jit_inner_pass

# `sum_cut` keeps so many sums side by side: they fit into L1.
SUMS_AT_ONCE = 512


@jit
def largest_masked(bits, mask, begin, end):
    """Return the largest of some unsigned integers of which only the bits in `mask` count."""
    largest = mask ^ mask
    part = bits[begin:end]
    for i in range(part.size):
        largest = max(largest, part[i] & mask)
    return largest


@jit
def mark_cut(edges, clusters, begin, end, is_cut):
    """Write whether edges begin .. end - 1 lie between two clusters, from is_cut[0] on."""
    ends = edges[begin:end]
    for e in range(is_cut.size):
        is_cut[e] = clusters[index(ends[e, 0])] != clusters[index(ends[e, 1])]


@jit
def sum_cut(edge_costs, is_cut):
    """Sum the costs of the edges that are cut, in float64 and in a fixed order."""
    # Many sums side by side, so that an addition need not wait for the one before.
    sums = np.zeros(SUMS_AT_ONCE, np.float64)
    for first in range(0, is_cut.size, SUMS_AT_ONCE):
        last = min(first + SUMS_AT_ONCE, is_cut.size)
        _add_cut(edge_costs[first:last], is_cut[first:last], sums)
    total = np.float64(0.0)
    for i in range(SUMS_AT_ONCE):
        total += sums[i]
    return total


@jit_inner_pass
def _add_cut(costs, is_cut, sums):
    """Add each cost to a sum of its own if the edge is cut."""
    for i in range(costs.size):
        sums[i] += np.float64(costs[i]) if is_cut[i] else 0.0
    return 0


@jit
def sum_chosen(node_costs, classes, begin, end):
    """Sum what nodes begin .. end - 1 pay for their classes, in float64 and in their order."""
    total = np.float64(0.0)
    costs = node_costs[begin:end]
    chosen = classes[begin:end]
    for v in range(chosen.size):
        total += costs[v, index(chosen[v])]
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
