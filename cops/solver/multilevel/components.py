"""Connected parts of clusters, for the multilevel method.

Disjoint sets over the uncut edges. They are found within bands of nodes side by side, and then what
edges between two bands join.

Shapes: n nodes of a graph, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit_inline, jit_pass
from cops.solver.multilevel.rows import MISSING, Graph
from cops.solver.parallel import ALONE, Workers

Labels = npt.NDArray[np.int32]

# A band has as many nodes at least.
NODES_PER_BAND = 1 << 15


def find_components(
    graph: Graph, clusters: Labels, by_best_class: bool, workers: Workers = ALONE
) -> tuple[Labels, int]:
    """Find the connected parts of clusters (disjoint sets over the uncut edges).

    Args:
        graph: backward rows suffice.
        clusters: (n,) int32.
        by_best_class: whether two nodes of one part must also have the same class of lowest cost.
        workers: threads, which do not change the result.

    Returns:
        (n,) int32 part of each node, numbered by first nodes; and how many there are.
    """
    # What the nodes of one part have in common.
    key = np.empty(len(clusters), np.int64)
    # Invariant: parent[v] <= v, and roots are the smallest nodes of their sets. So whatever the
    # order in which edges are met, the roots are the same in the end.
    parent = np.empty(len(clusters), np.int32)
    bands = workers.over(
        len(key),
        lambda *band: _join_band(graph, clusters, by_best_class, key, parent, *band),
        NODES_PER_BAND,
    )
    if len(bands) > 1:
        between = workers.over(
            len(key), lambda *band: _list_between(graph, key, parent, *band), NODES_PER_BAND
        )
        for pairs in between[1:]:
            _join_pairs(pairs, parent)
    numbers = np.empty_like(parent)
    return numbers, _number_roots(parent, numbers)


@jit_pass
def _join_band(graph, clusters, by_best_class, key, parent, begin, end):
    """Join the sets of all neighbours with the same key among nodes begin .. end - 1.

    In the end the parent of each of them is its root. Fills `key`, too.
    """
    num_classes = np.int64(graph.node_costs.shape[1] if by_best_class else 0)
    for v in range(begin, end):
        best = np.int64(graph.best[index(v)] if by_best_class else 0)
        key[index(v)] = clusters[index(v)] * max(num_classes, 1) + best
        parent[index(v)] = v
    for v in range(begin, end):
        own = key[index(v)]
        root = np.int32(v)
        if graph.offsets.size > 0:
            for r in range(graph.offsets.size):
                u = v - graph.offsets[r]
                joined = u >= begin and key[index(u)] == own and parent[index(u)] != root
                if joined and graph.run_costs[r, index(u)] > MISSING:
                    root = _join_sets(parent, np.int32(u), root)
        else:
            for i in range(graph.first[index(v)], graph.middle[index(v)]):
                u = np.int64(graph.link_node[index(i)])
                if u >= begin and key[index(u)] == own and parent[index(u)] != root:
                    root = _join_sets(parent, np.int32(u), root)
    for v in range(begin, end):
        parent[index(v)] = parent[index(parent[index(v)])]
    return 0


def _list_between(
    graph: Graph, key: npt.NDArray[np.int64], parent: Labels, begin: int, end: int
) -> Labels:
    """List the sets, by their roots (S, 2), that edges from begin .. end - 1 to earlier nodes join.

    A pair may be listed several times, but not where the edge before is of the same.
    """
    if begin == 0:
        return np.empty((0, 2), np.int32)
    capacity = graph.offsets.size * (end - begin)
    if graph.offsets.size == 0:
        capacity = int(graph.first[end] - graph.first[begin])
    pairs = np.empty((capacity, 2), np.int32)
    count = _fill_between(graph, key, parent, begin, end, pairs)
    return pairs[:count]


@jit_pass
def _fill_between(graph, key, parent, begin, end, pairs):
    """Do `_list_between`; return S."""
    count = 0
    for r in range(graph.offsets.size):
        offset = graph.offsets[r]
        for v in range(max(begin, offset), min(begin + offset, end)):
            u = v - offset
            if key[u] == key[v] and graph.run_costs[r, u] > MISSING:
                count = _list_pair(pairs, count, parent[u], parent[v])
    if graph.offsets.size == 0:
        for v in range(begin, end):
            for i in range(graph.first[v], graph.middle[v]):
                u = graph.link_node[i]
                if u < begin and key[u] == key[v]:
                    count = _list_pair(pairs, count, parent[u], parent[v])
    return count


@jit_inline
def _list_pair(pairs, count, a, b):
    """Write a pair unless it is the one before; return how many there are."""
    if count == 0 or pairs[count - 1, 0] != a or pairs[count - 1, 1] != b:
        pairs[count, 0] = a
        pairs[count, 1] = b
        count += 1
    return count


@jit_pass
def _join_pairs(pairs, parent):
    """Join the sets of both nodes of each pair."""
    for p in range(pairs.shape[0]):
        root = pairs[p, 1]
        while parent[root] != root:
            root = parent[root]
        _join_sets(parent, pairs[p, 0], root)
    return 0


@jit_pass
def _number_roots(parent, numbers):
    """Give sets `numbers` (n,) 0, 1, ... by their roots; return how many there are."""
    count = 0
    for v in range(parent.size):
        if parent[v] == v:
            numbers[v] = count
            count += 1
        else:
            # The parent is a smaller node of the same set, numbered already.
            numbers[v] = numbers[parent[v]]
    return count


@jit_inline
def _join_sets(parent, node, root):
    """Join the set of `node` with that of `root`; return the common root, the smaller one."""
    while parent[index(node)] != node:
        parent[index(node)] = parent[index(parent[index(node)])]
        node = parent[index(node)]
    if node < root:
        parent[index(root)] = node
        return node
    parent[index(node)] = root
    return root
