"""Contraction of graphs and connected parts of clusters, for the multilevel method.

A cluster becomes one node of a smaller graph (`contract`); a cluster that is not connected falls
into parts (`find_components`). The form of graphs is that of rows.py.

Shapes: n nodes of a graph, K classes, M clusters.
"""

from __future__ import annotations

import numpy as np

from cops.solver._jit import jit, jit_inline, jit_pass
from cops.solver.multilevel.build import make_graph
from cops.solver.multilevel.rows import MISSING, load_labels, make_row

# From this many nodes a cluster on, contraction goes along the runs of a stencil: neighbouring
# edges then mostly join the same two clusters.
NODES_FOR_RUNS = 48


@jit
def _group_members(clusters, num_clusters):
    """List nodes by cluster: those of c are members[first[c]] .. members[first[c + 1] - 1]."""
    num_nodes = clusters.size
    first = np.zeros(num_clusters + 1, np.int64)
    for v in range(num_nodes):
        first[clusters[v] + 1] += 1
    for c in range(num_clusters):
        first[c + 1] += first[c]
    place = first[:num_clusters].copy()
    members = np.empty(num_nodes, np.int32)
    for v in range(num_nodes):
        c = clusters[v]
        members[place[c]] = v
        place[c] += 1
    return first, members


@jit
def contract(graph, clusters, num_clusters):
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

    Returns:
        The graph, and the sum of what its node costs were reduced by.
    """
    num_classes = graph.node_costs.shape[1]
    first, members = _group_members(clusters, num_clusters)
    reduced = np.empty((num_clusters, num_classes), np.float32)
    best = np.empty(num_clusters, np.int32)
    taken = _reduce_members(graph, first, members, np.empty(num_classes, np.float64), reduced, best)
    # Memory that is not written costs nothing, so there is room for as many edges as there are.
    capacity = max(graph.link_node.size, graph.run_costs.size)
    ends = np.empty((capacity, 2), np.int32)
    costs = np.empty(capacity, np.float64)
    slot = np.full(num_clusters, -1, np.int64)
    if graph.offsets.size > 0 and clusters.size >= NODES_FOR_RUNS * num_clusters:
        count = _sum_runs(graph, clusters, ends, costs)
        first, members = _group_members(ends[:count, 0], num_clusters)
        merged = np.empty((count, 2), np.int32)
        merged_costs = np.empty(count, np.float64)
        count = _merge_edges(ends, costs, first, members, slot, merged, merged_costs)
        ends = merged
        costs = merged_costs
    else:
        row = make_row(graph)
        count = _sum_links(graph, clusters, first, members, row, slot, ends, costs)
    return make_graph(ends[:count], costs[:count], 1.0, reduced, best, True), taken


@jit_pass
def _sum_runs(graph, clusters, ends, costs):
    """Sum edges between clusters of a graph with a stencil; a pair may come several times.

    Along a run, the two clusters of an edge are mostly those of the edge before. So costs are added
    up until one of them changes.

    Returns:
        How many edges have been written; ends[e, 0] > ends[e, 1].
    """
    count = 0
    for r in range(graph.offsets.size):
        offset = graph.offsets[r]
        run_costs = graph.run_costs[r]
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


@jit_pass
def _merge_edges(ends, costs, first, members, slot, merged, merged_costs):
    """Add up the costs of edges with the same ends; return how many edges are left.

    Args:
        ends: (E, 2) int32.
        costs: (E,) float64.
        first: (M + 1,) where the edges of each ends[:, 0] begin in `members`.
        members: (E,) edges grouped so.
        slot: (M,), all -1.
        merged: (E, 2) int32, written.
        merged_costs: (E,) float64, written.
    """
    count = 0
    for c in range(slot.size):
        begin = count
        for m in range(first[c], first[c + 1]):
            e = members[m]
            other = ends[e, 1]
            # A slot below `begin` was used by an earlier cluster.
            if slot[other] < begin:
                slot[other] = count
                merged[count, 0] = c
                merged[count, 1] = other
                merged_costs[count] = 0.0
                count += 1
            merged_costs[slot[other]] += costs[e]
    return count


@jit_pass
def _reduce_members(graph, first, members, sums, reduced, best):
    """Sum and reduce the node costs of each cluster; return by how much in sum."""
    taken = np.float64(0.0)
    num_classes = sums.size
    for c in range(best.size):
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


@jit_pass
def _sum_links(graph, clusters, first, members, row, slot, ends, costs):
    """Write the edges between clusters and their costs; return how many there are.

    Args:
        graph: as for `contract`.
        clusters: as there.
        first: (M + 1,) where the nodes of each cluster begin in `members`.
        members: (n,) nodes grouped so.
        row: room for a row.
        slot: (M,), all -1.
        ends: (E, 2) int32, written.
        costs: (E,) float64, written.
    """
    num_edges = 0
    for c in range(slot.size):
        begin = num_edges
        for m in range(first[c], first[c + 1]):
            count = load_labels(graph, members[m], 0, False, clusters, row)
            for i in range(count):
                other = row.labels[i]
                if other == c:
                    continue
                # A slot below `begin` was used by an earlier cluster.
                if slot[other] < begin:
                    slot[other] = num_edges
                    ends[num_edges, 0] = c
                    ends[num_edges, 1] = other
                    costs[num_edges] = 0.0
                    num_edges += 1
                costs[slot[other]] += row.costs[i]
    return num_edges


@jit
def find_components(graph, clusters, by_best_class):
    """Find the connected parts of clusters (disjoint sets over the uncut edges).

    Args:
        graph: backward rows suffice.
        clusters: (n,) int32.
        by_best_class: whether two nodes of one part must also have the same class of lowest cost.

    Returns:
        (n,) int32 part of each node, numbered by first nodes; and how many there are.
    """
    num_nodes, num_classes = graph.node_costs.shape
    # What the nodes of one part have in common.
    key = clusters.astype(np.int64)
    if by_best_class:
        for v in range(num_nodes):
            key[v] = key[v] * num_classes + graph.best[v]
    # Invariant: parent[v] <= v, and roots are the smallest nodes of their sets.
    parent = np.arange(num_nodes).astype(np.int32)
    _join_rows(graph, key, parent)
    components = np.empty(num_nodes, np.int32)
    count = 0
    for v in range(num_nodes):
        if parent[v] == v:
            components[v] = count
            count += 1
        else:
            # The parent is a smaller node of the same set, numbered already.
            components[v] = components[parent[v]]
    return components, count


@jit_pass
def _join_rows(graph, key, parent):
    """Join the sets of all neighbours with the same key."""
    for v in range(key.size):
        root = np.int32(v)
        if graph.offsets.size > 0:
            for r in range(graph.offsets.size):
                u = v - graph.offsets[r]
                joined = u >= 0 and key[u] == key[v] and parent[u] != root
                if joined and graph.run_costs[r, u] > MISSING:
                    root = _join_sets(parent, np.int32(u), root)
        else:
            for i in range(graph.first[v], graph.middle[v]):
                other = graph.link_node[i]
                if key[other] == key[v] and parent[other] != root:
                    root = _join_sets(parent, other, root)
    return 0


@jit_inline
def _join_sets(parent, node, root):
    """Join the set of `node` with that of `root`; return the common root, the smaller one."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    if node < root:
        parent[root] = node
        return node
    parent[node] = root
    return root
