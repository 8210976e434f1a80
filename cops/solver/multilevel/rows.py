"""Weighted graphs whose nodes are clusters of nodes: how the multilevel method reads neighbours.

The multilevel method (algorithm.py) works on a ladder of graphs: the input, and below it graphs in
which a whole cluster is one node. All of them have the same form, so the same kernels run on all.

* In general the neighbours of a node are one run of links (compressed sparse rows), records of the
  neighbour and the cost of the edge. Records instead of two arrays halve the cache misses of
  building the rows. Kernels see them as two arrays that interleave in memory. To take a record out
  of an array of records costs Numba more than all that is done with it.
* The input of a grid, and whatever else has a stencil (stencil.py), has no links. The neighbours of
  v are v - offset and v + offset, and the costs lie in one array per run, a quarter of the memory.
  `load_labels` makes a row of either form.
* In a row the neighbours of smaller index come first, in the order of the edges. So a pass over the
  rows in order meets each edge once at its larger end. A first sweep needs this half only
  ("backward rows").
* Node costs are *reduced*: the minimum of each row is subtracted, which changes the cost of every
  labelling by the same constant. Then they fit into float32 however large the clusters become.
* Edge costs are float32 too. What is summed over many terms is summed in float64 first. Rounding
  may change which of two nearly equal moves is made, never whether the result is feasible.

How such graphs are made says build.py.

Shapes: n nodes of a graph, K classes, E edges, R runs of a stencil, L links of the longest row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit_inline, jit_inner, jit_step

# In the costs of a run: there is no such edge. All costs are finite.
MISSING = np.float32(-np.inf)
# Of a stencil, costs are summed for so many nodes at a time: a few arrays of this size fit into L1.
NODES_AT_ONCE = 1024
# Where threads share the nodes of a graph, a block has about as many links at least. To go through
# them takes some ten times as long as to hand over a block.
LINKS_PER_BLOCK = 1 << 16


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
        longest: L.
    """

    first: npt.NDArray[np.int64]
    middle: npt.NDArray[np.int64]
    link_node: npt.NDArray[np.int32]
    link_cost: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    run_costs: npt.NDArray[np.float32]
    node_costs: npt.NDArray[np.float32]
    best: npt.NDArray[np.int32]
    longest: int


def links_per_node(graph: Graph) -> float:
    """Return how many links a node has in the mean."""
    if len(graph.offsets):
        return 2.0 * len(graph.offsets)
    return len(graph.link_node) / len(graph.node_costs)


def least_block(graph: Graph) -> int:
    """Return how many nodes a block has at least that a thread goes through, link by link."""
    return max(int(LINKS_PER_BLOCK / max(links_per_node(graph), 1.0)), 1)


class Row(NamedTuple):
    """Room for the neighbours of one node.

    Attributes:
        labels: (L,) int32, what `load_labels` was asked to say of each neighbour.
        costs: (L,) float32, the costs of the edges to them.
    """

    labels: npt.NDArray[np.int32]
    costs: npt.NDArray[np.float32]


class Tally(NamedTuple):
    """Room for the sums of a row by label; see `add_up`.

    Attributes:
        weight: (C,) float32 or float64, the sum of each label.
        stamp: (C,) integers, for which row the sum was last begun.
        touched: (L,) int32, the labels of the row, each once.
    """

    weight: npt.NDArray[Any]
    stamp: npt.NDArray[Any]
    touched: npt.NDArray[np.int32]


@jit_inner
def make_row(graph):
    """Allocate room for the longest row of a graph."""
    return Row(np.empty(graph.longest, np.int32), np.empty(graph.longest, np.float32))


@jit_inner
def make_tally(row, weight):
    """Allocate what is to be known of the labels 0 .. C - 1 beside their `weight` (C,)."""
    return Tally(weight, np.full(len(weight), -1, np.int64), np.empty_like(row.labels))


@jit_step
def load_labels(graph, v, labels_of, row):
    """Write the labels of the neighbours of node v and the costs of the edges to them.

    Args:
        graph: with forward links.
        v: the node.
        labels_of: (n,) int32, label of each node.
        row: written from the front.

    Returns:
        How many there are.
    """
    return _load(graph, v, 0, True, labels_of, row)


@jit_step
def load_earlier(graph, v, lowest, labels_of, row):
    """Do `load_labels` for neighbours of smaller index than v, but none below `lowest`."""
    return _load(graph, v, lowest, False, labels_of, row)


