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

from cops.solver._jit import jit

# A piece must have this many edges on average, and there may be this many runs.
EDGES_PER_PIECE = 8
MAX_RUNS = 32


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


def find_stencil(edges: npt.NDArray[np.int32], num_nodes: int) -> tuple[Stencil, bool]:
    """Find the pieces of a list, and whether all of its edges join two different existing nodes.

    Args:
        edges: (E, 2) int32, C-contiguous, with any content.
        num_nodes: V.
    """
    edge, node, offset, gave_up = _find_pieces(edges, len(edges) // EDGES_PER_PIECE + 1)
    if gave_up:
        return no_stencil(), bool(_all_valid(edges, num_nodes))
    # Invariant of a piece: both ends grow by one, so its first and its last edge speak for all.
    length = np.diff(edge)
    if (
        (offset == 0).any()
        or (node < 0).any()
        or (node + np.abs(offset) + length > num_nodes).any()
    ):
        return no_stencil(), False
    begins = np.ones(len(node), dtype=bool)
    begins[1:] = (offset[1:] != offset[:-1]) | (node[1:] < (node + length)[:-1])
    offsets = offset[begins]
    if len(offsets) > MAX_RUNS or len(offsets) * num_nodes > 2 * len(edges) + 1024:
        return no_stencil(), True
    return Stencil(edge, node, np.cumsum(begins) - 1, offsets), True


@jit
def _find_pieces(edges, max_pieces):
    """Find edge (S + 1,), node (S,), offset (S,), and whether S is more than `max_pieces`."""
    num_edges = edges.shape[0]
    edge = np.empty(max_pieces + 1, np.int64)
    node = np.empty(max_pieces, np.int64)
    offset = np.empty(max_pieces, np.int64)
    count = 0
    e = 0
    while e < num_edges:
        if count == max_pieces:
            return edge[:0], node[:0], offset[:0], True
        a = np.int64(edges[e, 0])
        b = np.int64(edges[e, 1])
        edge[count] = e
        node[count] = min(a, b)
        offset[count] = abs(b - a)
        count += 1
        begin = e
        e += 1
        while e < num_edges and edges[e, 0] == a + (e - begin) and edges[e, 1] == b + (e - begin):
            e += 1
    edge[count] = num_edges
    return edge[: count + 1].copy(), node[:count].copy(), offset[:count].copy(), False


@jit
def _all_valid(edges, num_nodes):
    wrong = 0
    for e in range(edges.shape[0]):
        a = edges[e, 0]
        b = edges[e, 1]
        wrong |= (a < 0) | (b < 0) | (a >= num_nodes) | (b >= num_nodes) | (a == b)
    return wrong == 0


@jit
def spread_costs(stencil, edge_costs, scale, num_nodes, missing, spread):
    """Fill spread (R, V) float32: `scale` times the cost of the edge from v to v + offset of run r.

    Where there is no such edge, `missing`.
    """
    num_pieces = stencil.node.size
    for s in range(num_pieces):
        r = stencil.run[s]
        begin = stencil.node[s]
        first = stencil.edge[s]
        length = stencil.edge[s + 1] - first
        row = spread[r]
        if s == 0 or stencil.run[s - 1] != r:
            for v in range(begin):
                row[v] = missing
        for i in range(length):
            row[begin + i] = edge_costs[first + i] * scale
        last = s + 1 == num_pieces or stencil.run[s + 1] != r
        end = num_nodes if last else stencil.node[s + 1]
        for v in range(begin + length, end):
            row[v] = missing


@jit
def find_cut_in_pieces(stencil, clusters, is_cut):
    """Fill is_cut (E,): whether the ends of each edge have different clusters."""
    for s in range(stencil.node.size):
        begin = stencil.edge[s]
        length = stencil.edge[s + 1] - begin
        node = stencil.node[s]
        other = node + stencil.offsets[stencil.run[s]]
        for i in range(length):
            is_cut[begin + i] = clusters[node + i] != clusters[other + i]
