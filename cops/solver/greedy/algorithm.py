"""Greedy contraction for AMWC and MWC: Algorithm 2 of Abbas and Swoboda (NeurIPS 2021), exactly.

Every node starts as a cluster of its own, with the class of lowest node cost. For an edge between
clusters i and j, with c the sums of costs over nodes and over parallel edges,

    similarity(i, j) = c_E(i, j) + min_k c_V(i, k) + min_k c_V(j, k) - min_k (c_V(i, k) + c_V(j, k))

is what contracting it saves. The edge of the largest similarity is contracted, again and again,
until the largest is negative. Then all clusters of a class outside P become one (`finish`).

The rules that the algorithm leaves open:

* A similarity of exactly 0 is not negative: such an edge *is* contracted (line 5 reads t < 0).
* Among equal similarities, the edge that holds the input edge of smallest index goes first.
* A cluster's class is the one of lowest cost, among equals the lowest class.

Similarities are those of the algorithm as printed at every step, yet few are ever computed. Write
r_i(k) = c_V(i, k) - min_k c_V(i, k) >= 0 for the reduced costs of a cluster; then

    similarity(i, j) = c_E(i, j) - penalty(i, j),    penalty(i, j) = min_k (r_i(k) + r_j(k)) >= 0,

so an edge of negative cost need not be queued, and two clusters of the same class have penalty 0.
An edge stores a *lower bound* of its penalty, at first 0, and is queued under cost - bound, which
is no less than its similarity. Only when it arrives at the top is the penalty computed; if that
exceeds the bound, the edge goes back into the queue. What contracting (i, j) does to the bound of
another edge (i, h):

* i and j have the same class l. Then r_ij = r_i + r_j >= r_i, penalties can only rise, and all
  bounds stay. A summed edge takes the larger of two bounds.
* They have not, and the class of i stays, l. Then r_ij(l) = 0 still. So the penalty is r_h(l),
  which was no less than the bound, or comes from another class. In that case it is at least the
  *margin*, min over k != l of r_ij(k). The bound becomes min(bound, margin). For large clusters the
  margin is far above all bounds, and nothing has to be touched.
* The class of i changes: the bound becomes 0.

This holds in floating point, too, not only up to rounding: adding is monotone, and r(l) is 0.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inner
from cops.solver.greedy.contraction import (
    COST,
    DEAD,
    END,
    NUM_LIVING,
    ORDER,
    PENALTY,
    PLACE,
    TABLE_MASK,
    TABLE_USED,
    find_edge,
    hash_pair,
    insert_edge,
    join_chains,
    make_graph,
    rebuild_table,
    table_is_full,
)
from cops.solver.greedy.edge_queue import make_queue, put, take
from cops.solver.problem import Problem

# Edges that are looked up at a time; see `_move_edges`.
WINDOW = 64


class Clusters(NamedTuple):
    """What is known of each cluster, under the number of one of its nodes; changed in place.

    Attributes:
        reduced: (V, K) float64, node costs summed over the cluster, minus their minimum.
        classes: (V,) int32, class of the cluster: the first zero of its row in `reduced`.
        largest_bound: (V,) float64, no penalty bound of an edge of the cluster is above this.
        parent: (V,) int32, the cluster that has taken this one in, or itself.
    """

    reduced: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int32]
    largest_bound: npt.NDArray[np.float64]
    parent: npt.NDArray[np.int32]


def contract_greedily(problem: Problem) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Contract edges of a checked problem, the most similar first, until none is worth it.

    P plays no part here: that a class outside P has one cluster is left to `finish`. Joining what
    is left of such a class never lowers the energy. Between two clusters of one class the penalty
    is 0. So if an edge is left between them, its cost is negative, and uncut it no longer earns
    what it earned when cut. It is the price of the constraint, not a choice.

    Returns:
        node_classes (V,) int32, node_clusters (V,) int32 in 0 .. V-1.
    """
    num_nodes, num_classes = problem.node_costs.shape
    clusters = Clusters(
        reduced=np.empty((num_nodes, num_classes), dtype=np.float64),
        classes=np.empty(num_nodes, dtype=np.int32),
        largest_bound=np.zeros(num_nodes, dtype=np.float64),
        parent=np.arange(num_nodes, dtype=np.int32),
    )
    _reduce(problem.node_costs, clusters)
    graph = make_graph(num_nodes, problem.edges, problem.edge_costs)
    queue = make_queue(graph)
    _contract_all(graph, queue, clusters)
    _write_labels(clusters)
    return clusters.classes, clusters.parent


