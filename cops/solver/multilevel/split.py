"""Splitting clusters: what takes a part off that has been joined to a whole by mistake.

Moves of single nodes cannot divide a cluster in two: the first node to leave loses all its
neighbours. Moves of parts can, if something shows where a part ends; the class costs do, where the
part is of another class than the rest. For two instances of one class nothing does. But a node at
the wrong side has edges into its cluster that pay for being cut. From such a *seed* a part is grown
here, as in the local search of Kernighan and Lin: always by the node whose change of side costs
least (or gains most), also uphill, and then back to where the sum was best.

Taking u out of cluster C into the part S changes the cost of cut edges by

    (edges between u and C without S)  -  (edges between u and S)  =  inside(u) - 2 towards(u)

with inside(u) the sum of all edges between u and C, and towards(u) of those into S. The part keeps
the class of its cluster, so node costs stay; later moves may change it or join the part to another
cluster. Clusters of a class outside P are left alone, as that class cannot have a second one.

Source of the idea: Kernighan, Lin, "An efficient heuristic procedure for partitioning graphs"
(1970).

Shapes: n nodes of a graph, K classes.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np

from cops.solver._jit import jit
from cops.solver.multilevel.rows import jit_pass, load_labels, row_capacity
from cops.solver.multilevel.sweep import RELATIVE_GAIN

# A node is a seed if the edges into its cluster that pay for being cut are this share of the rest.
SEED_SHARE = 0.1
# Of one cluster, so many seeds at most; those with the weakest hold on it go first.
SEEDS_PER_CLUSTER = 32
# A part grows until so many nodes have brought nothing better.
PATIENCE = 64


@jit
def split_clusters(graph, clusters, class_of, budget):
    """Split clusters of classes in P where that lowers the cost.

    A pass over the links finds the seeds; growing a part costs its links, and log n for each.

    Args:
        graph: with forward and backward links.
        clusters: (n,) int32, changed in place; numbers below K are of classes outside P.
        class_of: (K + n,) int32, changed in place.
        budget: links to visit; no part begins to grow when they are spent. Seeds with the weakest
            hold on their cluster go first. The pass that finds them is not counted.

    Returns:
        What the splits have gained in sum; 0 if there was none.
    """
    num_nodes, num_classes = graph.node_costs.shape
    capacity = row_capacity(graph)
    row = np.empty(capacity, np.int32)
    costs = np.empty(capacity, np.float32)
    inside = np.empty(num_nodes, np.float64)
    seeds = np.empty(num_nodes, np.int32)
    num_seeds = find_seeds(graph, clusters, row, costs, inside, seeds)
    if num_seeds == 0:
        return 0.0

    nodes = np.arange(num_nodes).astype(np.int32)
    size = np.zeros(class_of.size, np.int32)
    for v in range(num_nodes):
        size[clusters[v]] += 1
    unused = num_classes  # no number from here on is known to be free before it is looked at
    grown = np.zeros(class_of.size, np.int32)
    visited = np.zeros(num_nodes, np.bool_)
    towards = np.empty(num_nodes, np.float64)
    # Which growth has last set `towards`, and which has last taken the node.
    met = np.full(num_nodes, -1, np.int32)
    taken = np.full(num_nodes, -1, np.int32)
    part = np.empty(num_nodes, np.int32)
    total = 0.0
    visits = 0
    for number in np.argsort(inside[seeds[:num_seeds]], kind="mergesort"):
        seed = seeds[number]
        own = clusters[seed]
        if visits >= budget:
            break
        if visited[seed] or grown[own] == SEEDS_PER_CLUSTER:
            continue
        grown[own] += 1
        # Invariant: the heap holds each node next to the part under its current change, and
        # perhaps under old ones, which are passed over.
        heap = [(inside[seed], np.int64(seed))]
        met[seed] = number
        towards[seed] = 0.0
        gain = 0.0
        mass = 0.0
        best_gain = 0.0
        best_size = 0
        count = 0
        while len(heap) > 0 and count < size[own] - 1 and count - best_size < PATIENCE:
            change, u = heappop(heap)
            if taken[u] == number or change != inside[u] - 2.0 * towards[u]:
                continue
            taken[u] = number
            visited[u] = True
            part[count] = u
            count += 1
            gain -= change
            mass += abs(inside[u])
            if gain > best_gain + RELATIVE_GAIN * mass:
                best_gain = gain
                best_size = count
            num_links = load_labels(graph, u, 0, True, nodes, row, costs)
            visits += num_links
            for i in range(num_links):
                other = row[i]
                if clusters[other] != own or taken[other] == number:
                    continue
                if met[other] != number:
                    met[other] = number
                    towards[other] = 0.0
                towards[other] += costs[i]
                heappush(heap, (inside[other] - 2.0 * towards[other], np.int64(other)))
        if best_size == 0:
            continue
        while size[unused] > 0:
            unused += 1
        total += best_gain
        class_of[unused] = class_of[own]
        for p in range(best_size):
            clusters[part[p]] = unused
        size[unused] = best_size
        size[own] -= best_size
        for p in range(best_size):
            u = part[p]
            inside[u] = 0.0
            for i in range(load_labels(graph, u, 0, True, nodes, row, costs)):
                other = row[i]
                if clusters[other] == unused:
                    inside[u] += costs[i]
                elif clusters[other] == own:
                    inside[other] -= costs[i]
    return total


@jit_pass
def find_seeds(graph, clusters, labels, costs, inside, seeds):
    """Sum the edges of each node into its cluster, and list the seeds.

    Args:
        labels, costs: room for a row.
        inside: (n,) float64, filled.
        seeds: (n,) int32, filled from the front.

    Returns:
        The number of seeds.
    """
    num_nodes, num_classes = graph.node_costs.shape
    num_seeds = 0
    for v in range(num_nodes):
        own = clusters[v]
        inside[v] = 0.0
        if own < num_classes:
            continue
        pays_uncut = np.float64(0.0)
        pays_cut = np.float64(0.0)
        for i in range(load_labels(graph, v, 0, True, clusters, labels, costs)):
            cost = np.float64(costs[i]) if labels[i] == own else 0.0
            pays_uncut += max(cost, 0.0)
            pays_cut += max(-cost, 0.0)
        inside[v] = pays_uncut - pays_cut
        if pays_cut > SEED_SHARE * pays_uncut:
            seeds[num_seeds] = v
            num_seeds += 1
    return num_seeds
