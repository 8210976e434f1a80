"""Edges that repeat: lists in which "v and v + offset" goes on for many v, as on every grid.

On a grid, all edges of one distance and direction join nodes whose numbers differ by the same
offset. Such a list is described by a few *pieces*: edges e, e + 1, e + 2 ... join v and v + offset,
v + 1 and v + 1 + offset, and so on. Pieces of one offset with growing nodes are one *run* (a row of
a grid ends a piece of its horizontal edges, not the run). What is known this way needs no rows of
neighbours, no sort and no second look at the list. Costs lie in one array per run, and a pass over
them is a pass over contiguous memory.

Nothing has to be said about a list for this. `find_stencil` looks for it while it checks that all
nodes exist, and gives up soon where there is no such order.

Shapes: V nodes, E edges, S pieces, R runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inner, jit_inner_pass
from cops.solver.parallel import ALONE, Workers

# A piece must have this many edges on average, and there may be this many runs.
EDGES_PER_PIECE = 8
MAX_RUNS = 32
# Edges are looked at in blocks of as many at least.
EDGES_PER_BLOCK = 1 << 16
# `find_stencil` first asks of so many whether all go on as the one before.
EDGES_AT_ONCE = 64


class Stencil(NamedTuple):
    """Pieces of an edge list. No piece at all: the list has no such order.

    Attributes:
        edge: (S + 1,) int64, piece s describes edges edge[s] .. edge[s + 1] - 1.
        node: (S,) int64, the smaller end of the first edge of a piece.
        run: (S,) int64, the run that a piece belongs to, never decreasing.
        offsets: (R,) int64, >= 1: the larger end minus the smaller end.
    """

    edge: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    run: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]


def no_stencil() -> Stencil:
    """Return that of a list without order."""
    nothing = np.zeros(0, np.int64)
    return Stencil(np.zeros(1, np.int64), nothing, nothing, nothing)


def find_stencil(
    edges: npt.NDArray[np.int32], num_nodes: int, workers: Workers = ALONE
) -> tuple[Stencil, bool]:
    """Find the pieces of a list, and whether all of its edges join two different existing nodes.

    Args:
        edges: (E, 2) int32, C-contiguous, with any content.
        num_nodes: V.
        workers: threads, which do not change the result.
    """
    limit = len(edges) // EDGES_PER_PIECE + 1
    ends = edges.reshape(-1)
    found = workers.over(
        len(edges), lambda *block: _find_begins(ends, *block, limit), EDGES_PER_BLOCK
    )
    begins = found[0] if len(found) == 1 else np.concatenate(found)
    if len(begins) > limit:
        return no_stencil(), bool(_all_valid(edges, num_nodes))
    edge, node, run, offsets, valid = _describe_pieces(edges, begins, num_nodes)
    num_runs = len(offsets)
    if not valid or num_runs > MAX_RUNS or num_runs * num_nodes > 2 * len(edges) + 1024:
        return no_stencil(), bool(valid)
    return Stencil(edge, node, run, offsets), True


@jit
def _find_begins(ends, begin, end, limit):
    """List the edges (int64) of a block that do not go on the piece of the edge before.

    No more than limit + 1 of them: then there are too many.

    Args:
        ends: (2 E,) int32, edge e joins ends[2 e] and ends[2 e + 1].
        begin: the first edge of the block.
        end: the edge after its last.
        limit: of how many are worth it.
    """
    begins = np.empty(min(limit + 1, end - begin), np.int64)
    count = 0
    for first in range(begin, end, EDGES_AT_ONCE):
        last = min(first + EDGES_AT_ONCE, end)
        # Inside a piece nothing begins.
        if first > 0 and _all_go_on(ends[2 * first - 2 : 2 * last - 2], ends[2 * first : 2 * last]):
            continue
        for e in range(first, last):
            goes_on = (
                e > 0
                and np.int64(ends[2 * e]) == np.int64(ends[2 * e - 2]) + 1
                and np.int64(ends[2 * e + 1]) == np.int64(ends[2 * e - 1]) + 1
            )
            if not goes_on:
                begins[count] = e
                count += 1
                if count == limit + 1:
                    return begins
    return begins[:count].copy()


@jit_inner_pass
def _all_go_on(before, ends):
    """Tell whether each number is one more than the one before."""
    differences = np.int64(0)
    for i in range(ends.size):
        differences |= np.int64(ends[i]) - np.int64(before[i]) - 1
    return differences == 0


@jit
def _describe_pieces(edges, begins, num_nodes):
    """Return the arrays of a `Stencil` by the first edge of each piece, and if all are valid."""
    num_pieces = begins.size
    edge = np.empty(num_pieces + 1, np.int64)
    edge[num_pieces] = edges.shape[0]
    node = np.empty(num_pieces, np.int64)
    run = np.empty(num_pieces, np.int64)
    offsets = np.empty(num_pieces, np.int64)
    count = 0
    end = np.int64(0)  # the node after the last of the piece before
    valid = True
    for s in range(num_pieces):
        edge[s] = begins[s]  # one by one: an array into a slice is compiled for a second and more
    for s in range(num_pieces):
        a = np.int64(edges[begins[s], 0])
        b = np.int64(edges[begins[s], 1])
        offset = abs(a - b)
        node[s] = min(a, b)
        if count == 0 or offset != offsets[count - 1] or node[s] < end:
            offsets[count] = offset
            count += 1
        run[s] = count - 1
        # Invariant of a piece: both ends grow by one, so its first and its last edge speak for all.
        end = node[s] + edge[s + 1] - edge[s]
        valid &= offset > 0 and node[s] >= 0 and end + offset <= num_nodes
    return edge, node, run, offsets[:count].copy(), valid


@jit
def _all_valid(edges, num_nodes):
    wrong = 0
    for e in range(edges.shape[0]):
        a = edges[e, 0]
        b = edges[e, 1]
        wrong |= (a < 0) | (b < 0) | (a >= num_nodes) | (b >= num_nodes) | (a == b)
    return wrong == 0


@jit_inner
def _count_below(values, limit):
    """Return how many of some sorted numbers are below a limit."""
    low, high = 0, values.size
    # Invariant: values[:low] are below the limit, and values[high:] are not.
    while low < high:
        middle = (low + high) // 2
        if values[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def spread_costs(stencil, begin, end, edge_costs, scale, missing, run_costs):
    """Fill rows of (R, V) float32: `scale` times the cost of the edge from v to v + offset.

    Where there is no such edge, `missing`.

    Args:
        stencil: of the edges.
        begin: the first run.
        end: the run after the last one.
        edge_costs: (E,).
        scale: a factor.
        missing: a float32.
        run_costs: filled from row `begin` to row `end` - 1.
    """
    s = _count_below(stencil.run, begin)
    for r in range(begin, end):
        row = run_costs[r]
        # Invariant: the row is filled up to here.
        filled = 0
        while s < stencil.run.size and stencil.run[s] == r:
            first = stencil.node[s]
            row[filled:first] = missing
            edge = stencil.edge[s]
            filled = first + stencil.edge[s + 1] - edge
            _copy_scaled(edge_costs[edge : stencil.edge[s + 1]], scale, row[first:filled])
            s += 1
        row[filled:] = missing


@jit_inner_pass
def _copy_scaled(costs, scale, row):
    """Write `scale` times the costs."""
    for i in range(row.size):
        row[i] = costs[i] * scale
    return 0


@jit
def find_cut_in_pieces(stencil, clusters, begin, end, is_cut):
    """Write whether edges begin .. end - 1 lie between two clusters, from is_cut[0] on."""
    first = _count_below(stencil.edge, begin + 1) - 1
    for s in range(first, stencil.node.size):
        if stencil.edge[s] >= end:
            break
        # Edge e of the piece joins node e + shift to the one `offset` further on.
        shift = stencil.node[s] - stencil.edge[s]
        offset = stencil.offsets[stencil.run[s]]
        low, high = max(stencil.edge[s], begin), min(stencil.edge[s + 1], end)
        nodes = clusters[low + shift : high + shift]
        others = clusters[low + shift + offset : high + shift + offset]
        _mark_different(nodes, others, is_cut[low - begin : high - begin])


@jit_inner_pass
def _mark_different(labels, others, is_cut):
    """Set is_cut[i] to whether labels[i] and others[i] differ."""
    for i in range(labels.size):
        is_cut[i] = labels[i] != others[i]
    return 0
