"""Splitting clusters: what takes a part off that has been joined to a whole by mistake.

Moves of single nodes cannot divide a cluster in two: the first node to leave loses all its
neighbours. Moves of parts can, if something shows where a part ends; the class costs do, where the
part is of another class than the rest. For two instances of one class nothing does. But a node at
the wrong side has edges into its cluster that pay for being cut. From such a *seed* a part is grown
here, as in the local search of Kernighan and Lin. The next node is always the one whose change of
side costs least (or gains most). It goes uphill too, and in the end back to where the sum was best.

Taking u out of cluster C into the part S changes the cost of cut edges by

    (edges between u and C without S)  -  (edges between u and S)  =  inside(u) - 2 towards(u)

with inside(u) the sum of all edges between u and C, and towards(u) of those into S. The part keeps
the class of its cluster, so node costs stay; later moves may change it or join the part to another
cluster. Clusters of a class outside P are left alone, as that class cannot have a second one.

Source of the idea: Kernighan, Lin, "An efficient heuristic procedure for partitioning graphs"
(1970).

Shapes: n nodes of a graph, K classes, C cluster numbers, L links of the longest row.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inline, jit_inner, jit_inner_pass
from cops.solver.multilevel.rows import Graph, Row, load_labels, make_row
from cops.solver.multilevel.sums import RELATIVE_GAIN
from cops.solver.parallel import ALONE, Workers

# A node is a seed if the edges into its cluster that pay for being cut are this share of the rest.
SEED_SHARE = 0.1
# Of one cluster, so many seeds at most; those with the weakest hold on it go first.
SEEDS_PER_CLUSTER = 32
# A part grows until so many nodes have brought nothing better.
PATIENCE = 64


class Part(NamedTuple):
    """The part that is being grown, and room for the next; changed in place.

    Attributes:
        inside: (n,) float64, edges between each node and its cluster in sum.
        towards: (n,) float64, those of them that lead into the part.
        met: (n,) int32, the part that has last set `towards`.
        taken: (n,) int32, the part that has last taken the node.
        members: (n,) int32, the nodes of the part in their order.
        changed: (L,) int32, the neighbours of the last node whose change is another now.
        nodes: (n,) int32, 0 .. n - 1, what `load_labels` calls the neighbours.
        row: room for the neighbours of the last node.
    """

    inside: npt.NDArray[np.float64]
    towards: npt.NDArray[np.float64]
    met: npt.NDArray[np.int32]
    taken: npt.NDArray[np.int32]
    members: npt.NDArray[np.int32]
    changed: npt.NDArray[np.int32]
    nodes: npt.NDArray[np.int32]
    row: Row


def split_clusters(
    graph: Graph,
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    budget: int,
    workers: Workers = ALONE,
) -> float:
    """Split clusters of classes in P where that lowers the cost.

    A pass over the links finds the seeds; growing a part costs its links, and log n for each.

    Args:
        graph: with forward and backward links.
        clusters: (n,) int32, changed in place; numbers below K are of classes outside P.
        class_of: (K + n,) int32, changed in place.
        budget: links to visit; no part begins to grow when they are spent. Seeds with the weakest
            hold on their cluster go first. The pass that finds them is not counted.
        workers: threads, which do not change the result.

    Returns:
        What the splits have gained in sum; 0 if there was none.
    """
    inside = np.empty(len(clusters), np.float64)
    found = workers.over(len(inside), lambda *block: _find_seeds(graph, clusters, *block, inside))
    seeds = found[0] if len(found) == 1 else np.concatenate(found)
    if len(seeds) == 0:
        return 0.0
    order = np.argsort(inside[seeds], kind="stable")
    return float(_split_at(graph, clusters, class_of, budget, seeds[order], inside))


@jit
def _split_at(graph, clusters, class_of, budget, seeds, inside):
    """Do `split_clusters` at seeds in their order.

    Args:
        graph: as there.
        clusters: as there.
        class_of: as there.
        budget: as there.
        seeds: (S,) int32.
        inside: (n,), see `Part`.
    """
    part = _make_part(graph, inside)
    grown = np.zeros(class_of.size, np.int32)  # how many parts each cluster has tried
    size = np.zeros(class_of.size, np.int32)
    for v in range(clusters.size):
        size[clusters[v]] += 1
    num_classes = graph.node_costs.shape[1]
    unused = num_classes  # no number from here on is known to be free before it is looked at
    total = 0.0
    visits = 0
    for number in range(seeds.size):
        seed = seeds[number]
        own = clusters[seed]
        if visits >= budget:
            break
        # A seed that an earlier part has tried is not tried again.
        if part.taken[seed] >= 0 or grown[own] == SEEDS_PER_CLUSTER:
            continue
        grown[own] += 1
        gain, count, links = _grow_part(graph, clusters, seed, size[own], number, part)
        visits += links
        if count == 0:
            continue
        # Invariant: all numbers from K to `unused`, which is the first free one, are used.
        while size[unused] > 0:
            unused += 1
        total += gain
        class_of[unused] = class_of[own]
        size[unused] = count
        size[own] -= count
        _take_off(graph, clusters, own, unused, count, part)
    return total


@jit_inline
def _make_part(graph, inside):
    """Allocate for a graph; no node is met or taken."""
    num_nodes = inside.size
    row = make_row(graph)
    return Part(
        inside,
        np.empty(num_nodes, np.float64),
        np.full(num_nodes, -1, np.int32),
        np.full(num_nodes, -1, np.int32),
        np.empty(num_nodes, np.int32),
        np.empty_like(row.labels),
        np.arange(num_nodes).astype(np.int32),
        row,
    )


@jit_inner
def _grow_part(graph, clusters, seed, size, number, part):
    """Grow a part from a seed, and find how much of it gains most.

    Args:
        graph: as for `split_clusters`.
        clusters: as there.
        seed: a node.
        size: the nodes of its cluster, one of which must be left.
        number: that of the part, which no other has.
        part: changed.

    Returns:
        What taking off the first nodes of the part gains; how many nodes these are, 0 without a
        gain; how many links were visited.
    """
    inside, towards, taken = part.inside, part.towards, part.taken
    own = clusters[seed]
    part.met[seed] = number
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
        num_changed, links = _advance(graph, clusters, u, own, number, part)
        visits += links
        for i in range(num_changed):
            v = part.changed[i]
            heappush(heap, (inside[v] - 2.0 * towards[v], np.int64(v)))
    return best_gain, best_size, visits


@jit_inner_pass
def _advance(graph, clusters, u, own, number, part):
    """Update `towards` of the neighbours of u, which the part has taken from `own`.

    Returns:
        How many neighbours are listed in `part.changed`; one with two links is there twice. And
        how many links were visited.
    """
    num_links = load_labels(graph, u, part.nodes, part.row)
    num_changed = 0
    for i in range(num_links):
        v = part.row.labels[i]
        if clusters[v] != own or part.taken[v] == number:
            continue
        if part.met[v] != number:
            part.met[v] = number
            part.towards[v] = 0.0
        part.towards[v] += part.row.costs[i]
        part.changed[num_changed] = v
        num_changed += 1
    return num_changed, num_links


@jit_inner_pass
def _take_off(graph, clusters, own, new, count, part):
    """Give the first `count` nodes of the part the cluster `new`, and renew `inside`."""
    for p in range(count):
        clusters[part.members[p]] = new
    # Invariant: `inside` is right for the nodes of the part before p, and that of the nodes left
    # behind no longer counts their edges to these.
    for p in range(count):
        u = np.int64(part.members[p])
        part.inside[u] = 0.0
        for i in range(load_labels(graph, u, part.nodes, part.row)):
            v = part.row.labels[i]
            if clusters[v] == new:
                part.inside[u] += part.row.costs[i]
            elif clusters[v] == own:
                part.inside[v] -= part.row.costs[i]
    return 0


@jit
def _find_seeds(graph, clusters, begin, end, inside):
    """Return the seeds among nodes begin .. end - 1, int32, and fill `inside` (n,) for them."""
    seeds = np.empty(end - begin, np.int32)
    count = _list_seeds(graph, clusters, begin, end, make_row(graph), inside, seeds)
    return seeds[:count].copy()


@jit_inner_pass
def _list_seeds(graph, clusters, begin, end, row, inside, seeds):
    """Sum the edges of each node into its cluster, and list the seeds; return their number."""
    num_classes = graph.node_costs.shape[1]
    num_seeds = 0
    for v in range(begin, end):
        own = clusters[v]
        inside[v] = 0.0
        if own < num_classes:
            continue
        pays_uncut = np.float64(0.0)
        pays_cut = np.float64(0.0)
        for i in range(load_labels(graph, v, clusters, row)):
            cost = np.float64(row.costs[i]) if row.labels[i] == own else 0.0
            pays_uncut += max(cost, 0.0)
            pays_cut += max(-cost, 0.0)
        inside[v] = pays_uncut - pays_cut
        if pays_cut > SEED_SHARE * pays_uncut:
            seeds[num_seeds] = v
            num_seeds += 1
    return num_seeds
