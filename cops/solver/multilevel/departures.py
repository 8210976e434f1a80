"""Departures: parts of clusters leave together for a class that is not beside them.

Chains (chain.py) go into a cluster that some neighbour is in. Where a segment has swallowed another
of a class that no segment beside it has, there is no such cluster. Its parts (parts.py), each with
a best class of its own, hold on to each other, so that none of them leaves alone. So from a *seed*,
a part whose best class is another than its cluster's, a chain is grown into that class. Outside P
that is the one cluster of the class, wherever it is; in P it is a new one. Others follow, whatever
their best class is, and what gains most stays.

Shapes: n nodes of a graph, K classes, L links of the longest row.
"""

from __future__ import annotations

from heapq import heapify, heappop

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inner_pass
from cops.solver.multilevel.chain import begin_chain, grow_chain, make_chain
from cops.solver.multilevel.rows import Graph, least_block, load_labels, make_row
from cops.solver.multilevel.wishes import make_room
from cops.solver.parallel import ALONE, Workers

# A chain ends when so many parts have brought nothing better.
PATIENCE = 32
# After so many rounds it ends even if the last one has gained.
MAX_ROUNDS = 4


def move_departures(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    budget: int,
    patience: int = PATIENCE,
    anywhere: bool = False,
    workers: Workers = ALONE,
) -> float:
    """Let nodes leave in chains for the best class of the first where that lowers the cost.

    Args:
        graph: with forward and backward links; its nodes are parts of clusters.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place; numbers below K are of classes outside P.
        class_of: (at least K + n,) int32, changed in place.
        budget: links to visit; no chain begins when they are spent. Seeds go first whose move costs
            the smallest share of all their edges.
        patience: a chain ends when so many nodes have brought nothing better.
        anywhere: whether seeds may also be nodes whose best class is their cluster's. They leave
            for the best of the others.
        workers: threads, which do not change the result.

    Returns:
        What was gained in sum; 0 if nothing was.
    """
    total = 0.0
    for _ in range(MAX_ROUNDS):
        if anywhere:
            graph = graph._replace(best=_best_of_others(graph, clusters, class_of))
        labelling = (graph, partitionable, clusters, class_of)
        shares = _share_departures(*labelling, workers)
        gain, visits = _depart_in_order(*labelling, shares, budget, patience)
        total += gain
        budget -= visits
        if gain == 0.0:
            break
    return float(total)


def _best_of_others(
    graph: Graph, clusters: npt.NDArray[np.int32], class_of: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Return (n,) the class of lowest cost of each node without its cluster's, if there is one."""
    costs = graph.node_costs.copy()
    costs[np.arange(len(clusters)), class_of[clusters]] = np.inf
    return costs.argmin(axis=1).astype(np.int32)


def _share_departures(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    workers: Workers,
) -> npt.NDArray[np.float64]:
    """Return (n,) what each seed pays to leave, as a share of its edges; inf: it is no seed."""
    shares = np.empty(len(clusters), np.float64)
    labelling = (graph, partitionable, clusters, class_of)
    workers.over(
        len(shares), lambda *block: _share_block(*labelling, *block, shares), least_block(graph)
    )
    return shares


@jit
def _share_block(graph, partitionable, clusters, class_of, begin, end, shares):
    """Do `_share_departures` for nodes begin .. end - 1."""
    row = make_row(graph)
    _write_departures(graph, partitionable, clusters, class_of, begin, end, row, shares)


@jit_inner_pass
def _write_departures(graph, partitionable, clusters, class_of, begin, end, row, shares):
    """Do the pass of `_share_block`."""
    for v in range(begin, end):
        shares[v] = np.inf
        if graph.best[v] != class_of[clusters[v]]:
            lack, mass = _sum_lack(graph, partitionable, clusters, class_of, v, row)
            shares[v] = lack / max(mass, 1e-30)
    return 0


@jit_inner_pass
def _sum_lack(graph, partitionable, clusters, class_of, v, row):
    """Return what v pays to leave for `best`, and the magnitude of its edges in sum."""
    own = clusters[v]
    best = graph.best[v]
    lack = np.float64(graph.node_costs[v, best]) - np.float64(graph.node_costs[v, class_of[own]])
    mass = np.float64(0.0)
    count = load_labels(graph, v, clusters, row)
    for i in range(count):
        cost = np.float64(row.costs[i])
        mass += abs(cost)
        if row.labels[i] == own:
            lack += cost
        elif row.labels[i] == best and not partitionable[best]:
            lack -= cost
    return lack, mass


@jit
def _depart_in_order(graph, partitionable, clusters, class_of, shares, budget, patience):
    """Grow chains from seeds in their order; return what they gain and how many links they visit.

    Args:
        graph: as for `move_departures`.
        partitionable: as there.
        clusters: as there.
        class_of: as there.
        shares: (n,) float64; seeds go in the order of theirs, and inf is no seed.
        budget: as there.
        patience: as there.
    """
    chain = make_chain(graph)
    room = make_room(graph, class_of)
    size = np.zeros(class_of.size, np.int32)
    for v in range(clusters.size):
        size[clusters[v]] += 1
    # Invariant: all numbers from K on that were free at first and are taken now are below `unused`.
    unused = partitionable.size
    any_source = np.int32(-1)  # of the type that `grow_chain` is compiled for
    total = 0.0
    visits = 0
    # Of many seeds few are tried. So they are not sorted.
    heap = [(shares[v], v) for v in range(shares.size) if shares[v] < np.inf]
    heapify(heap)
    number = -1
    while len(heap) > 0 and visits < budget:
        number += 1
        seed = np.int32(heappop(heap)[1])
        best = graph.best[seed]
        # The chains before may have taken the seed.
        if chain.visited[seed] or class_of[clusters[seed]] == best:
            continue
        target = np.int64(best)
        if partitionable[best]:
            while unused < size.size and size[unused] > 0:
                unused += 1
            if unused == size.size:  # as many clusters as nodes: who is alone need not leave
                continue
            target = np.int64(unused)
            class_of[target] = best
        lack, _ = _sum_lack(graph, partitionable, clusters, class_of, np.int64(seed), room.row)
        begin_chain(chain, seed, number, lack)
        gain, links = grow_chain(
            graph, clusters, class_of, seed, target, any_source, number, patience, chain, room
        )
        if gain > 0.0 and partitionable[best]:
            unused += 1
        total += gain
        visits += links
    return total, visits
