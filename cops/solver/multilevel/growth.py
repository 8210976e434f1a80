"""Growing one part of a cluster from a seed, for splits (split.py).

Taking u out of cluster C into the part S changes the cost of cut edges by

    (edges between u and C without S)  -  (edges between u and S)  =  inside(u) - 2 towards(u)

with inside(u) the sum of all edges between u and C, and towards(u) of those into S. The next node
is always the one whose change costs least (or gains most).

Shapes: n nodes of a graph, C cluster numbers, S seeds, L links of the longest row.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit_inline, jit_inner, jit_inner_pass
from cops.solver.multilevel.rows import Row, load_labels, make_row
from cops.solver.multilevel.sums import RELATIVE_GAIN

# A part grows until so many nodes have brought nothing better.
PATIENCE = 64


class Growth(NamedTuple):
    """What is known of all nodes and clusters while parts grow; changed in place.

    Parts of two clusters neither read nor write what the other one writes, so they may grow side by
    side.

    Attributes:
        inside: (n,) float64, edges between each node and its cluster in sum.
        towards: (n,) float64, those of them that lead into the part.
        met: (n,) int32, the part that has last set `towards`.
        taken: (n,) int32, the part that has last taken the node.
        nodes: (n,) int32, 0 .. n - 1, what `load_labels` calls the neighbours.
        size: (C + S,) int32, nodes of each cluster. A part that was taken off by seed s has the
            number C + s until all are settled.
        tried: (C + S,) int32, how many parts each cluster has tried.
    """

    inside: npt.NDArray[np.float64]
    towards: npt.NDArray[np.float64]
    met: npt.NDArray[np.int32]
    taken: npt.NDArray[np.int32]
    nodes: npt.NDArray[np.int32]
    size: npt.NDArray[np.int32]
    tried: npt.NDArray[np.int32]


class Part(NamedTuple):
    """Room for the part that is being grown; changed in place.

    Attributes:
        members: (n,) int32, the nodes of the part in their order.
        changed: (L,) int32, the neighbours of the last node whose change is another now.
        row: room for the neighbours of the last node.
    """

    members: npt.NDArray[np.int32]
    changed: npt.NDArray[np.int32]
    row: Row


@jit_inline
def make_part(graph):
    """Allocate for a graph."""
    row = make_row(graph)
    num_nodes = graph.node_costs.shape[0]
    return Part(np.empty(num_nodes, np.int32), np.empty_like(row.labels), row)


@jit_inner
def grow_part(graph, clusters, seed, size, number, growth, part):
    """Grow a part from a seed, and find how much of it gains most.

    Args:
        graph: as for `split_clusters`.
        clusters: as there.
        seed: a node.
        size: the nodes of its cluster, one of which must be left.
        number: that of the part, which no other has.
        growth: changed.
        part: changed.

    Returns:
        What taking off the first nodes of the part gains; how many nodes these are, 0 without a
        gain; how many links were visited.
    """
    inside, towards, taken = growth.inside, growth.towards, growth.taken
    own = clusters[seed]
    growth.met[seed] = number
    towards[seed] = 0.0
    # Invariant: the heap holds each node next to the part under its current change, and perhaps
    # under old ones, which are passed over.
    heap = [(inside[seed], np.int64(seed))]
    gain = 0.0
    mass = 0.0
    best_gain = 0.0
    best_size = 0
    count = 0
    visits = 0
    while len(heap) > 0 and count < size - 1 and count - best_size < PATIENCE:
        change, u = heappop(heap)
        if taken[u] == number or change != inside[u] - 2.0 * towards[u]:
            continue
        taken[u] = number
        part.members[count] = u
        count += 1
        gain -= change
        mass += abs(inside[u])
        if gain > best_gain + RELATIVE_GAIN * mass:
            best_gain = gain
            best_size = count
        num_changed, links = _advance(graph, clusters, u, own, number, growth, part)
        visits += links
        for i in range(num_changed):
            v = part.changed[i]
            heappush(heap, (inside[v] - 2.0 * towards[v], np.int64(v)))
    return best_gain, best_size, visits


@jit_inner_pass
def _advance(graph, clusters, u, own, number, growth, part):
    """Update `towards` of the neighbours of u, which the part has taken from `own`.

    Returns:
        How many neighbours are listed in `part.changed`; one with two links is there twice. And
        how many links were visited.
    """
    num_links = load_labels(graph, u, growth.nodes, part.row)
    num_changed = np.int64(0)
    for i in range(num_links):
        v = part.row.labels[i]
        if clusters[index(v)] != own or growth.taken[index(v)] == number:
            continue
        if growth.met[index(v)] != number:
            growth.met[index(v)] = number
            growth.towards[index(v)] = 0.0
        growth.towards[index(v)] += part.row.costs[i]
        part.changed[index(num_changed)] = v
        num_changed += 1
    return num_changed, num_links


@jit_inner_pass
def take_off(graph, clusters, own, new, count, growth, part):
    """Give the first `count` nodes of the part the cluster `new`, and renew `inside`."""
    for p in range(count):
        clusters[part.members[p]] = new
    # Invariant: `inside` is right for the nodes of the part before p, and that of the nodes left
    # behind no longer counts their edges to these.
    for p in range(count):
        u = np.int64(part.members[p])
        growth.inside[u] = 0.0
        for i in range(load_labels(graph, u, growth.nodes, part.row)):
            v = part.row.labels[i]
            if clusters[v] == new:
                growth.inside[u] += part.row.costs[i]
            elif clusters[v] == own:
                growth.inside[v] -= part.row.costs[i]
    return 0
