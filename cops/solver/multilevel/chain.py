"""Chains of moves into one cluster: what takes a strip or several parts from one to another.

Single moves fail where a border between two clusters lies wrong by a strip of many nodes. So they
do where a cluster ought to take in several parts of others that hold on to each other. The first
move costs something, and only all of them together gain. Moves of one node (or one part) at a time
stop before that. So from a *seed*, a node for which it costs little to move to a neighbouring
cluster, a chain is grown here. As in Kernighan and Lin's local search, the next move is always
the one into the same *target* that costs least (or gains most). Moves go uphill too, and in the end
back to where the sum was best.

Moving u into the target changes the cost of the labelling by stay(u) - join(u), with

    stay(u) = edges between u and its own cluster  -  cost of the class of that
    join(u) = edges between u and the target       -  cost of the target's class

Both are summed when a chain first comes to u, and kept up to date while its neighbours move. Only
nodes that gain by an edge to a moved one can follow it. Each kept chain lowers the cost, and moves
into clusters that are there keep a labelling feasible.

Chains first go between clusters of one class (two persons side by side), then between any.

Source of the idea: Kernighan, Lin, "An efficient heuristic procedure for partitioning graphs"
(1970).

Shapes: n nodes of a graph, K classes, C cluster numbers, L links of the longest row.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit, jit_inline, jit_inner, jit_inner_pass
from cops.solver.multilevel.ordering import ascending
from cops.solver.multilevel.rows import Graph, Row, load_labels, make_row
from cops.solver.multilevel.sums import RELATIVE_GAIN
from cops.solver.multilevel.wishes import SEED_SHARE, find_seeds, find_targets, make_room
from cops.solver.parallel import ALONE, Workers

# Links to visit, as a share of the edges and for each graph, however small. On hard problems there
# is always another chain, and most of the gain comes from the first ones.
BUDGET_SHARE = 0.25
BUDGET_FLOOR = 100_000


def chain_budget(graph: Graph) -> int:
    """Bound the links that `move_chains` may visit in the graph of an input."""
    num_edges = max(graph.run_costs.size, graph.link_node.size // 2)
    return int(BUDGET_SHARE * num_edges) + BUDGET_FLOOR


class Chain(NamedTuple):
    """The chain that is being grown, and room for the next; changed in place.

    Attributes:
        stay: (n,) float64, see the head of this file.
        join: (n,) float64.
        met: (n,) int32, the chain that has last set `stay` and `join`.
        visited: (n,) bool, whether a chain of this stage has taken the node.
        moved: (n,) int32, the nodes of the chain in their order.
        origin: (n,) int32, the clusters that they came from.
        changed: (L,) int32, the neighbours of the last node whose change is another now.
        nodes: (n,) int32, 0 .. n - 1, what `load_labels` calls the neighbours.
        row: room for the neighbours of the last node.
    """

    stay: npt.NDArray[np.float64]
    join: npt.NDArray[np.float64]
    met: npt.NDArray[np.int32]
    visited: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.int32]
    origin: npt.NDArray[np.int32]
    changed: npt.NDArray[np.int32]
    nodes: npt.NDArray[np.int32]
    row: Row


def move_chains(
    graph: Graph,
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    waiting: npt.NDArray[np.bool_],
    patience: int,
    budget: int,
    one_source: bool,
    workers: Workers = ALONE,
    share: float = SEED_SHARE,
    every_seed: bool = False,
) -> float:
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
        workers: threads, which do not change the result.
        share: of all its edges, in absolute terms, that the move of a seed may cost.
        every_seed: whether a chain also begins with seeds that an earlier one has taken and moved
            back. Such a one may have gone uphill for too long before it came to them.

    Returns:
        What the chains have gained in sum; 0 if there was none.
    """
    seeds, lacks = find_seeds(graph, clusters, class_of, waiting, workers, share)
    if len(seeds) == 0:
        return 0.0
    orders = (ascending(lacks[0]), ascending(lacks[1]))
    options = (patience, budget, one_source, every_seed)
    return float(_move_from(graph, clusters, class_of, seeds, lacks, orders, *options))


@jit
def _move_from(
    graph, clusters, class_of, seeds, lacks, orders, patience, budget, one_source, every_seed
):
    """Do `move_chains` from seeds, in the order of each of the two stages."""
    chain = make_chain(graph)
    room = make_room(graph, class_of)
    num_seeds = seeds.size
    total = 0.0
    visits = 0
    for stage in range(2):
        chain.visited[:] = False
        limit = budget if stage == 1 else budget // 2
        for place in orders[stage]:
            if visits >= limit:
                break
            seed = seeds[place]
            if chain.visited[seed] and not every_seed:
                continue
            # The chains before may have changed what is next to the seed.
            wish, links = find_targets(graph, clusters, class_of, seed, room)
            visits += links
            target = wish.same if stage == 0 else wish.any
            if target < 0:
                continue
            number = stage * num_seeds + place
            begin_chain(chain, seed, number, wish.lack_same if stage == 0 else wish.lack_any)
            source = clusters[seed] if one_source else np.int32(-1)
            gain, links = grow_chain(
                graph, clusters, class_of, seed, target, source, number, patience, chain, room
            )
            total += gain
            visits += links
    return total


