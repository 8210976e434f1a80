"""A graph that shrinks by contracting edges: records, neighbour lists and a look-up table of pairs.

Contracting the edge (i, j) makes one cluster of two. Each edge (j, h) becomes an edge (i, h); where
that exists already, the two become one edge whose cost is the sum. The cluster with fewer edges is
the one that is emptied. So an edge that moves finds itself in a list twice as long, except where
edges died by becoming parallel. On grids with noise, 1.4 to 1.8 moves per edge of the input. What a
move costs is cache misses, and the layout is chosen for few of them:

* An edge is one row of 32 bytes: its two ends, what decides its place in the queue, its costs. Rows
  are sorted by the smaller end, so that the edges of a node are close in memory.
* A neighbour list is a chain of *blocks* of half-edges: half 2 e + s stands at end s of edge e.
  Each node begins with one block. When a cluster is emptied, what survives of its blocks joins the
  chain of the other cluster; nothing is copied. Unlike a chain of single half-edges, a block lets
  the processor fetch many edges at a time. An edge that has died stays in the lists and is skipped.
* `table` finds the edge between two clusters. It is an open-addressing hash table whose slots hold
  32 bits of the pair's fingerprint and 32 bits of the edge. Nothing is deleted from it: a slot is
  believed only if the edge's present ends are the pair that is looked for. When it has filled up,
  it is rebuilt from the living edges, smaller if they have become few.

Shapes: V nodes of the input, E edges of the input, E' <= E edges between distinct pairs of nodes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inner

# Columns of `links`. END + s is the cluster at end s = 0, 1 of an edge.
END = 0
ORDER = 2  # smallest input index among the edges that were summed: decides ties
PLACE = 3  # where the edge waits in the queue, or DEAD
DEAD = -2

# Columns of `costs`, which lies in the same memory as `links` (columns 0 and 1 are those integers).
COST = 2  # sum of the input costs
PENALTY = 3  # what is known about the loss of joining two classes, see algorithm.py

# Entries of `sizes`.
NUM_EDGES = 0  # E', dead ones included
NUM_LIVING = 1
TABLE_MASK = 2  # number of slots in use - 1; a power of two - 1
TABLE_USED = 3  # slots that are not empty
NUM_SIZES = 4

EMPTY = -1
# Two odd-even constants below 2^30. With indices below 2^31, no product or sum exceeds 2^62, so the
# hash is the same number in compiled code and in Python.
FACTOR_LOW = 1073741789
FACTOR_HIGH = 668265262


class Graph(NamedTuple):
    """The arrays of a shrinking graph; all are changed in place.

    Attributes:
        links: (E, 8) int32, see the column names above.
        costs: (E, 4) float64, the same memory, see the column names above.
        halves: (2 E,) int32, the half-edges of all blocks.
        block_begin: (V,) int64, where in `halves` each node's block begins.
        block_size: (V,) int32, how many half-edges each block holds now.
        next_block: (V,) int32, next block in the chain, -1 at its end. The chain of a cluster
            begins with the block of the node whose number it has.
        last_block: (V,) int32, last block in the chain of each cluster.
        degree: (V,) int32, number of living edges of each cluster.
        table: (S,) int64, S a power of two >= 2 E, fingerprint * 2^32 + edge, or EMPTY.
        sizes: (NUM_SIZES,) int64, see the names above.
    """

    links: npt.NDArray[np.int32]
    costs: npt.NDArray[np.float64]
    halves: npt.NDArray[np.int32]
    block_begin: npt.NDArray[np.int64]
    block_size: npt.NDArray[np.int32]
    next_block: npt.NDArray[np.int32]
    last_block: npt.NDArray[np.int32]
    degree: npt.NDArray[np.int32]
    table: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def make_graph(num_nodes: int, edges: npt.NDArray[np.int32], edge_costs: npt.NDArray[Any]) -> Graph:
    """Make the graph of a problem, parallel edges summed in float64."""
    num_edges = len(edges)
    # Allocated by numpy, not in a kernel. For numpy asks the system for huge pages, and with random
    # access to some 10 MB that saves a good part of the time. Untouched rows cost no memory.
    costs = np.empty((num_edges, 4), dtype=np.float64)
    graph = Graph(
        links=costs.view(np.int32),
        costs=costs,
        halves=np.empty(2 * num_edges, dtype=np.int32),
        block_begin=np.empty(num_nodes, dtype=np.int64),
        block_size=np.zeros(num_nodes, dtype=np.int32),
        next_block=np.full(num_nodes, -1, dtype=np.int32),
        last_block=np.arange(num_nodes, dtype=np.int32),
        degree=np.empty(num_nodes, dtype=np.int32),
        table=np.empty(_num_slots(num_edges), dtype=np.int64),
        sizes=np.zeros(NUM_SIZES, dtype=np.int64),
    )
    _fill(graph, edges, edge_costs)
    return graph


@jit
def _num_slots(num_edges):
    """Choose the size of a table for edges: a power of two, so that `& mask` finds a slot."""
    slots = 4
    while slots < 2 * num_edges:
        slots *= 2
    return slots


@jit
def _fill(graph, edges, edge_costs):
    """Write the rows, sorted by smaller end and free of parallels, then blocks and table."""
    num_nodes = graph.degree.size
    links, costs = graph.links, graph.costs
    begin = np.zeros(num_nodes + 1, dtype=np.int64)
    for e in range(edges.shape[0]):
        begin[min(edges[e, 0], edges[e, 1]) + 1] += 1
    for node in range(num_nodes):
        begin[node + 1] += begin[node]
    # A stable counting sort: within a node, edges keep the order of the input.
    position = begin[:-1].copy()
    by_node = np.empty(edges.shape[0], dtype=np.int32)
    for e in range(edges.shape[0]):
        low = min(edges[e, 0], edges[e, 1])
        by_node[position[low]] = e
        position[low] += 1

    row_of_other = np.full(num_nodes, -1, dtype=np.int32)
    count = 0
    for node in range(num_nodes):
        first_row = count
        for k in range(begin[node], begin[node + 1]):
            e = by_node[k]
            other = max(edges[e, 0], edges[e, 1])
            row = row_of_other[other]
            if row >= first_row:  # written for this very node: a parallel edge
                costs[row, COST] += edge_costs[e]
                continue
            row_of_other[other] = count
            links[count, END] = node
            links[count, END + 1] = other
            links[count, ORDER] = e
            links[count, PLACE] = EMPTY
            costs[count, COST] = edge_costs[e]
            costs[count, PENALTY] = 0.0
            graph.block_size[node] += 1
            graph.block_size[other] += 1
            count += 1
    graph.sizes[NUM_EDGES] = count
    graph.sizes[NUM_LIVING] = count

    place = 0
    for node in range(num_nodes):
        graph.block_begin[node] = place
        place += graph.block_size[node]
        graph.degree[node] = graph.block_size[node]
        graph.block_size[node] = 0
    for half in range(2 * count):
        node = links[half >> 1, END + (half & 1)]
        graph.halves[graph.block_begin[node] + graph.block_size[node]] = half
        graph.block_size[node] += 1
    rebuild_table(graph)


@jit_inner
def join_chains(block_size, next_block, last_block, i, j):
    """Append the blocks of cluster j to those of cluster i, except blocks that are empty."""
    last = last_block[i]
    block = j
    while block >= 0:
        if block_size[block] > 0:
            next_block[last] = block
            last = block
        block = next_block[block]
    next_block[last] = -1
    last_block[i] = last


@jit_inner
def hash_pair(a, b):
    """Hash an unordered pair of clusters; its low bits choose the slot."""
    x = np.int64(min(a, b)) * FACTOR_LOW + np.int64(max(a, b)) * FACTOR_HIGH
    return x ^ (x >> 31)


@jit_inner
def find_edge(links, table, mask, a, b, x):
    """Find the living edge between clusters a and b, or -1; x is `hash_pair(a, b)`."""
    fingerprint = x >> 31
    slot = x & mask
    # Invariant: never are all slots used, so the search ends at an empty one.
    while table[slot] != EMPTY:
        entry = table[slot]
        if entry >> 32 == fingerprint:
            e = entry & 0xFFFFFFFF
            first, second = links[e, END], links[e, END + 1]
            # A dead edge cannot be meant: one of its ends is a cluster that is no more.
            if (first == a and second == b) or (first == b and second == a):
                return e
        slot = (slot + 1) & mask
    return np.int64(-1)


@jit_inner
def insert_edge(table, mask, e, x):
    """Enter edge e under the hash x of its present ends; the caller counts."""
    slot = x & mask
    while table[slot] != EMPTY:
        slot = (slot + 1) & mask
    table[slot] = ((x >> 31) << 32) | e


@jit_inner
def rebuild_table(graph):
    """Enter the living edges anew, into as many slots as twice their number asks for."""
    links, table, sizes = graph.links, graph.table, graph.sizes
    slots = _num_slots(sizes[NUM_LIVING])
    # Half of the slots at most are used now, and the next rebuild comes at 70 %. Between two of
    # them, a fifth of the slots was written. That pays for the scan.
    table[:slots] = EMPTY
    for e in range(sizes[NUM_EDGES]):
        if links[e, PLACE] != DEAD:
            insert_edge(table, slots - 1, np.int64(e), hash_pair(links[e, END], links[e, END + 1]))
    sizes[TABLE_MASK] = slots - 1
    sizes[TABLE_USED] = sizes[NUM_LIVING]


@jit_inner
def table_is_full(sizes):
    """Tell whether so many slots are used that searches become long."""
    return sizes[TABLE_USED] * 10 > (sizes[TABLE_MASK] + 1) * 7