@jit
def _reduce(node_costs, clusters):
    """Start with single nodes: their reduced costs and best classes."""
    num_nodes, num_classes = node_costs.shape
    for node in range(num_nodes):
        best = 0
        for k in range(1, num_classes):
            if node_costs[node, k] < node_costs[node, best]:
                best = k
        lowest = np.float64(node_costs[node, best])
        for k in range(num_classes):
            clusters.reduced[node, k] = node_costs[node, k] - lowest
        clusters.classes[node] = best


@jit
def _contract_all(graph, queue, clusters):
    """Do lines 3 to 18: contract until no similarity is left that is not negative."""
    links, costs = graph.links, graph.costs
    heap_key, heap_tie, bucket_head, entries, scale, waiting = queue
    classes, largest_bound = clusters.classes, clusters.largest_bound
    window = np.empty((WINDOW, 3), dtype=np.int64)
    while True:
        e = take(links, costs, heap_key, heap_tie, bucket_head, entries, scale, waiting)
        if e < 0:
            break
        i, j = links[e, END], links[e, END + 1]
        if classes[i] != classes[j]:
            penalty = _penalty(clusters.reduced, i, j)
            if penalty > costs[e, PENALTY]:
                costs[e, PENALTY] = penalty
                largest_bound[i] = max(largest_bound[i], penalty)
                largest_bound[j] = max(largest_bound[j], penalty)
                put(links, costs, heap_key, heap_tie, bucket_head, entries, scale, waiting, e)
                continue
        # Invariant: e's key is its similarity, and no other key is higher, nor any similarity.
        if graph.degree[i] < graph.degree[j]:
            i, j = j, i
        _contract(graph, queue, clusters, window, e, i, j)
        if table_is_full(graph.sizes):
            rebuild_table(graph)


@jit
def _write_labels(clusters):
    """Write each node's cluster into `parent` and its class into `classes`."""
    parent, classes = clusters.parent, clusters.classes
    for node in range(parent.size):
        root = node
        while parent[root] != root:
            root = parent[root]
        step = node
        while parent[step] != root:
            parent[step], step = root, parent[step]
    for node in range(parent.size):
        classes[node] = classes[parent[node]]


@jit_inner
def _penalty(reduced, i, j):
    """Return what joining two clusters costs for want of a class that is best for both."""
    lowest = np.inf
    for k in range(reduced.shape[1]):
        lowest = min(lowest, reduced[i, k] + reduced[j, k])
    return lowest


@jit_inner
def _contract(graph, queue, clusters, window, contracted, i, j):
    """Join cluster j, which has no more edges, to cluster i along the edge `contracted`."""
    links = graph.links
    limit_i, limit_j = _join_node_costs(clusters, i, j)
    links[contracted, PLACE] = DEAD
    graph.sizes[NUM_LIVING] -= 1
    graph.degree[i] -= 1
    if clusters.largest_bound[i] > limit_i:
        _limit_bounds(graph, queue, i, limit_i)
    clusters.largest_bound[i] = max(
        min(clusters.largest_bound[i], limit_i), min(clusters.largest_bound[j], limit_j)
    )
    clusters.parent[j] = i

    _move_edges(graph, queue, window, i, j, limit_j)
    join_chains(graph.block_size, graph.next_block, graph.last_block, i, j)