@jit_inner
def make_chain(graph):
    """Allocate for a graph; no node is met."""
    num_nodes = graph.node_costs.shape[0]
    row = make_row(graph)
    return Chain(
        np.empty(num_nodes, np.float64),
        np.empty(num_nodes, np.float64),
        np.full(num_nodes, -1, np.int32),
        np.zeros(num_nodes, np.bool_),
        np.empty(num_nodes, np.int32),
        np.empty(num_nodes, np.int32),
        np.empty_like(row.labels),
        np.arange(num_nodes).astype(np.int32),
        row,
    )


@jit_inline
def begin_chain(chain, seed, number, lack):
    """Let the chain of this number begin with a seed, whose move costs `lack`."""
    chain.met[seed] = number
    chain.stay[seed] = lack
    chain.join[seed] = 0.0


@jit_inner
def grow_chain(graph, clusters, class_of, seed, target, source, number, patience, chain, room):
    """Grow one chain, and leave in the target what of it gains most; the rest moves back.

    Args:
        graph: as for `move_chains`.
        clusters: as there.
        class_of: as there.
        seed: a node that has been met.
        target: the cluster that the nodes of the chain move into.
        source: the cluster that they must come from; -1: any.
        number: that of the chain, which no other has.
        patience: as for `move_chains`.
        chain: changed.
        room: changed.

    Returns:
        What the chain has gained, >= 0, and how many links were visited.
    """
    stay, join, changed = chain.stay, chain.join, chain.changed
    # Invariant: the heap holds each node that can follow under its current change, and perhaps
    # under old ones, which are passed over.
    heap = [(stay[seed], np.int64(seed))]
    gain = 0.0
    mass = 0.0
    best_gain = 0.0
    best_size = 0
    count = 0
    visits = 0
    while len(heap) > 0 and count - best_size < patience:
        change, u = heappop(heap)
        own = clusters[u]
        if own == target or change != stay[u] - join[u]:
            continue
        chain.visited[u] = True
        chain.moved[count] = u
        chain.origin[count] = own
        count += 1
        gain -= change
        mass += abs(stay[u]) + abs(join[u])
        if gain > best_gain + RELATIVE_GAIN * mass:
            best_gain = gain
            best_size = count
        clusters[u] = target
        num_changed, links = _advance(
            graph, clusters, class_of, u, own, target, source, number, chain, room
        )
        visits += links
        for i in range(num_changed):
            v = changed[i]
            heappush(heap, (stay[v] - join[v], np.int64(v)))
    for p in range(best_size, count):
        clusters[chain.moved[p]] = chain.origin[p]
    return best_gain, visits


@jit_inner_pass
def _advance(graph, clusters, class_of, u, own, target, source, number, chain, room):
    """List the neighbours whose change is another now that u has moved from `own` to `target`.

    Returns:
        How many neighbours are listed in `chain.changed`; one with two links may be there twice.
        And how many links were visited.
    """
    num_links = load_labels(graph, u, chain.nodes, chain.row)
    num_changed = _update_met(clusters, own, target, number, num_links, chain)
    # Only now, as there may be a second link to the same node, all of whose links are summed here.
    num_changed, visits = _meet(
        graph, clusters, class_of, target, source, number, num_links, num_changed, chain, room
    )
    return num_changed, num_links + visits


@jit_inline
def _update_met(clusters, own, target, number, num_links, chain):
    """Update the neighbours that the chain has met; return how many are listed as changed."""
    row = chain.row
    num_changed = np.int64(0)
    # Invariant: for each node met and not moved, `stay` and `join` are the sums over its links.
    for i in range(num_links):
        v = row.labels[i]
        if clusters[index(v)] != target and chain.met[index(v)] == number:
            chain.join[index(v)] += row.costs[i]
            if clusters[index(v)] == own:
                chain.stay[index(v)] -= row.costs[i]
            chain.changed[index(num_changed)] = v
            num_changed += 1
    return num_changed


@jit_inline
def _meet(graph, clusters, class_of, target, source, number, num_links, num_changed, chain, room):
    """Meet the neighbours of the last node that gain by an edge to it, and list them as changed.

    Returns:
        How many neighbours are listed now, and how many links were visited.
    """
    row = chain.row
    visits = 0
    for i in range(num_links):
        v = row.labels[i]
        met = chain.met[index(v)] == number
        if met or row.costs[i] <= 0.0 or clusters[index(v)] == target:
            continue
        if source >= 0 and clusters[index(v)] != source:
            continue
        chain.met[index(v)] = number
        visits += _sum_both(graph, clusters, class_of, np.int64(v), target, chain, room.row)
        chain.changed[index(num_changed)] = v
        num_changed += 1
    return num_changed, visits


@jit_inline
def _sum_both(graph, clusters, class_of, v, target, chain, row):
    """Set stay[v] and join[v]; return the number of links."""
    own = clusters[v]
    inside = np.float64(0.0)
    towards = np.float64(0.0)
    num_links = load_labels(graph, v, clusters, row)
    for i in range(num_links):
        cost = np.float64(row.costs[i])
        inside += cost if row.labels[i] == own else 0.0
        towards += cost if row.labels[i] == target else 0.0
    costs = graph.node_costs
    chain.stay[index(v)] = inside - costs[index(v), index(class_of[index(own)])]
    chain.join[index(v)] = towards - costs[index(v), index(class_of[index(target)])]
    return num_links
