"""How the graphs of the multilevel method are made: reduced node costs, rows, runs of a stencil.

Shapes: n nodes of a graph, K classes, E edges, R runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit, jit_inline, jit_inner_pass, jit_minimum
from cops.solver.multilevel.rows import MISSING, Graph
from cops.solver.multilevel.shared_rows import edges_per_share, fill_shared_rows
from cops.solver.parallel import ALONE, LEAST_BLOCK, Workers, cut_into_blocks
from cops.solver.stencil import Stencil, spread_costs

# Rows of this many nodes are filled at a time (make_graph). 24 links of 8 bytes each, on a grid
# with six distances, are 200 KB. MAX_RUNS sequential streams are what prefetching can follow.
NODES_PER_BLOCK = 1024
MAX_RUNS = 32

# At least two links are allocated. Numba takes an interleaved array of one entry or none for one
# that does not interleave. That is another type, for which it would compile all kernels again.
LINK = np.dtype([("node", np.int32), ("cost", np.float32)], align=True)
# What a graph without rows has of them, and one without a stencil of that.
NO_LINKS = np.empty(2, LINK)
NO_OFFSETS = np.empty(0, np.int64)
NO_COSTS = np.empty((0, 0), np.float32)


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


def reduce_node_costs(
    node_costs: npt.NDArray[Any], scale: float, workers: Workers = ALONE
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Subtract the minimum of each row from node costs, and multiply by `scale`.

    Returns:
        (n, K) float32, and (n,) int32: the first class of lowest cost.
    """
    reduced = workers.empty(node_costs.shape, np.float32)
    best = np.empty(len(node_costs), np.int32)
    workers.over(len(best), lambda *block: _reduce_block(node_costs, scale, *block, reduced, best))
    return reduced, best


@jit_minimum
def _reduce_block(node_costs, scale, begin, end, reduced, best):
    """Do `reduce_node_costs` for nodes begin .. end - 1."""
    num_classes = node_costs.shape[1]
    for v in range(begin, end):
        low = node_costs[index(v), 0]
        first = 0
        for k in range(1, num_classes):
            if node_costs[index(v), k] < low:
                low = node_costs[index(v), k]
                first = k
        best[index(v)] = first
        for k in range(num_classes):
            cost = np.float64(node_costs[index(v), k]) - np.float64(low)
            reduced[index(v), k] = cost * scale


