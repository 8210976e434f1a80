"""Forced moves: a node moves although that costs something, and its neighbours answer.

The hub of a star may have to take another class. That costs something until the leaves have
answered, some by following it and some by leaving the cluster that it has come into. Chains
(chain.py) fail there, since all their nodes move into one cluster that is there. Here a *seed*
moves to each place where it could be, at any price, and is held there. Then its neighbours move to
where they gain most, then theirs, until nobody gains. If all of it together has lowered the cost,
it stays; else it is undone, move by move.

On a graph whose nodes are clusters, the same joins three clusters of which no two want each other.

Shapes: n nodes of a graph, K classes, C = K + n cluster numbers, L links of the longest row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inline, jit_inner_pass
from cops.solver.multilevel.cluster_numbers import Numbers, count_sizes, leave, take_unused
from cops.solver.multilevel.ordering import ascending
from cops.solver.multilevel.refine import find_class, find_contact, find_restless
from cops.solver.multilevel.rows import (
    Graph,
    Row,
    Tally,
    add_up,
    load_labels,
    make_row,
    make_tally,
    sum_sides,
)
from cops.solver.multilevel.sums import RELATIVE_GAIN
from cops.solver.parallel import ALONE, Workers

# After one forced move, no more nodes than this are asked.
MAX_ANSWERS = 512
# In a stencil with more costs than this, nodes are no seeds that stay as long as no neighbour moves
# (`find_restless`). There are enough others, and they are found in a fraction of the time.
SMALL_STENCIL = 1 << 16


class Trial(NamedTuple):
    """The trial that is being made, and room for the next; changed in place.

    Attributes:
        numbers: sizes and free numbers of the clusters.
        row: room for a row by clusters.
        tally: room for its sums.
        near: room for a row by nodes.
        nodes: (n,) int32, 0 .. n - 1, what `load_labels` calls the neighbours.
        queue: (n,) int32, a ring of the nodes to ask, each once.
        queued: (n,) bool, which nodes are in it.
        places: (2,) int64, how many were ever taken from the ring, and how many put there.
        moves: (MAX_ANSWERS + 1, 3) int32: a node, and the cluster and class that it has left.
        counts: (3,) int64: moves of this trial; rows that were ever added up; links visited.
    """

    numbers: Numbers
    row: Row
    tally: Tally
    near: Row
    nodes: npt.NDArray[np.int32]
    queue: npt.NDArray[np.int32]
    queued: npt.NDArray[np.bool_]
    places: npt.NDArray[np.int64]
    moves: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]


# What `Trial.counts` counts.
MOVES, ROWS, LINKS = 0, 1, 2


def force_moves(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    budget: int,
    workers: Workers = ALONE,
) -> float:
    """Force nodes to move, let the others answer, and keep what lowers the cost.

    Args:
        graph: with forward and backward links.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place; numbers below K are of classes outside P.
        class_of: (at least K + n,) int32, changed in place.
        budget: links to visit; no seed is tried when they are spent. Those go first whose move
            costs the smallest share of all their edges.
        workers: threads, which do not change the result.

    Returns:
        What was gained in sum; 0 if nothing was.
    """
    if graph.run_costs.size > SMALL_STENCIL:
        seeds = find_restless(graph, clusters, class_of, workers)
    else:
        seeds = np.ones(len(clusters), np.bool_)
    shares = np.full(len(clusters), np.inf)
    labelling = (graph, partitionable, clusters, class_of)

    workers.over(len(shares), lambda *block: _share_lacks(*labelling, seeds, *block, shares))
    order = ascending(shares)
    return float(_force_in_order(*labelling, order, budget))


@jit
def _force_in_order(graph, partitionable, clusters, class_of, order, budget):
    """Do `force_moves` for seeds in their order."""
    trial = _make_trial(graph, clusters)
    targets = np.empty(graph.longest + partitionable.size, np.int32)
    total = np.float64(0.0)
    for i in range(order.size):
        v = order[i]
        if trial.counts[LINKS] > budget:
            break
        total += _force_node(graph, partitionable, clusters, class_of, v, targets, trial)
    return total


@jit_inline
def _make_trial(graph, clusters):
    """Allocate for a labelling of a graph."""
    num_nodes, num_classes = graph.node_costs.shape
    num_numbers = num_classes + num_nodes
    row = make_row(graph)
    return Trial(
        count_sizes(clusters, num_classes, num_numbers),
        row,
        make_tally(row, np.empty(num_numbers, np.float32)),
        make_row(graph),
        np.arange(num_nodes).astype(np.int32),
        np.empty(num_nodes, np.int32),
        np.zeros(num_nodes, np.bool_),
        np.zeros(2, np.int64),
        np.empty((MAX_ANSWERS + 1, 3), np.int32),
        np.zeros(3, np.int64),
    )


@jit
def _share_lacks(graph, partitionable, clusters, class_of, seeds, begin, end, shares):
    """Write what the best move of each seed among some nodes costs, as a share of its costs."""
    row = make_row(graph)
    # Zeros are not written where they are not read. Stamps begin with 1.
    stamp = np.zeros(class_of.size, np.int64)
    tally = Tally(np.empty(class_of.size, np.float32), stamp, np.empty_like(row.labels))
    _write_shares(graph, partitionable, clusters, class_of, seeds, begin, end, row, tally, shares)


@jit_inner_pass
def _write_shares(graph, partitionable, clusters, class_of, seeds, begin, end, row, tally, shares):
    """Do the pass of `_share_lacks`."""
    never = np.float32(-np.inf)
    for v in range(begin, end):
        if not seeds[v]:
            continue
        own = clusters[v]
        count = load_labels(graph, v, clusters, row)
        inside, _ = sum_sides(row, count, own)
        stay = inside - graph.node_costs[v, class_of[own]]
        tally.stamp[own] = v + 1  # so that it is not listed
        tally.weight[own] = 0.0
        num_near = add_up(row, count, v + 1, tally)
        _, there = find_contact(graph, v, class_of, tally, num_near, own, never)
        _, alone = find_class(graph, v, partitionable, tally, v + 1, never)
        mass = np.float64(abs(graph.node_costs[v, class_of[own]]))
        for i in range(count):
            mass += abs(row.costs[i])
        shares[v] = (stay - max(there, alone)) / max(mass, 1e-30)
    return 0


@jit_inner_pass
def _load_row(graph, v, clusters, trial):
    """Load the row of v; return its length, and the sum of the edges into the cluster of v."""
    count = load_labels(graph, v, clusters, trial.row)
    trial.counts[LINKS] += count
    inside, _ = sum_sides(trial.row, count, clusters[v])
    return count, inside


@jit_inline
def _begin_tally(own, count, trial):
    """Add up the loaded row; return how many clusters beside `own` are listed, and the stamp."""
    trial.counts[ROWS] += 1
    now = trial.counts[ROWS]
    trial.tally.stamp[own] = now  # so that it is not listed
    trial.tally.weight[own] = 0.0
    return add_up(trial.row, count, now, trial.tally), now


@jit_inner_pass
def _force_node(graph, partitionable, clusters, class_of, v, targets, trial):
    """Force v into each cluster next to it, then into each class; return what was gained."""
    num_classes = partitionable.size
    size = trial.numbers.size
    count, _ = _load_row(graph, v, clusters, trial)
    num_near, _ = _begin_tally(clusters[v], count, trial)
    for t in range(num_near):
        targets[t] = trial.tally.touched[t]
    total = np.float64(0.0)
    # Of one type, whatever is meant: else `_try_move` would be compiled once for each.
    none = np.int64(-1)
    for t in range(num_near + num_classes):
        own = clusters[v]
        k = t - num_near
        if k >= 0 and partitionable[k]:
            if size[own] > 1 or class_of[own] != k:
                total += _try_move(graph, partitionable, clusters, class_of, v, none, k, trial)
            continue
        target = np.int64(targets[t]) if k < 0 else k
        # A move that was kept may have emptied the cluster.
        if target != own and (size[target] > 0 or target < num_classes):
            total += _try_move(graph, partitionable, clusters, class_of, v, target, none, trial)
    return total


@jit_inner_pass
def _try_move(graph, partitionable, clusters, class_of, v, target, new_class, trial):
    """Move v into `target`, or, if that is -1, into a new cluster; undo it if nothing is gained.

    Returns:
        What the move and the answers to it have gained; 0 if they were undone.
    """
    own = clusters[v]
    count, inside = _load_row(graph, v, clusters, trial)
    stay = np.float64(inside) - graph.node_costs[v, class_of[own]]
    join = -np.float64(graph.node_costs[v, new_class if target < 0 else class_of[target]])
    mass = abs(stay) + abs(join)
    for i in range(count):
        mass += abs(trial.row.costs[i])
        join += trial.row.costs[i] if trial.row.labels[i] == target else 0.0
    trial.counts[MOVES] = 0
    _move(graph, clusters, class_of, v, target, new_class, trial)
    gain = join - stay + _answer(graph, partitionable, clusters, class_of, v, trial)
    if gain <= RELATIVE_GAIN * mass:
        _undo(clusters, class_of, trial)
        gain = 0.0
    return gain


@jit_inner_pass
def _move(graph, clusters, class_of, v, target, new_class, trial):
    """Move v into `target`, or, if that is -1, into a new cluster; queue who may answer."""
    numbers = trial.numbers
    num_classes = graph.node_costs.shape[1]
    own = clusters[v]
    m = trial.counts[MOVES]
    trial.moves[m, 0] = v
    trial.moves[m, 1] = own
    trial.moves[m, 2] = class_of[own]
    trial.counts[MOVES] = m + 1
    if target < 0 and numbers.size[own] == 1 and own >= num_classes:
        class_of[own] = new_class  # alone already
    else:
        if target < 0:
            target = take_unused(numbers)
            class_of[target] = new_class
        leave(numbers, own, num_classes)
        numbers.size[target] += 1
        clusters[v] = target
    count = load_labels(graph, v, trial.nodes, trial.near)
    trial.counts[LINKS] += count
    for i in range(count):
        u = trial.near.labels[i]
        glad = clusters[u] == clusters[v] and trial.near.costs[i] >= 0.0
        if not (glad or trial.queued[u]):
            trial.queued[u] = True
            trial.queue[trial.places[1] % clusters.size] = u
            trial.places[1] += 1
    return 0


@jit_inner_pass
def _answer(graph, partitionable, clusters, class_of, seed, trial):
    """Move the nodes of the queue, but never the seed, where they gain; return what they gained."""
    total = np.float64(0.0)
    asked = 0
    while trial.places[0] < trial.places[1]:
        v = np.int64(trial.queue[trial.places[0] % clusters.size])
        trial.places[0] += 1
        trial.queued[v] = False
        asked += 1
        # What is left is only taken from the queue.
        if v == seed or asked > MAX_ANSWERS:
            continue
        own = clusters[v]
        count = load_labels(graph, v, clusters, trial.row)
        trial.counts[LINKS] += count
        inside, outside = sum_sides(trial.row, count, own)
        stay = inside - graph.node_costs[v, class_of[own]]
        if stay >= outside:
            continue
        num_near, now = _begin_tally(own, count, trial)
        least = stay + np.float32(RELATIVE_GAIN) * abs(stay)
        best, gain = find_contact(graph, v, class_of, trial.tally, num_near, own, least)
        alone = np.int64(-1)
        if gain < 0.0:
            alone, gain = find_class(graph, v, partitionable, trial.tally, now, gain)
        target = np.int64(best)
        if alone >= 0:
            target = np.int64(-1) if partitionable[alone] else alone
        if target != own:
            total += gain - stay
            _move(graph, clusters, class_of, v, target, alone, trial)
    return total


@jit_inline
def _undo(clusters, class_of, trial):
    """Undo the moves of a trial, the last one first."""
    numbers = trial.numbers
    num_classes = numbers.size.size - clusters.size
    for m in range(trial.counts[MOVES] - 1, -1, -1):
        v = trial.moves[m, 0]
        old = trial.moves[m, 1]
        now = clusters[v]
        class_of[old] = trial.moves[m, 2]
        if old == now:
            continue
        # Free numbers are a stack: what was pushed last lies on top, and is taken off first.
        if numbers.size[old] == 0 and old >= num_classes:
            numbers.num_unused[0] -= 1
        numbers.size[old] += 1
        leave(numbers, now, num_classes)
        clusters[v] = old
