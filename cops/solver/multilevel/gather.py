"""Chains into new clusters: what makes several nodes, or clusters, change their class together.

Chains (chain.py) go into a cluster next to the seed. But a hub may have to take another class with
most of its neighbours. Or three clusters may have to become one of a fourth class. No such cluster
is there. The first to move pays its class and all its edges, and only with those who
follow it gains. Here each node is a seed, and each class a target. That is a new cluster of a class
in P, or *the* cluster of a class outside P, wherever its nodes are. Growth, and the way back to the
best sum, are those of chain.py.

Shapes: n nodes of a graph, K classes, C cluster numbers.
"""

from __future__ import annotations

import numpy as np

from cops.solver._jit import jit
from cops.solver.multilevel.chain import begin_chain, grow_chain, make_chain
from cops.solver.multilevel.rows import load_labels, make_row
from cops.solver.multilevel.wishes import Room

PATIENCE = 32


@jit
def gather(graph, partitionable, clusters, class_of, budget):
    """Move chains into new clusters, and into those of classes outside P, where that gains.

    Args:
        graph: with forward and backward links.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place; numbers below K are of classes outside P.
        class_of: (at least K + n,) int32, changed in place.
        budget: links to visit; no chain begins when they are spent.

    Returns:
        What the chains have gained in sum; 0 if there was none.
    """
    num_nodes, num_classes = graph.node_costs.shape
    chain = make_chain(graph)
    # One number more than there are: where each node is alone, no other is free.
    spare = num_classes + num_nodes
    class_with_spare = np.zeros(spare + 1, np.int32)
    class_with_spare[:spare] = class_of[:spare]
    room = Room(make_row(graph), np.empty(spare + 1, np.float64))
    size = np.zeros(spare + 1, np.int32)
    for v in range(num_nodes):
        size[clusters[v]] += 1
    unused = num_classes
    number = 0
    total = 0.0
    visits = 0
    for v in range(num_nodes):
        for k in range(num_classes):
            if visits > budget:
                break
            while size[unused] > 0:
                unused += 1
            target = unused if partitionable[k] else k
            own = clusters[v]
            if own == target:
                continue
            class_with_spare[target] = k
            lack = graph.node_costs[v, k] - graph.node_costs[v, class_with_spare[own]]
            num_links = load_labels(graph, v, 0, True, clusters, room.row)
            for i in range(num_links):
                cost = np.float64(room.row.costs[i])
                lack += cost if room.row.labels[i] == own else 0.0
                lack -= cost if room.row.labels[i] == target else 0.0
            begin_chain(chain, v, number, lack)
            gain, links = grow_chain(
                graph, clusters, class_with_spare, v, target, -1, number, PATIENCE, chain, room
            )
            number += 1
            visits += num_links + links
            if gain > 0.0:
                total += gain
                # Every node was alone, so the number that the seed has left is free.
                if target == spare:
                    class_with_spare[own] = k
                size[:] = 0
                for u in range(num_nodes):
                    if clusters[u] == spare:
                        clusters[u] = own
                    size[clusters[u]] += 1
                unused = num_classes
    class_of[:spare] = class_with_spare[:spare]
    return total
