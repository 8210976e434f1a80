"""Chains of moves into one cluster: what takes a strip or several parts from one to another.

Where a border between two clusters lies wrong by a strip of many nodes, or a cluster ought to take
in several parts of others that hold on to each other, the first move costs something, and only all
of them together gain. Moves of one node (or one part) at a time stop before that. So from a *seed*,
a node for which it costs little to move to a neighbouring cluster, a chain is grown here, as in the
local search of Kernighan and Lin: always the move into the same *target* that costs least (or gains
most), also uphill, and then back to where the sum was best.

Moving u into the target changes the cost of the labelling by stay(u) - join(u), with

    stay(u) = edges between u and its own cluster  -  cost of the class of that
    join(u) = edges between u and the target       -  cost of the target's class

Both are summed when a chain first comes to u, and kept up to date while its neighbours move. Only
nodes that gain by an edge to a moved one can follow it. Each kept chain lowers the cost, and moves
into clusters that are there keep a labelling feasible.

Chains first go between clusters of one class (two persons side by side), then between any.

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

# A node is a seed if its move costs less than this share of all its edges, in absolute terms.
SEED_SHARE = 0.2
# Links to visit, as a share of the edges and for each graph, however small: on hard problems there
# is always another chain, and most of the gain comes from the first ones.
BUDGET_SHARE = 0.25
BUDGET_FLOOR = 100_000


@jit
def chain_budget(graph):
    """How many links `move_chains` may visit in the graph of an input."""
    num_edges = max(graph.run_costs.size, graph.link_node.size // 2)
    return np.int64(BUDGET_SHARE * num_edges) + BUDGET_FLOOR


@jit
def move_chains(graph, clusters, class_of, waiting, patience, budget, one_source):
    """Move chains of nodes from cluster to cluster where that lowers the cost.

    Args:
        graph: with forward and backward links.
        clusters: (n,) int32, changed in place.
        class_of: (at least K + n,) int32, classes of the clusters.
        waiting: (n,) bool, False for nodes that cannot be seeds.
        patience: a chain ends when so many moves have brought nothing better.
        budget: links to visit; no chain begins when they are spent. Seeds whose move costs least
            go first. The pass that finds them is not counted.
        one_source: whether all nodes of a chain come from the cluster of its seed.

    Returns:
        What the chains have gained in sum; 0 if there was none.
    """
    num_nodes = graph.node_costs.shape[0]
    capacity = row_capacity(graph)
    row = np.empty(capacity, np.int32)
    row_costs = np.empty(capacity, np.float32)
    labels = np.empty(capacity, np.int32)
    costs = np.empty(capacity, np.float32)
    weight = np.empty(class_of.size, np.float64)
    seeds = np.empty(num_nodes, np.int32)
    lacks = np.empty((2, num_nodes), np.float64)
    num_seeds = find_chain_seeds(
        graph, clusters, class_of, waiting, labels, costs, weight, seeds, lacks
    )
    if num_seeds == 0:
        return 0.0

    nodes = np.arange(num_nodes).astype(np.int32)
    stay = np.empty(num_nodes, np.float64)
    join = np.empty(num_nodes, np.float64)
    met = np.full(num_nodes, -1, np.int32)  # which chain has last set stay and join
    visited = np.zeros(num_nodes, np.bool_)
    chain = np.empty(num_nodes, np.int32)
    origin = np.empty(num_nodes, np.int32)
    targets = np.empty(2, np.int64)
    lack = np.empty(2, np.float64)
    total = 0.0
    visits = 0
    for stage in range(2):
        visited[:] = False
        limit = budget if stage == 1 else budget // 2
        for place in np.argsort(lacks[stage, :num_seeds], kind="mergesort"):
            if visits >= limit or lacks[stage, place] == np.inf:
                break
            seed = seeds[place]
            if visited[seed]:
                continue
            # The chains before may have changed what is next to the seed.
            visits += find_targets(
                graph, clusters, class_of, seed, labels, costs, weight, targets, lack
            )
            target = targets[stage]
            if target < 0:
                continue
            number = stage * num_seeds + place
            source = clusters[seed]
            met[seed] = number
            stay[seed] = lack[stage]
            join[seed] = 0.0
            # Invariant: the heap holds each node that can follow under its current change, and
            # perhaps under old ones, which are passed over.
            heap = [(lack[stage], np.int64(seed))]
            gain = 0.0
            mass = 0.0
            best_gain = 0.0
            best_size = 0
            count = 0
            while len(heap) > 0 and count - best_size < patience:
                change, u = heappop(heap)
                own = clusters[u]
                if own == target or change != stay[u] - join[u]:
                    continue
                visited[u] = True
                clusters[u] = target
                chain[count] = u
                origin[count] = own
                count += 1
                gain -= change
                mass += abs(stay[u]) + abs(join[u])
                if gain > best_gain + RELATIVE_GAIN * mass:
                    best_gain = gain
                    best_size = count
                num_links = load_labels(graph, u, 0, True, nodes, row, row_costs)
                visits += num_links
                for i in range(num_links):
                    v = row[i]
                    if clusters[v] != target and met[v] == number:
                        join[v] += row_costs[i]
                        if clusters[v] == own:
                            stay[v] -= row_costs[i]
                        heappush(heap, (stay[v] - join[v], np.int64(v)))
                # Only now, as there may be a second link to the same node, which is summed here.
                for i in range(num_links):
                    v = row[i]
                    if met[v] == number or row_costs[i] <= 0.0 or clusters[v] == target:
                        continue
                    if one_source and clusters[v] != source:
                        continue
                    met[v] = number
                    visits += sum_sides(
                        graph, clusters, class_of, v, target, labels, costs, stay, join
                    )
                    heappush(heap, (stay[v] - join[v], np.int64(v)))
            for p in range(best_size, count):
                clusters[chain[p]] = origin[p]
            total += best_gain
    return total


@jit_pass
def sum_sides(graph, clusters, class_of, v, target, labels, costs, stay, join):
    """Set stay[v] and join[v]; returns the number of links."""
    own = clusters[v]
    inside = np.float64(0.0)
    towards = np.float64(0.0)
    num_links = load_labels(graph, v, 0, True, clusters, labels, costs)
    for i in range(num_links):
        cost = np.float64(costs[i])
        inside += cost if labels[i] == own else 0.0
        towards += cost if labels[i] == target else 0.0
    stay[v] = inside - graph.node_costs[v, class_of[own]]
    join[v] = towards - graph.node_costs[v, class_of[target]]
    return num_links


@jit_pass
def find_targets(graph, clusters, class_of, v, labels, costs, weight, targets, lack):
    """The clusters to which v would rather move: of its own class, and of any.

    Args:
        labels, costs: room for a row.
        weight: room for a number per cluster.
        targets: (2,) int64, filled; -1 where no such cluster has edges to v that are worth it.
        lack: (2,) float64, filled with what these moves cost; inf where there is none.

    Returns:
        The number of links.
    """
    own = clusters[v]
    num_links = load_labels(graph, v, 0, True, clusters, labels, costs)
    weight[own] = 0.0
    for i in range(num_links):
        weight[labels[i]] = 0.0
    for i in range(num_links):
        weight[labels[i]] += costs[i]
    stay = weight[own] - graph.node_costs[v, class_of[own]]
    targets[:] = -1
    lack[:] = np.inf
    for i in range(num_links):
        c = labels[i]
        if c == own or weight[c] <= 0.0:
            continue
        cost = stay - (weight[c] - graph.node_costs[v, class_of[c]])
        if cost < lack[1]:
            lack[1] = cost
            targets[1] = c
        if cost < lack[0] and class_of[c] == class_of[own]:
            lack[0] = cost
            targets[0] = c
    return num_links


@jit_pass
def find_chain_seeds(graph, clusters, class_of, waiting, labels, costs, weight, seeds, lacks):
    """List the seeds.

    Args:
        waiting: (n,) bool, False for nodes that cannot be one.
        labels, costs, weight: as in `find_targets`.
        seeds: (n,) int32, filled from the front.
        lacks: (2, n) float64, filled with what moves of the seeds cost, to clusters of their class
            and to any; inf where that is too much.

    Returns:
        The number of seeds.
    """
    num_seeds = 0
    for v in range(waiting.size):
        if not waiting[v]:
            continue
        own = clusters[v]
        num_links = load_labels(graph, v, 0, True, clusters, labels, costs)
        mass = np.float64(0.0)
        weight[own] = 0.0
        for i in range(num_links):
            weight[labels[i]] = 0.0
        for i in range(num_links):
            weight[labels[i]] += costs[i]
            mass += abs(costs[i])
        stay = weight[own] - graph.node_costs[v, class_of[own]]
        lack_same = np.float64(np.inf)
        lack_any = np.float64(np.inf)
        for i in range(num_links):
            c = labels[i]
            if c == own or weight[c] <= 0.0:
                continue
            cost = stay - (weight[c] - graph.node_costs[v, class_of[c]])
            lack_any = min(lack_any, cost)
            if class_of[c] == class_of[own]:
                lack_same = min(lack_same, cost)
        if lack_any < SEED_SHARE * mass:
            seeds[num_seeds] = v
            lacks[0, num_seeds] = lack_same if lack_same < SEED_SHARE * mass else np.inf
            lacks[1, num_seeds] = lack_any
            num_seeds += 1
    return num_seeds