def make_stencil_graph(
    stencil: Stencil,
    edge_costs: npt.NDArray[Any],
    scale: float,
    node_costs: npt.NDArray[np.float32],
    best: npt.NDArray[np.int32],
    workers: Workers = ALONE,
) -> Graph:
    """Make the graph of a list of edges in pieces; the arguments are those of `make_graph`."""
    num_runs = len(stencil.offsets)
    run_costs = workers.empty((num_runs, len(best)), np.float32)
    workers.over(
        num_runs,
        lambda *runs: spread_costs(stencil, *runs, edge_costs, scale, MISSING, run_costs),
        max(LEAST_BLOCK // len(best), 1),
    )
    return Graph(
        NO_OFFSETS,
        NO_OFFSETS,
        NO_LINKS["node"],
        NO_LINKS["cost"],
        stencil.offsets,
        run_costs,
        node_costs,
        best,
        2 * num_runs,
    )


def make_graph(
    edges: npt.NDArray[np.int32],
    edge_costs: npt.NDArray[Any],
    scale: float,
    node_costs: npt.NDArray[np.float32],
    best: npt.NDArray[np.int32],
    both: bool,
    workers: Workers = ALONE,
) -> Graph:
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
        workers: threads, which do not change the result.
    """
    num_nodes, num_edges = len(node_costs), len(edges)
    first = np.zeros(num_nodes + 1, np.int64)
    middle = np.empty(num_nodes, np.int64)
    links = np.empty(max(2, 2 * num_edges if both else num_edges), LINK)
    rows = (first, middle, links["node"], links["cost"])
    blocks = cut_into_blocks(num_edges, edges_per_share(num_nodes))
    if workers.num_threads > 1 and len(blocks) > 1:
        shares = [[(edges, edge_costs, *block)] for block in blocks]
        longest = fill_shared_rows(shares, scale, both, *rows, workers)
    else:
        longest = _fill_rows(edges, edge_costs, scale, both, *rows)
    return Graph(*rows, NO_OFFSETS, NO_COSTS, node_costs, best, longest)


def make_graph_of_lists(
    lists: list[tuple[npt.NDArray[np.int32], npt.NDArray[Any]]],
    node_costs: npt.NDArray[np.float32],
    best: npt.NDArray[np.int32],
    workers: Workers = ALONE,
) -> Graph:
    """Make the graph of several lists of edges and costs, as if they were one, with both rows."""
    num_nodes, sizes = len(node_costs), [len(costs) for _, costs in lists]
    first = np.zeros(num_nodes + 1, np.int64)
    middle = np.empty(num_nodes, np.int64)
    links = np.empty(max(2, 2 * sum(sizes)), LINK)
    rows = (first, middle, links["node"], links["cost"])
    # Small lists are counted together: so many numbers of a node have to be added up.
    shares: list[list[Any]] = [[]]
    room = least = edges_per_share(num_nodes)
    for (edges, costs), size in zip(lists, sizes, strict=True):
        if room <= 0:
            shares.append([])
            room = least
        shares[-1].append((edges, costs, 0, size))
        room -= size
    longest = fill_shared_rows(shares, 1.0, True, *rows, workers)
    return Graph(*rows, NO_OFFSETS, NO_COSTS, node_costs, best, longest)


@jit
def _fill_rows(edges, edge_costs, scale, both, first, middle, link_node, link_cost):
    """Do the passes of `make_graph`, block by block; return how many links the longest row has."""
    num_nodes = middle.size
    bounds = np.empty(MAX_RUNS + 2, np.int64)
    num_runs = _find_runs(edges, bounds)
    block = min(NODES_PER_BLOCK, num_nodes)
    if num_runs > MAX_RUNS:
        num_runs = 1
        bounds[1] = edges.shape[0]
        block = num_nodes
    edge_list = EdgeList(edges, edge_costs, scale, bounds[: num_runs + 1])
    # Invariant: the edges of a run before these places have had their backward (forward) link.
    at_backward = bounds[:num_runs].copy()
    at_forward = bounds[:num_runs].copy()
    # How many links there are, then where the next one goes; for each node of the block.
    backward = np.zeros(block, np.int64)
    forward = np.zeros(block, np.int64)
    longest = np.int64(0)
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
        for v in range(begin, end):
            longest = max(longest, first[v + 1] - first[v])
    return longest


@jit_inner_pass
def _count_block(edge_list, at, begin, end, counts):
    """Count the backward links of a block of nodes."""
    # Written with a constant, so that the compiler makes a loop of its own for each direction.
    return _count_links(edge_list, at, begin, end, True, counts)


@jit_inner_pass
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


@jit_inner_pass
def _place_rows(begin, end, backward, forward, first, middle):
    """Let the rows of a block follow one another; numbers of links become places of links."""
    # Invariant: first[v] is where the row of v begins, for all nodes up to v.
    for v in range(begin, end):
        middle[v] = first[v] + backward[v - begin]
        first[v + 1] = middle[v] + forward[v - begin]
        backward[v - begin] = first[v]
        forward[v - begin] = middle[v]
    return 0


@jit_inner_pass
def _fill_block(edge_list, at, begin, end, places, link_node, link_cost):
    """Write the backward links of a block of nodes."""
    return _fill_links(edge_list, at, begin, end, True, places, link_node, link_cost)


@jit_inner_pass
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


@jit_inner_pass
def _find_runs(edges, bounds):
    """Find the bounds (R + 1,) of the runs of edges; return R, at most MAX_RUNS + 1."""
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
    return count