@jit_inline
def _load(graph, v, lowest, both, labels_of, row):
    """Load the neighbours from `lowest` on; those of larger index only if `both`."""
    count = np.int64(0)
    if graph.offsets.size > 0:
        for r in range(graph.offsets.size):
            u = v - graph.offsets[r]
            if u >= lowest:
                cost = graph.run_costs[r, index(u)]
                row.labels[index(count)] = labels_of[index(u)]
                row.costs[index(count)] = cost
                count += 1 if cost > MISSING else 0
        if both:
            for r in range(graph.offsets.size):
                cost = graph.run_costs[r, index(v)]
                if cost > MISSING:
                    row.labels[index(count)] = labels_of[index(v + graph.offsets[r])]
                    row.costs[index(count)] = cost
                    count += 1
    else:
        first, after = graph.first[index(v)], graph.middle[index(v)]
        if both:
            after = graph.first[index(v + 1)]
        for i in range(first, after):
            u = graph.link_node[index(i)]
            if u >= lowest:
                row.labels[index(count)] = labels_of[index(u)]
                row.costs[index(count)] = graph.link_cost[index(i)]
                count += 1
    return count


@jit_inline
def load_run(graph, r, begin, end, labels_of):
    """Load along a run, for many nodes at once, what `load_labels` loads of one link each.

    For r = 0 .. 2 R - 1 links come in the order of `load_labels`.

    Args:
        graph: with a stencil.
        r: of run r the links to smaller nodes, of run r - R those to larger ones.
        begin: the first node.
        end: the node after the last one.
        labels_of: (n,) int32.

    Returns:
        low, high, labels and costs. Nodes begin + low .. begin + high - 1 may have such a
        neighbour; its labels and costs are slices of as many. MISSING: there is none.
    """
    backward = r < graph.offsets.size
    run = r if backward else r - graph.offsets.size
    offset = graph.offsets[run]
    low = max(offset - begin, 0) if backward else 0
    high = end - begin if backward else min(end, labels_of.size - offset) - begin
    high = max(low, high)
    edge = begin - offset if backward else begin
    node = begin - offset if backward else begin + offset
    costs = graph.run_costs[run]
    return low, high, labels_of[node + low : node + high], costs[edge + low : edge + high]


@jit_step
def add_up(row, count, now, tally):
    """Sum the costs of a row by label, in the order of the row.

    Args:
        row: of which the first `count` entries count.
        count: links.
        now: a number that no earlier row of this tally had. A label that already has this stamp is
            not listed, and its sum goes on from what it is.
        tally: written.

    Returns:
        How many labels are listed in `tally.touched`, in the order in which they are met.
    """
    num_touched = np.int64(0)
    # Invariant: weight[c] is the sum of the entries so far with label c, if stamp[c] is now; else
    # it is of an earlier row. So nothing has to be cleared between two rows.
    for i in range(count):
        c = index(row.labels[i])
        if tally.stamp[c] != now:
            tally.stamp[c] = now
            tally.weight[c] = row.costs[i]
            tally.touched[index(num_touched)] = row.labels[i]
            num_touched += 1
        else:
            tally.weight[c] += row.costs[i]
    return num_touched


@jit_step
def sum_sides(row, count, label):
    """Return the sum of the costs with this label, and that of the other positive ones."""
    inside = np.float32(0.0)
    outside = np.float32(0.0)
    for i in range(count):
        if row.labels[i] == label:
            inside += row.costs[i]
        else:
            outside += max(row.costs[i], np.float32(0.0))
    return inside, outside


@jit_step
def wake_neighbours(graph, v, clusters, waiting):
    """Set `waiting` for the neighbours that may want to move now that v has joined its cluster.

    Those in the new cluster that are glad to have v there have no reason to.
    """
    cluster = clusters[index(v)]
    for r in range(graph.offsets.size):
        u = v - graph.offsets[r]
        if u >= 0:
            cost = graph.run_costs[r, index(u)]
            if cost > MISSING and (clusters[index(u)] != cluster or cost < 0.0):
                waiting[index(u)] = True
        cost = graph.run_costs[r, index(v)]
        if cost > MISSING:
            u = v + graph.offsets[r]
            if clusters[index(u)] != cluster or cost < 0.0:
                waiting[index(u)] = True
    if graph.offsets.size == 0:
        for i in range(graph.first[index(v)], graph.first[index(v + 1)]):
            u = graph.link_node[index(i)]
            if clusters[index(u)] != cluster or graph.link_cost[index(i)] < 0.0:
                waiting[index(u)] = True
