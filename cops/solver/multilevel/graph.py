"""Contraction of graphs, for the multilevel method: a cluster becomes one node of a smaller graph.

The form of graphs is that of rows.py.

Shapes: n nodes of a graph, K classes, M clusters.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inline, jit_inner_pass, jit_pass
from cops.solver.multilevel.build import make_graph
from cops.solver.multilevel.rows import MISSING, Graph, least_block, load_earlier, make_row
from cops.solver.parallel import ALONE, LEAST_BLOCK, Workers, cut_into_blocks

Labels = npt.NDArray[np.int32]

# From this many nodes a cluster on, contraction goes along the runs of a stencil: neighbouring
# edges then mostly join the same two clusters.
NODES_FOR_RUNS = 48
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
        counts[clusters[v]] += 1
    return 0


@jit_pass
def _place_members(clusters, begin, end, places, members):
    """Write nodes begin .. end - 1 where the next node of their cluster goes."""
    for v in range(begin, end):
        c = clusters[v]
        members[places[c]] = v
        places[c] += 1
    return 0


def contract(
    graph: Graph, clusters: Labels, num_clusters: int, workers: Workers = ALONE
) -> tuple[Graph, float]:
    """Make a graph in which each cluster is one node, and edges between two clusters are summed.

    For each cluster the links of its members are gone through; `slot[c]` says where the sum towards
    cluster c is kept. No sort and no hash table. Each edge is met once, in a backward row, so two
    clusters may end with two edges between them, one found from each side. Where a graph has a
    stencil and clusters are large, the runs are gone through instead. What comes out, shorter by
    far, is grouped by clusters.

    Args:
        graph: backward rows suffice.
        clusters: (n,) int32, 0 .. M-1, none of them empty.
        num_clusters: M.
        workers: threads, which do not change the result.

    Returns:
        The graph, and the sum of what its node costs were reduced by.
    """
    found: list[tuple[Any, ...]]
    along_runs = len(graph.offsets) > 0 and len(clusters) >= NODES_FOR_RUNS * num_clusters
    least = least_block(graph)
    if len(cut_into_blocks(len(clusters), least)) == 1:
        whole = _contract_whole(graph, clusters, num_clusters, not along_runs)
        reduced, best, ends, costs, taken = whole
        found = [(ends, costs)]
    else:
        first, members = _group_members(clusters, num_clusters, workers)
        reduced = np.empty((num_clusters, graph.node_costs.shape[1]), np.float32)
        best = np.empty(num_clusters, np.int32)
        parts = (graph, clusters, first, members)
        found = workers.run(
            [
                partial(_contract_block, *parts, *block, not along_runs, reduced, best)
                for block in _cut_by_members(first, len(members), least)
            ]
        )
        taken = sum(block[2] for block in found)
    if along_runs:
        runs = range(len(graph.offsets))
        found = workers.run([partial(_sum_run, graph, clusters, r) for r in runs])
        ends, costs = _join_lists(found, workers)
        groups = _group_members(np.ascontiguousarray(ends[:, 0]), num_clusters, workers)
        blocks = _cut_by_members(groups[0], len(costs), LEAST_BLOCK)
        found = workers.run([partial(_merge_block, ends, costs, *groups, *b) for b in blocks])
    ends, costs = _join_lists(found, workers)
    return make_graph(ends, costs, 1.0, reduced, best, True, workers), taken


def _join_lists(
    found: list[tuple[Any, ...]], workers: Workers
) -> tuple[Labels, npt.NDArray[np.float64]]:
    """Put lists of edges, (E, 2) ends and (E,) costs each, one behind the other."""
    if len(found) == 1:
        return found[0][0], found[0][1]
    bounds = np.cumsum([0, *(len(block[1]) for block in found)]).tolist()
    ends = np.empty((bounds[-1], 2), np.int32)
    costs = np.empty(bounds[-1], np.float64)

    def copy(begin: int, number: int) -> None:
        end = begin + len(found[number][1])
        ends[begin:end], costs[begin:end] = found[number][:2]

    workers.run([partial(copy, bounds[number], number) for number in range(len(found))])
    return ends, costs


def _cut_by_members(
    first: npt.NDArray[np.int64], num_members: int, least: int
) -> list[tuple[int, int]]:
    """Cut clusters into blocks with about as many members each; return begin and end of each."""
    bounds = [begin for begin, _ in cut_into_blocks(num_members, least)][1:]
    cuts = np.unique([0, *np.searchsorted(first, bounds), len(first) - 1])
    return list(pairwise(cuts.tolist()))


@jit
def _contract_whole(graph, clusters, num_clusters, by_rows):
    """Do all of `_contract_block` in one, and allocate for it."""
    first, members = _group_block(clusters, num_clusters)
    reduced = np.empty((num_clusters, graph.node_costs.shape[1]), np.float32)
    best = np.empty(num_clusters, np.int32)
    ends, costs, taken = _contract_block(
        graph, clusters, first, members, np.int64(0), num_clusters, by_rows, reduced, best
    )
    return reduced, best, ends, costs, taken


@jit
def _contract_block(graph, clusters, first, members, begin, end, by_rows, reduced, best):
    """Reduce the node costs of clusters begin .. end - 1, and find their edges if `by_rows`.

    Returns:
        (E, 2) int32 ends and (E,) float64 costs, where ends[e, 0] is the cluster from whose side
        edge e was found. And by how much node costs were reduced in sum.
    """
    sums = np.empty(reduced.shape[1], np.float64)
    taken = _reduce_members(graph, first, members, begin, end, sums, reduced, best)
    # Memory that is not written costs nothing, so there is room for as many edges as there are.
    capacity = 0
    if by_rows:
        capacity = _count_links(graph, members[first[begin] : first[end]])
    ends = np.empty((capacity, 2), np.int32)
    costs = np.empty(capacity, np.float64)
    count = 0
    if by_rows:
        slot = np.full(first.size - 1, -1, np.int32)
        row = make_row(graph)
        count = _sum_links(graph, clusters, first, members, begin, end, row, slot, ends, costs)
    return ends[:count], costs[:count], taken


@jit_inner_pass
def _count_links(graph, nodes):
    """Return how many backward links some nodes have at most."""
    count = graph.offsets.size * nodes.size
    if graph.offsets.size == 0:
        for i in range(nodes.size):
            count += graph.middle[nodes[i]] - graph.first[nodes[i]]
    return count


@jit
def _sum_run(graph, clusters, r):
    """Return the edges between clusters that run r of a stencil contributes, as `_sum_block`.

    Here ends[e, 0] > ends[e, 1].
    """
    ends = np.empty((clusters.size, 2), np.int32)
    costs = np.empty(clusters.size, np.float64)
    count = _sum_along(clusters, graph.offsets[r], graph.run_costs[r], ends, costs)
    return ends[:count], costs[:count]


@jit
def _merge_block(ends, costs, first, members, begin, end):
    """Add up the costs of edges with the same ends; return the edges that are left.

    Args:
        ends: (E, 2) int32.
        costs: (E,) float64.
        first: (M + 1,) where the edges of each ends[:, 0] begin in `members`.
        members: (E,) edges grouped so.
        begin: the first cluster whose edges are merged.
        end: the cluster after the last one.
    """
    capacity = first[end] - first[begin]
    merged = np.empty((capacity, 2), np.int32)
    merged_costs = np.empty(capacity, np.float64)
    slot = np.full(first.size - 1, -1, np.int64)
    count = _merge_groups(ends, costs, first, members, begin, end, slot, merged, merged_costs)
    return merged[:count], merged_costs[:count]


@jit_inner_pass
def _sum_along(clusters, offset, run_costs, ends, costs):
    """Write the edges between clusters of one run; return how many there are.

    Along a run, the two clusters of an edge are mostly those of the edge before. So costs are added
    up until one of them changes.
    """
    count = 0
    a = np.int32(-1)
    b = np.int32(-1)
    total = np.float64(0.0)
    for v in range(clusters.size - offset):
        cost = run_costs[v]
        if cost == MISSING:
            continue
        if clusters[v] == a and clusters[v + offset] == b:
            total += cost
            continue
        count += _write_edge(ends, costs, count, a, b, total)
        a = clusters[v]
        b = clusters[v + offset]
        total = np.float64(cost)
    count += _write_edge(ends, costs, count, a, b, total)
    return count


@jit_inline
def _write_edge(ends, costs, count, a, b, total):
    """Write an edge of this cost, unless both ends are one cluster; return how many that are."""
    if a != b:
        ends[count, 0] = max(a, b)
        ends[count, 1] = min(a, b)
        costs[count] = total
    return 1 if a != b else 0


@jit_inner_pass
def _merge_groups(ends, costs, first, members, begin, end, slot, merged, merged_costs):
    """Add up the costs of edges with the same ends; return how many edges are left.

    Args:
        ends: (E, 2) int32.
        costs: (E,) float64.
        first: (M + 1,) where the edges of each ends[:, 0] begin in `members`.
        members: (E,) edges grouped so.
        begin: the first cluster whose edges are merged.
        end: the cluster after the last one.
        slot: (M,), all -1.
        merged: (E, 2) int32, written.
        merged_costs: (E,) float64, written.
    """
    count = 0
    for c in range(begin, end):
        earlier = count
        for m in range(first[c], first[c + 1]):
            e = members[m]
            other = ends[e, 1]
            # A slot below `earlier` was used by an earlier cluster.
            if slot[other] < earlier:
                slot[other] = count
                merged[count, 0] = c
                merged[count, 1] = other
                merged_costs[count] = 0.0
                count += 1
            merged_costs[slot[other]] += costs[e]
    return count


@jit_inner_pass
def _reduce_members(graph, first, members, begin, end, sums, reduced, best):
    """Do `_reduce_block`."""
    taken = np.float64(0.0)
    num_classes = sums.size
    for c in range(begin, end):
        sums[:] = 0.0
        for m in range(first[c], first[c + 1]):
            v = members[m]
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
def _sum_links(graph, clusters, first, members, begin, end, row, slot, ends, costs):
    """Write the edges between clusters and their costs; return how many there are.

    Args:
        graph: as for `contract`.
        clusters: as there.
        first: (M + 1,) where the nodes of each cluster begin in `members`.
        members: (n,) nodes grouped so.
        begin: the first cluster whose edges are written.
        end: the cluster after the last one.
        row: room for a row.
        slot: (M,), all -1.
        ends: (E, 2) int32, written.
        costs: (E,) float64, written.
    """
    num_edges = 0
    for c in range(begin, end):
        earlier = num_edges
        for m in range(first[c], first[c + 1]):
            count = load_earlier(graph, np.int64(members[m]), np.int64(0), clusters, row)
            for i in range(count):
                other = row.labels[i]
                if other == c:
                    continue
                # A slot below `earlier` was used by an earlier cluster.
                if slot[other] < earlier:
                    slot[other] = num_edges
                    ends[num_edges, 0] = c
                    ends[num_edges, 1] = other
                    costs[num_edges] = 0.0
                    num_edges += 1
                costs[slot[other]] += row.costs[i]
    return num_edges