@jit_inner
def _move_edges(graph, queue, window, i, j, limit):
    """Do lines 12 to 17 for all edges (j, h), whose bounds may not exceed `limit` from now on."""
    links, costs, halves, degree = graph.links, graph.costs, graph.halves, graph.degree
    table, mask = graph.table, graph.sizes[TABLE_MASK]
    heap_key, heap_tie, bucket_head, entries, scale, waiting = queue
    block_begin, block_size, next_block = graph.block_begin, graph.block_size, graph.next_block
    died = moved = 0
    block = j
    while block >= 0:
        begin = block_begin[block]
        end = begin + block_size[block]
        kept = begin
        for first in range(begin, end, WINDOW):
            count = min(WINDOW, end - first)
            # What the second loop reads is fetched by the first, which has no branch that depends
            # on it. The processor waits for many cache misses at once, not for one after the other.
            for k in range(count):
                half = np.int64(halves[first + k])
                x = hash_pair(i, links[half >> 1, END + 1 - (half & 1)])
                window[k, 0] = half
                window[k, 1] = x
                window[k, 2] = table[x & mask]
            for k in range(count):
                half, x = window[k, 0], window[k, 1]
                e, side = half >> 1, half & 1
                if links[e, PLACE] == DEAD:
                    continue
                h = links[e, END + 1 - side]
                bound = min(costs[e, PENALTY], limit)
                twin = find_edge(links, table, mask, i, h, x)
                if twin >= 0:  # (i, h) exists and takes up (j, h)
                    links[e, PLACE] = DEAD
                    died += 1
                    degree[h] -= 1
                    costs[twin, COST] += costs[e, COST]
                    costs[twin, PENALTY] = max(costs[twin, PENALTY], bound)
                    links[twin, ORDER] = min(links[twin, ORDER], links[e, ORDER])
                    e = twin
                else:
                    links[e, END + side] = i
                    halves[kept] = half
                    kept += 1
                    insert_edge(table, mask, e, x)
                    if bound == costs[e, PENALTY]:
                        continue
                    costs[e, PENALTY] = bound
                put(links, costs, heap_key, heap_tie, bucket_head, entries, scale, waiting, e)
        block_size[block] = kept - begin
        moved += kept - begin
        block = next_block[block]
    degree[i] += moved
    graph.sizes[NUM_LIVING] -= died
    graph.sizes[TABLE_USED] += moved


@jit_inner
def _join_node_costs(clusters, i, j):
    """Do lines 9 and 10; return the limits of penalty bounds on edges of i and of j from now on."""
    reduced = clusters.reduced
    num_classes = reduced.shape[1]
    if clusters.classes[i] == clusters.classes[j]:
        for k in range(num_classes):
            reduced[i, k] += reduced[j, k]
        return np.inf, np.inf
    best = 0
    for k in range(num_classes):
        reduced[i, k] += reduced[j, k]
        if reduced[i, k] < reduced[i, best]:
            best = k
    lowest = reduced[i, best]
    margin = np.inf
    for k in range(num_classes):
        reduced[i, k] -= lowest
        if k != best:
            margin = min(margin, reduced[i, k])
    limit_i = margin if clusters.classes[i] == best else 0.0
    limit_j = margin if clusters.classes[j] == best else 0.0
    clusters.classes[i] = best
    return limit_i, limit_j


@jit_inner
def _limit_bounds(graph, queue, i, limit):
    """Lower the bounds of all edges of cluster i to `limit`; drop dead edges from its list."""
    links, costs = graph.links, graph.costs
    heap_key, heap_tie, bucket_head, entries, scale, waiting = queue
    block = i
    while block >= 0:
        begin = graph.block_begin[block]
        kept = begin
        for k in range(begin, begin + graph.block_size[block]):
            half = graph.halves[k]
            e = np.int64(half >> 1)
            if links[e, PLACE] == DEAD:
                continue
            graph.halves[kept] = half
            kept += 1
            if costs[e, PENALTY] > limit:
                costs[e, PENALTY] = limit
                put(links, costs, heap_key, heap_tie, bucket_head, entries, scale, waiting, e)
        graph.block_size[block] = kept - begin
        block = graph.next_block[block]
