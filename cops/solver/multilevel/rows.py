"""Weighted graphs whose nodes are clusters of nodes: how the multilevel method reads neighbours.

The multilevel method (multilevel.py) works on a ladder of graphs: the input, and below it graphs in
which a whole cluster is one node. All of them have the same form, so the same kernels run on all.

* In general the neighbours of a node are one run of links (compressed sparse rows), records of the
  neighbour and the cost of the edge. Records instead of two arrays halve the cache misses of
  building the rows. Kernels see them as two arrays that interleave in memory: to take a record out
  of an array of records costs Numba more than all that is done with it.
* The input of a grid, and whatever else has a stencil (stencil.py), has no links: the neighbours of
  v are v - offset and v + offset, and the costs lie in one array a run, a quarter of the memory.
  `load_labels` makes a row of either form.
* In a row the neighbours of smaller index come first, in the order of the edges. So a pass over the
  rows in order meets each edge once at its larger end, and a first sweep needs this half only
  ("backward rows").
* Node costs are *reduced*: the minimum of each row is subtracted, which changes the cost of every
  labelling by the same constant. Then they fit into float32 however large the clusters become.
* Edge costs are float32 too. What is summed over many terms is summed in float64 first. Rounding
  may change which of two nearly equal moves is made, never whether the result is feasible.

Shapes: n nodes of a graph, K classes, E edges, R runs of a stencil.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit
from cops.solver.stencil import spread_costs

# For minima over K classes, for which LLVM may assume that there is no NaN and that -0 = 0. Both
# hold here, so the result is the same to the last bit.
jit_minimum = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})

# For the passes over nodes. Numba counts references to arrays even where an array only changes its
# name, with atomic instructions, and for a row of a graph that takes ten times as long as to read
# it. So passes are compiled without the memory manager ("_nrt"): they may read, write and slice
# arrays, but what they need is allocated by their callers, and they return numbers only.
jit_pass = numba.njit(  # type: ignore[call-overload]
    cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"}, _nrt=False
)
jit_inline = numba.njit(inline="always", error_model="numpy")

# Rows of this many nodes are filled at a time (make_graph): 24 links of 8 bytes each, on a grid
# with six distances, are 200 KB. MAX_RUNS sequential streams are what prefetching can follow.
NODES_PER_BLOCK = 1024
MAX_RUNS = 32

# At least two links are allocated: Numba takes an interleaved array of one entry or none for one
# that does not interleave, which is another type, and would compile all kernels again.
LINK = np.dtype([("node", np.int32), ("cost", np.float32)], align=True)

# In the costs of a run: there is no such edge. All costs are finite.
MISSING = np.float32(-np.inf)


class Graph(NamedTuple):
    """One graph of the ladder.

    Attributes:
        first: (n + 1,) int64, the links of node v are first[v] .. first[v + 1] - 1. Empty, like
            `middle` and the links, in a graph with a stencil.
        middle: (n,) int64, those from here on lead to nodes of larger index.
        link_node: (2E,) int32 neighbours, or (E,) where only backward rows were asked for.
        link_cost: as many float32 costs.
        offsets: (R,) int64 of the stencil; empty in a graph without.
        run_costs: (R, n) float32, the cost of the edge between v and v + offsets[r], or MISSING.
        node_costs: (n, K) float32, >= 0 and with a zero in each row.
        best: (n,) int32, the first class of lowest cost.
    """

    first: npt.NDArray[np.int64]
    middle: npt.NDArray[np.int64]
    link_node: npt.NDArray[np.int32]
    link_cost: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    run_costs: npt.NDArray[np.float32]
    node_costs: npt.NDArray[np.float32]
    best: npt.NDArray[np.int32]


def find_scale(largest: float) -> float:
    """A power of two that brings costs of this largest magnitude into the range of float32.

    It is 1 unless they are extreme: sums over 2^31 nodes and edges must stay below 2^127.
    """
    if largest == 0.0 or 2.0**-60 < largest < 2.0**60:
        return 1.0
    # Subnormal costs would ask for more than float64 has.
    return 2.0 ** min(-int(np.floor(np.log2(largest))), 1000)


@jit_minimum
def reduce_node_costs(node_costs, scale):
    """`scale` times the node costs minus the minimum of each row, and where that is.

    Returns:
        (n, K) float32, and (n,) int32: the first class of lowest cost.
    """
    num_nodes, num_classes = node_costs.shape
    reduced = np.empty((num_nodes, num_classes), np.float32)
    best = np.empty(num_nodes, np.int32)
    for v in range(num_nodes):
        # Four minima side by side: a comparison need not wait for the one before.
        a = b = c = d = node_costs[v, 0]
        for k in range(0, num_classes - 3, 4):
            a = min(a, node_costs[v, k])
            b = min(b, node_costs[v, k + 1])
            c = min(c, node_costs[v, k + 2])
            d = min(d, node_costs[v, k + 3])
        for k in range(num_classes - num_classes % 4, num_classes):
            a = min(a, node_costs[v, k])
        low = min(min(a, b), min(c, d))
        first = 0
        while node_costs[v, first] > low:
            first += 1
        best[v] = first
        for k in range(num_classes):
            reduced[v, k] = (np.float64(node_costs[v, k]) - np.float64(low)) * scale
    return reduced, best


@jit
def make_stencil_graph(stencil, edge_costs, scale, node_costs, best):
    """The graph of a list of edges in pieces; the arguments are those of `make_graph`."""
    run_costs = np.empty((stencil.offsets.size, best.size), np.float32)
    spread_costs(stencil, edge_costs, scale, best.size, MISSING, run_costs)
    none = np.empty(0, np.int64)
    links = np.empty(2, LINK)
    return Graph(
        none,
        none,
        links["node"],
        links["cost"],
        stencil.offsets,
        run_costs,
        node_costs,
        best,
    )


@jit
def row_capacity(graph):
    """The largest number of links of a node."""
    capacity = 2 * graph.offsets.size
    for v in range(graph.middle.size):
        capacity = max(capacity, graph.first[v + 1] - graph.first[v])
    return capacity


@jit_inline
def load_labels(graph, v, lowest, both, labels_of, labels, costs):
    """Write labels and costs of the neighbours of node v into `labels` and `costs`.

    Args:
        lowest: neighbours of smaller index are left out.
        both: False: backward links only.
        labels_of: (n,) int32, label of each node.

    Returns:
        How many there are.
    """
    count = 0
    if graph.offsets.size > 0:
        for r in range(graph.offsets.size):
            u = v - graph.offsets[r]
            if u >= lowest:
                cost = graph.run_costs[r, u]
                labels[count] = labels_of[u]
                costs[count] = cost
                count += 1 if cost > MISSING else 0
        if both:
            for r in range(graph.offsets.size):
                cost = graph.run_costs[r, v]
                if cost > MISSING:
                    labels[count] = labels_of[v + graph.offsets[r]]
                    costs[count] = cost
                    count += 1
    else:
        for i in range(graph.first[v], graph.first[v + 1] if both else graph.middle[v]):
            u = graph.link_node[i]
            if u >= lowest:
                labels[count] = labels_of[u]
                costs[count] = graph.link_cost[i]
                count += 1
    return count


@jit_inline
def wake_neighbours(graph, v, clusters, waiting):
    """Node v has joined a cluster: set `waiting` for the neighbours that may now want to move.

    Those in the new cluster that are glad to have v there have no reason to.
    """
    cluster = clusters[v]
    for r in range(graph.offsets.size):
        u = v - graph.offsets[r]
        if u >= 0:
            cost = graph.run_costs[r, u]
            if cost > MISSING and (clusters[u] != cluster or cost < 0.0):
                waiting[u] = True
        cost = graph.run_costs[r, v]
        if cost > MISSING:
            u = v + graph.offsets[r]
            if clusters[u] != cluster or cost < 0.0:
                waiting[u] = True
    if graph.offsets.size == 0:
        for i in range(graph.first[v], graph.first[v + 1]):
            u = graph.link_node[i]
            if clusters[u] != cluster or graph.link_cost[i] < 0.0:
                waiting[u] = True


@jit
def make_graph(edges, edge_costs, scale, node_costs, best, both):
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
        best: (n,) int32, the first class of cost zero.
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
    links = np.empty(max(2, 2 * num_edges if both else num_edges), LINK)
    link_node = links["node"]
    link_cost = links["cost"]
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
                i = next_backward[b - begin]
                link_node[i] = min(edges[e, 0], edges[e, 1])
                link_cost[i] = edge_costs[e] * scale
                next_backward[b - begin] += 1
                e += 1
            at_backward[r] = e
            e = at_forward[r]
            while both and e < runs[r + 1]:
                a = min(edges[e, 0], edges[e, 1])
                if a >= end:
                    break
                i = next_forward[a - begin]
                link_node[i] = max(edges[e, 0], edges[e, 1])
                link_cost[i] = edge_costs[e] * scale
                next_forward[a - begin] += 1
                e += 1
            at_forward[r] = e
    first[num_nodes] = place
    return Graph(
        first,
        middle,
        link_node,
        link_cost,
        np.empty(0, np.int64),
        np.empty((0, 0), np.float32),
        node_costs,
        best,
    )


@jit
def _find_runs(edges):
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
