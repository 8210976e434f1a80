"""Weighted graphs whose nodes are clusters of nodes: rows of neighbours, contraction, components.

The multilevel method (multilevel.py) works on a ladder of graphs: the input, and below it graphs in
which a whole cluster is one node. All of them have the same form, so the same kernels run on all.

* The neighbours of a node are one run of `links` (compressed sparse rows), a record holding the
  neighbour and the cost of the edge. One record instead of two arrays halves the cache misses of
  building the rows, and that is where a third of a solve's time goes.
* In a row the neighbours of smaller index come first. So a pass over the rows in order meets each
  edge once at its larger end, and a first sweep needs this half only ("backward rows").
* Node costs are *reduced*: the minimum of each row is subtracted, which changes the cost of every
  labelling by the same constant. Then they fit into float32 however large the clusters become.
* Edge costs are float32 too. What is summed over many terms is summed in float64 first. Rounding
  may change which of two nearly equal moves is made, never whether the result is feasible.

Shapes: n nodes of a graph, K classes, E edges, M clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit

# For minima over K classes, which LLVM turns into vector instructions only if it may assume that
# there is no NaN and that -0 = 0. Both hold here, so the result is the same to the last bit.
jit_minimum = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})

# Rows of this many nodes are filled at a time (make_graph): 24 links of 8 bytes each, on a grid
# with six distances, are 200 KB. MAX_RUNS sequential streams are what prefetching can follow.
NODES_PER_BLOCK = 1024
MAX_RUNS = 32

LINK = np.dtype([("node", np.int32), ("cost", np.float32)])


class Graph(NamedTuple):
    """One graph of the ladder.

    Attributes:
        first: (n + 1,) int64, the links of node v are first[v] .. first[v + 1] - 1.
        middle: (n,) int64, those from here on lead to nodes of larger index.
        links: (2E,) records (node, cost), or (E,) where only backward rows were asked for.
        node_costs: (n, K) float32, >= 0 and with a zero in each row.
    """

    first: npt.NDArray[np.int64]
    middle: npt.NDArray[np.int64]
    links: npt.NDArray[Any]
    node_costs: npt.NDArray[np.float32]


def find_scale(node_costs: npt.NDArray[Any], edge_costs: npt.NDArray[Any]) -> float:
    """A power of two that brings the costs into the range of float32: 1 unless they are extreme."""
    largest = float(node_costs.max()) - float(node_costs.min())
    if edge_costs.size:
        largest = max(largest, float(edge_costs.max()), -float(edge_costs.min()))
    # Sums over 2^31 nodes and edges then stay below 2^127.
    if largest == 0.0 or 2.0**-60 < largest < 2.0**60:
        return 1.0
    return float(2.0 ** -np.floor(np.log2(largest)))


@jit
def reduce_node_costs(node_costs, scale):  # type: ignore[no-untyped-def]
    """(n, K) float32: `scale` times the node costs, minus the minimum of each row."""
    num_nodes, num_classes = node_costs.shape
    reduced = np.empty((num_nodes, num_classes), np.float32)
    for v in range(num_nodes):
        low = np.float64(node_costs[v, 0])
        for k in range(1, num_classes):
            if node_costs[v, k] < low:
                low = np.float64(node_costs[v, k])
        for k in range(num_classes):
            reduced[v, k] = (node_costs[v, k] - low) * scale
    return reduced


@jit
def make_graph(edges, edge_costs, scale, node_costs, both):  # type: ignore[no-untyped-def]
    """The graph with these edges; parallel edges stay parallel links.

    A counting sort by the larger end (backward rows), and by the smaller end if `both`; within a
    row and direction, links keep the order of the edges.

    The sort is done for one block of nodes after the other, so that the rows that are being filled
    fit into the cache. That is possible if the edges come in few *runs*, within which neither the
    smaller nor the larger end ever decreases: each run is then read on from where the last block
    stopped. On a grid each distance and direction is one run. With more than MAX_RUNS runs there is
    one block only.

    Args:
        edges: (E, 2) int32 without self-loops.
        edge_costs: (E,) float32 or float64.
        scale: factor for the edge costs.
        node_costs: (n, K) float32, reduced.
        both: whether forward links are wanted as well.
    """
    num_nodes = node_costs.shape[0]
    num_edges = edges.shape[0]
    runs = _find_runs(edges)
    block = min(NODES_PER_BLOCK, num_nodes)
    if runs.size > MAX_RUNS + 1:
        runs = np.array([0, num_edges])
        block = num_nodes

    first = np.empty(num_nodes + 1, np.int64)
    middle = np.empty(num_nodes, np.int64)
    links = np.empty(2 * num_edges if both else num_edges, LINK)
    # How many links there are, then where the next one goes; for each node of the block.
    next_backward = np.zeros(block, np.int64)
    next_forward = np.zeros(block, np.int64)
    # Invariant: the edges of a run before these places have had their backward (forward) link.
    at_backward = runs[:-1].copy()
    at_forward = runs[:-1].copy()
    place = 0
    for begin in range(0, num_nodes, block):
        end = min(begin + block, num_nodes)
        next_backward[:] = 0
        next_forward[:] = 0
        for r in range(runs.size - 1):
            e = at_backward[r]
            while e < runs[r + 1]:
                b = max(edges[e, 0], edges[e, 1])
                if b >= end:
                    break
                next_backward[b - begin] += 1
                e += 1
            e = at_forward[r]
            while both and e < runs[r + 1]:
                a = min(edges[e, 0], edges[e, 1])
                if a >= end:
                    break
                next_forward[a - begin] += 1
                e += 1
        for v in range(begin, end):
            first[v] = place
            middle[v] = place + next_backward[v - begin]
            place = middle[v] + next_forward[v - begin]
            next_backward[v - begin] = first[v]
            next_forward[v - begin] = middle[v]
        for r in range(runs.size - 1):
            e = at_backward[r]
            while e < runs[r + 1]:
                b = max(edges[e, 0], edges[e, 1])
                if b >= end:
                    break
                link = links[next_backward[b - begin]]
                link["node"] = min(edges[e, 0], edges[e, 1])
                link["cost"] = edge_costs[e] * scale
                next_backward[b - begin] += 1
                e += 1
            at_backward[r] = e
            e = at_forward[r]
            while both and e < runs[r + 1]:
                a = min(edges[e, 0], edges[e, 1])
                if a >= end:
                    break
                link = links[next_forward[a - begin]]
                link["node"] = max(edges[e, 0], edges[e, 1])
                link["cost"] = edge_costs[e] * scale
                next_forward[a - begin] += 1
                e += 1
            at_forward[r] = e
    first[num_nodes] = place
    return Graph(first, middle, links, node_costs)


@jit
def _find_runs(edges):  # type: ignore[no-untyped-def]
    """(R + 1,) int64 bounds of the runs in which both ends never decrease; at most MAX_RUNS + 1."""
    bounds = np.empty(MAX_RUNS + 2, np.int64)
    bounds[0] = 0
    count = 1
    last_small = 0
    last_large = 0
    for e in range(edges.shape[0]):
        small = min(edges[e, 0], edges[e, 1])
        large = max(edges[e, 0], edges[e, 1])
        if small < last_small or large < last_large:
            if count == MAX_RUNS + 1:
                break
            bounds[count] = e
            count += 1
        last_small = small
        last_large = large
    bounds[count] = edges.shape[0]
    return bounds[: count + 1].copy()


@jit
def group_members(clusters, num_clusters):  # type: ignore[no-untyped-def]
    """Nodes by cluster: those of cluster c are members[first[c]] .. members[first[c + 1] - 1]."""
    num_nodes = clusters.size
    first = np.zeros(num_clusters + 1, np.int64)
    for v in range(num_nodes):
        first[clusters[v] + 1] += 1
    for c in range(num_clusters):
        first[c + 1] += first[c]
    place = first[:num_clusters].copy()
    members = np.empty(num_nodes, np.int32)
    for v in range(num_nodes):
        c = clusters[v]
        members[place[c]] = v
        place[c] += 1
    return first, members


@jit
def contract(graph, clusters, num_clusters):  # type: ignore[no-untyped-def]
    """The graph in which each cluster is one node, and edges between two clusters are summed.

    For each cluster the links of its members are gone through; `slot[c]` says where the sum towards
    cluster c is kept. No sort and no hash table. Each edge is met once, in a backward row, so two
    clusters may end with two edges between them, one found from each side.

    Args:
        graph: backward rows suffice.
        clusters: (n,) int32, 0 .. M-1, none of them empty.
        num_clusters: M.
    """
    num_classes = graph.node_costs.shape[1]
    first, members = group_members(clusters, num_clusters)
    # Memory that is not written costs nothing, so there is room for as many edges as there are.
    ends = np.empty((graph.links.size, 2), np.int32)
    costs = np.empty(graph.links.size, np.float64)
    slot = np.full(num_clusters, -1, np.int64)
    reduced = np.empty((num_clusters, num_classes), np.float32)
    sums = np.empty(num_classes, np.float64)
    num_edges = 0
    for c in range(num_clusters):
        begin = num_edges
        sums[:] = 0.0
        for m in range(first[c], first[c + 1]):
            v = members[m]
            for k in range(num_classes):
                sums[k] += graph.node_costs[v, k]
            for i in range(graph.first[v], graph.middle[v]):
                other = clusters[graph.links[i]["node"]]
                if other == c:
                    continue
                # A slot below `begin` was used by an earlier cluster.
                if slot[other] < begin:
                    slot[other] = num_edges
                    ends[num_edges, 0] = c
                    ends[num_edges, 1] = other
                    costs[num_edges] = 0.0
                    num_edges += 1
                costs[slot[other]] += graph.links[i]["cost"]
        low = sums.min()
        for k in range(num_classes):
            reduced[c, k] = sums[k] - low
    return make_graph(ends[:num_edges], costs[:num_edges], 1.0, reduced, True)


@jit
def find_components(graph, clusters, by_best_class):  # type: ignore[no-untyped-def]
    """Connected parts of the clusters (disjoint sets over the uncut edges).

    Args:
        graph: backward rows suffice.
        clusters: (n,) int32.
        by_best_class: whether two nodes of one part must also have the same class of lowest cost.

    Returns:
        (n,) int32 part of each node, numbered by first nodes; and how many there are.
    """
    num_nodes, num_classes = graph.node_costs.shape
    # What the nodes of one part have in common.
    key = clusters.astype(np.int64)
    if by_best_class:
        for v in range(num_nodes):
            k = 0
            while graph.node_costs[v, k] > 0.0:
                k += 1
            key[v] = key[v] * num_classes + k
    # Invariant: parent[v] <= v, and roots are the smallest nodes of their sets.
    parent = np.arange(num_nodes).astype(np.int32)
    for v in range(num_nodes):
        root = np.int32(v)
        for i in range(graph.first[v], graph.middle[v]):
            other = graph.links[i]["node"]
            if key[other] != key[v] or parent[other] == root:
                continue
            while parent[other] != other:
                parent[other] = parent[parent[other]]
                other = parent[other]
            if other < root:
                parent[root] = other
                root = other
            elif root < other:
                parent[other] = root
    components = np.empty(num_nodes, np.int32)
    count = 0
    for v in range(num_nodes):
        if parent[v] == v:
            components[v] = count
            count += 1
        else:
            # The parent is a smaller node of the same set, numbered already.
            components[v] = components[parent[v]]
    return components, count
