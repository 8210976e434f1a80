"""Contraction of graphs, for the multilevel method: a cluster becomes one node of a smaller graph.

The form of graphs is that of rows.py.

Shapes: n nodes of a graph, K classes, M clusters.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit, jit_inner_pass, jit_pass, jit_step
from cops.solver.multilevel.build import make_graph, make_graph_of_lists
from cops.solver.multilevel.rows import MISSING, Graph, least_block
from cops.solver.parallel import ALONE, Workers, cut_into_blocks

Labels = npt.NDArray[np.int32]

# Members of clusters are counted in blocks of as many nodes at least.
NODES_PER_COUNT = 1 << 15


def _group_members(
    clusters: Labels, num_clusters: int, workers: Workers
) -> tuple[npt.NDArray[np.int64], Labels]:
    """List nodes by cluster: those of c are members[first[c]] .. members[first[c + 1] - 1]."""
    # A counting sort. Each block counts for itself, and then knows where its nodes go.
    blocks = cut_into_blocks(len(clusters), max(NODES_PER_COUNT, 4 * num_clusters))
    if len(blocks) == 1:
        groups: tuple[npt.NDArray[np.int64], Labels] = _group_block(clusters, num_clusters)
        return groups
    counts = np.zeros((len(blocks), num_clusters), np.int64)
    members = np.empty(len(clusters), np.int32)
    workers.run(
        [partial(_count_members, clusters, *b, c) for b, c in zip(blocks, counts, strict=True)]
    )
    first = np.zeros(num_clusters + 1, np.int64)
    np.cumsum(counts.sum(axis=0), out=first[1:])
    places = first[:-1] + np.cumsum(counts, axis=0) - counts
    workers.run(
        [
            partial(_place_members, clusters, *b, p, members)
            for b, p in zip(blocks, places, strict=True)
        ]
    )
    return first, members


@jit
def _group_block(clusters, num_clusters):
    """Do `_group_members` in one block."""
    begin = np.int64(0)  # of one type for all: a literal would be compiled for
    places = np.zeros(num_clusters, np.int64)
    _count_members(clusters, begin, clusters.size, places)
    first = np.zeros(num_clusters + 1, np.int64)
    for c in range(num_clusters):
        first[c + 1] = first[c] + places[c]
        places[c] = first[c]
    members = np.empty(clusters.size, np.int32)
    _place_members(clusters, begin, clusters.size, places, members)
    return first, members


@jit_pass
def _count_members(clusters, begin, end, counts):
    """Count nodes begin .. end - 1 of each cluster."""
    for v in range(begin, end):
        counts[index(clusters[index(v)])] += 1
    return 0


@jit_pass
def _place_members(clusters, begin, end, places, members):
    """Write nodes begin .. end - 1 where the next node of their cluster goes."""
    for v in range(begin, end):
        c = index(clusters[index(v)])
        members[index(places[c])] = v
        places[c] += 1
    return 0


def contract(
    graph: Graph, clusters: Labels, num_clusters: int, workers: Workers = ALONE
) -> tuple[Graph, float]:
    """Make a graph in which each cluster is one node, and edges between two clusters are summed.

    For each cluster the links of its members are gone through; `slot[c]` says where the sum towards
    cluster c is kept. No sort and no hash table. Each edge is met once, in a backward row, so two
    clusters may end with two edges between them, one found from each side. There may be more where
    threads share the members of a large cluster.

    Args:
        graph: backward rows suffice.
        clusters: (n,) int32, 0 .. M-1, none of them empty.
        num_clusters: M.
        workers: threads, which do not change the result.

    Returns:
        The graph, and the sum of what its node costs were reduced by.
    """
    least = least_block(graph)
    if len(cut_into_blocks(len(clusters), least)) == 1:
        reduced, best, taken, ends, costs = _contract_whole(graph, clusters, num_clusters)
        return make_graph(ends, costs, 1.0, reduced, best, True, workers), taken
    first, members = _group_members(clusters, num_clusters, workers)
    reduced = np.empty((num_clusters, graph.node_costs.shape[1]), np.float32)
    best = np.empty(num_clusters, np.int32)
    blocks = _cut_by_members(first, len(members), least)
    lows = workers.run(
        [partial(_reduce_clusters, graph, first, members, *b, reduced, best) for b in blocks]
    )
    lists = workers.over(
        len(members),
        lambda *block: _find_edges(graph, clusters, num_clusters, members, *block),
        least,
    )
    return make_graph_of_lists(lists, reduced, best, workers), sum(lows)


def _cut_by_members(
    first: npt.NDArray[np.int64], num_members: int, least: int
) -> list[tuple[int, int]]:
    """Cut clusters into blocks with about as many members each; return begin and end of each."""
    bounds = [begin for begin, _ in cut_into_blocks(num_members, least)][1:]
    cuts = np.unique([0, *np.searchsorted(first, bounds), len(first) - 1])
    return list(pairwise(cuts.tolist()))


@jit
def _contract_whole(graph, clusters, num_clusters):
    """Do all of `contract` but for the rows, in one.

    Returns:
        The node costs, the best classes, by how much node costs were reduced in sum, and the edges.
    """
    first, members = _group_block(clusters, num_clusters)
    reduced = np.empty((num_clusters, graph.node_costs.shape[1]), np.float32)
    best = np.empty(num_clusters, np.int32)
    begin = np.int64(0)  # of one type for all: a literal would be compiled for
    taken = _reduce_clusters(graph, first, members, begin, num_clusters, reduced, best)
    ends, costs = _find_edges(graph, clusters, num_clusters, members, begin, members.size)
    return reduced, best, taken, ends, costs


@jit
def _reduce_clusters(graph, first, members, begin, end, reduced, best):
    """Sum the node costs of clusters begin .. end - 1 and reduce them; return by how much."""
    sums = np.empty(reduced.shape[1], np.float64)
    return _reduce_members(graph, first, members, begin, end, sums, reduced, best)


@jit
def _find_edges(graph, clusters, num_clusters, members, begin, end):
    """Find the edges to other clusters of members[begin:end], which are grouped by clusters.

    Returns:
        (E, 2) int32 ends and (E,) float64 costs, where ends[e, 0] is the cluster from whose side
        edge e was found.
    """
    # Memory that is not written costs nothing, so there is room for as many edges as there are.
    nodes = members[begin:end]
    capacity = _count_links(graph, nodes) + 1  # the one after the last is written, too
    ends = np.empty((capacity, 2), np.int32)
    costs = np.empty(capacity, np.float64)
    slot = np.full(num_clusters, -1, np.int32)
    count = _sum_links(graph, clusters, nodes, slot, ends, costs)
    return ends[:count], costs[:count]


@jit_inner_pass
def _count_links(graph, nodes):
    """Return how many backward links some nodes have at most."""
    count = graph.offsets.size * nodes.size
    if graph.offsets.size == 0:
        for i in range(nodes.size):
            count += graph.middle[nodes[i]] - graph.first[nodes[i]]
    return count


@jit_inner_pass
def _reduce_members(graph, first, members, begin, end, sums, reduced, best):
    """Do `_reduce_clusters`."""
    taken = np.float64(0.0)
    num_classes = sums.size
    for c in range(begin, end):
        sums[:] = 0.0
        for m in range(first[c], first[c + 1]):
            v = index(members[index(m)])
            for k in range(num_classes):
                sums[k] += graph.node_costs[v, k]
        low = sums[0]
        for k in range(1, num_classes):
            low = min(low, sums[k])
        k = 0
        while sums[k] > low:
            k += 1
        best[c] = k
        taken += low
        for k in range(num_classes):
            reduced[c, k] = sums[k] - low
    return taken


@jit_inner_pass
def _sum_links(graph, clusters, nodes, slot, ends, costs):
    """Write the edges between clusters and their costs; return how many there are.

    Args:
        graph: as for `contract`.
        clusters: as there.
        nodes: whose links are summed, grouped by clusters.
        slot: (M,), all -1.
        ends: (E + 1, 2) int32, written; the last one is none.
        costs: (E + 1,) float64, written.
    """
    # Invariant: edges before `earlier` are of clusters before that of the node.
    num_edges = earlier = np.int64(0)
    last = np.int32(-1)
    for i in range(nodes.size):
        v = np.int64(nodes[i])
        own = clusters[index(v)]
        earlier = earlier if own == last else num_edges
        last = own
        # Links are not loaded into a row first: that would take as long as all that is done here.
        for r in range(graph.offsets.size):
            u = v - graph.offsets[r]
            if u < 0:
                continue
            other = clusters[index(u)]
            cost = graph.run_costs[r, index(u)]
            if other != own and cost > MISSING:
                num_edges += _add_link(own, other, cost, earlier, num_edges, slot, ends, costs)
        if graph.offsets.size == 0:
            for link in range(graph.first[index(v)], graph.middle[index(v)]):
                other = clusters[index(graph.link_node[index(link)])]
                cost = graph.link_cost[index(link)]
                if other != own:
                    num_edges += _add_link(own, other, cost, earlier, num_edges, slot, ends, costs)
    return num_edges


@jit_step
def _add_link(own, other, cost, earlier, num_edges, slot, ends, costs):
    """Add the cost of a link to that of the edge between two clusters; return 1 if it is new."""
    # A slot below `earlier` was used by an earlier cluster. No branch: nobody could predict which
    # links are the first of an edge.
    place = np.int64(slot[index(other)])
    new = place < earlier
    place = num_edges if new else place
    slot[index(other)] = place
    ends[index(num_edges), 0] = own
    ends[index(num_edges), 1] = other
    before = 0.0 if new else costs[index(place)]
    costs[index(place)] = before + cost
    return 1 if new else 0
