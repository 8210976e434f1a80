"""How the graphs of the multilevel method are made: reduced node costs, rows, runs of a stencil.

Shapes: n nodes of a graph, K classes, E edges, R runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inline, jit_minimum, jit_pass
from cops.solver.multilevel.rows import MISSING, Graph
from cops.solver.stencil import spread_costs

# Rows of this many nodes are filled at a time (make_graph). 24 links of 8 bytes each, on a grid
# with six distances, are 200 KB. MAX_RUNS sequential streams are what prefetching can follow.
NODES_PER_BLOCK = 1024
MAX_RUNS = 32

# At least two links are allocated. Numba takes an interleaved array of one entry or none for one
# that does not interleave. That is another type, for which it would compile all kernels again.
LINK = np.dtype([("node", np.int32), ("cost", np.float32)], align=True)


class EdgeList(NamedTuple):
    """Edges in runs, within which neither the smaller nor the larger end ever decreases.

    Attributes:
        ends: (E, 2) int32.
        costs: (E,) float32 or float64.
        scale: factor for the costs.
        runs: (R + 1,) int64, run r has the edges runs[r] .. runs[r + 1] - 1.
    """

    ends: npt.NDArray[np.int32]
    costs: npt.NDArray[Any]
    scale: float
    runs: npt.NDArray[np.int64]


def find_scale(largest: float) -> float:
    """Find a power of two that brings costs of this largest magnitude into the range of float32.

    It is 1 unless they are extreme: sums over 2^31 nodes and edges must stay below 2^127.
    """
    if largest == 0.0 or 2.0**-60 < largest < 2.0**60:
        return 1.0
    # Subnormal costs would ask for more than float64 has.
    return 2.0 ** min(-int(np.floor(np.log2(largest))), 1000)


@jit_minimum
def reduce_node_costs(node_costs, scale):
    """Subtract the minimum of each row from node costs, and multiply by `scale`.

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
    """Make the graph of a list of edges in pieces; the arguments are those of `make_graph`."""
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
def make_graph(edges, edge_costs, scale, node_costs, best, both):
    """Make the graph with these edges; parallel edges stay parallel links.

    A counting sort by the larger end (backward rows), and by the smaller end if `both`. Within a
    row and direction, links keep the order of the edges.

    The sort is done for one block of nodes after the other, so that the rows that are being filled
    fit into the cache. That is possible if the edges come in few *runs*: each is then read on from
    where the last block stopped. On a grid each distance and direction is one run. With more than
    MAX_RUNS runs there is one block only.

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
    edge_list = EdgeList(edges, edge_costs, scale, runs)

    first = np.empty(num_nodes + 1, np.int64)
    middle = np.empty(num_nodes, np.int64)
    links = np.empty(max(2, 2 * num_edges if both else num_edges), LINK)
    link_node = links["node"]
    link_cost = links["cost"]
    # How many links there are, then where the next one goes; for each node of the block.
    backward = np.zeros(block, np.int64)
    forward = np.zeros(block, np.int64)
    # Invariant: the edges of a run before these places have had their backward (forward) link.
    at_backward = runs[:-1].copy()
    at_forward = runs[:-1].copy()
    first[0] = 0
    for begin in range(0, num_nodes, block):
        end = min(begin + block, num_nodes)
        backward[:] = 0
        forward[:] = 0
        _count_block(edge_list, at_backward, begin, end, backward)
        if both:
            _count_block_forward(edge_list, at_forward, begin, end, forward)
        _place_rows(begin, end, backward, forward, first, middle)
        _fill_block(edge_list, at_backward, begin, end, backward, link_node, link_cost)
        if both:
            _fill_block_forward(edge_list, at_forward, begin, end, forward, link_node, link_cost)
    no_offsets = np.empty(0, np.int64)
    no_costs = np.empty((0, 0), np.float32)
    return Graph(first, middle, link_node, link_cost, no_offsets, no_costs, node_costs, best)


@jit_pass
def _count_block(edge_list, at, begin, end, counts):
    """Count the backward links of a block of nodes."""
    # Written with a constant, so that the compiler makes a loop of its own for each direction.
    return _count_links(edge_list, at, begin, end, True, counts)


@jit_pass
def _count_block_forward(edge_list, at, begin, end, counts):
    """Count the forward links of a block of nodes."""
    return _count_links(edge_list, at, begin, end, False, counts)


@jit_inline
def _count_links(edge_list, at, begin, end, larger, counts):
    """Count the edges of each node of a block whose larger (or smaller) end it is.

    Args:
        edge_list: of the whole graph.
        at: (R,) the first edge of each run that has had no link yet.
        begin: the first node of the block.
        end: the node after its last.
        larger: whether larger ends are counted, or smaller ones.
        counts: (end - begin,) or more, raised.
    """
    ends, runs = edge_list.ends, edge_list.runs
    for r in range(runs.size - 1):
        for e in range(at[r], runs[r + 1]):
            low = min(ends[e, 0], ends[e, 1])
            high = max(ends[e, 0], ends[e, 1])
            node = high if larger else low
            if node >= end:
                break
            counts[node - begin] += 1
    return 0


@jit_pass
def _place_rows(begin, end, backward, forward, first, middle):
    """Let the rows of a block follow one another; numbers of links become places of links."""
    # Invariant: first[v] is where the row of v begins, for all nodes up to v.
    for v in range(begin, end):
        middle[v] = first[v] + backward[v - begin]
        first[v + 1] = middle[v] + forward[v - begin]
        backward[v - begin] = first[v]
        forward[v - begin] = middle[v]
    return 0


@jit_pass
def _fill_block(edge_list, at, begin, end, places, link_node, link_cost):
    """Write the backward links of a block of nodes."""
    return _fill_links(edge_list, at, begin, end, True, places, link_node, link_cost)


@jit_pass
def _fill_block_forward(edge_list, at, begin, end, places, link_node, link_cost):
    """Write the forward links of a block of nodes."""
    return _fill_links(edge_list, at, begin, end, False, places, link_node, link_cost)


@jit_inline
def _fill_links(edge_list, at, begin, end, larger, places, link_node, link_cost):
    """Write the links that `_count_links` has counted, and move `at` behind their edges.

    Args:
        edge_list: as there.
        at: as there, moved on.
        begin: as there.
        end: as there.
        larger: as there.
        places: where the next link of each node of the block goes, moved on.
        link_node: (2 E,) int32 or (E,), written.
        link_cost: as many float32, written.
    """
    ends, runs = edge_list.ends, edge_list.runs
    for r in range(runs.size - 1):
        e = at[r]
        while e < runs[r + 1]:
            low = min(ends[e, 0], ends[e, 1])
            high = max(ends[e, 0], ends[e, 1])
            node = high if larger else low
            if node >= end:
                break
            i = places[node - begin]
            link_node[i] = low if larger else high
            link_cost[i] = edge_list.costs[e] * edge_list.scale
            places[node - begin] = i + 1
            e += 1
        at[r] = e
    return 0


@jit
def _find_runs(edges):
    """Find the bounds (R + 1,) int64 of the runs of edges; R is at most MAX_RUNS + 1."""
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
