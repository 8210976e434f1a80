"""Splitting clusters: what takes a part off that has been joined to a whole by mistake.

Moves of single nodes cannot divide a cluster in two: the first node to leave loses all its
neighbours. Moves of parts can, if something shows where a part ends; the class costs do, where the
part is of another class than the rest. For two instances of one class nothing does. But a node at
the wrong side has edges into its cluster that pay for being cut. From such a *seed* a part is grown
here (growth.py), as in the local search of Kernighan and Lin. It goes uphill too, and in the end
back to where the sum was best. The part keeps the class of its cluster, so node costs stay; later
moves may change it or join the part to another cluster. Clusters of a class outside P are left
alone, as that class cannot have a second one.

Parts of two clusters have nothing to do with each other. So threads grow them side by side, and
what would not have been done in sequence, the budget spent, is given back. A thread reads labels
that another is writing, but asks only whether they are its cluster's, and they never are.

Source of the idea: Kernighan, Lin, "An efficient heuristic procedure for partitioning graphs"
(1970).

Shapes: n nodes of a graph, K classes, C cluster numbers, S seeds.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inner_pass, jit_step
from cops.solver.multilevel.growth import Growth, grow_part, make_part, take_off
from cops.solver.multilevel.ordering import ascending
from cops.solver.multilevel.rows import (
    MISSING,
    NODES_AT_ONCE,
    Graph,
    least_block,
    load_labels,
    load_run,
    make_row,
)
from cops.solver.parallel import ALONE, Workers

# A node is a seed if the edges into its cluster that pay for being cut are this share of the rest.
SEED_SHARE = 0.1
# Of one cluster, so many seeds at most; those with the weakest hold on it go first.
SEEDS_PER_CLUSTER = 32
# Parts are grown for so many seeds before it is seen whether the budget is spent, by so many groups
# of seeds at most. Threads share the groups.
SEEDS_AT_ONCE = 256
MAX_GROUPS = 8


class Trials(NamedTuple):
    """The T parts that were grown for a group of seeds, in their order.

    Attributes:
        seeds: (T,) int64, the place of each seed among all.
        links: (T,) int64, how many were visited.
        gains: (T,) float64, what it has gained; 0 where nothing was taken off.
        sources: (T,) int32, the cluster that it was taken from.
        first: (T + 1,) int64, its nodes are members[first[t]] .. members[first[t + 1] - 1].
        members: (M,) int32.
    """

    seeds: npt.NDArray[np.int64]
    links: npt.NDArray[np.int64]
    gains: npt.NDArray[np.float64]
    sources: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]
    members: npt.NDArray[np.int32]


def split_clusters(
    graph: Graph,
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    budget: int,
    workers: Workers = ALONE,
) -> float:
    """Split clusters of classes in P where that lowers the cost.

    A pass over the links finds the seeds; growing a part costs its links, and log n for each.

    Args:
        graph: with forward and backward links.
        clusters: (n,) int32, changed in place; numbers below K are of classes outside P.
        class_of: (K + n,) int32, changed in place.
        budget: links to visit; no part begins to grow when they are spent. Seeds with the weakest
            hold on their cluster go first. The pass that finds them is not counted.
        workers: threads, which do not change the result.

    Returns:
        What the splits have gained in sum; 0 if there was none.
    """
    inside = np.empty(len(clusters), np.float64)
    found = workers.over(
        len(inside),
        lambda *block: _find_seeds(graph, clusters, *block, inside),
        least_block(graph),
    )
    seeds = found[0] if len(found) == 1 else np.concatenate(found)
    if len(seeds) == 0:
        return 0.0
    seeds = seeds[ascending(inside[seeds])]
    growth = _begin_growth(clusters, inside, len(class_of) + len(seeds))
    num_classes = graph.node_costs.shape[1]
    # Invariant: what was done at the seeds before `begin` has gained `total` and taken `spent`.
    total, spent = 0.0, 0
    for begin in range(0, len(seeds), SEEDS_AT_ONCE):
        left = budget - spent
        if left <= 0:
            break
        places = np.arange(begin, min(begin + SEEDS_AT_ONCE, len(seeds)))
        groups = _group_seeds(clusters[seeds[places]], places, workers)
        state = (graph, clusters, len(class_of), left, seeds)
        found = workers.run([partial(_split_at, *state, group, growth) for group in groups])
        trials = [Trials(*group) for group in found]
        gain, links = _settle(trials, left, num_classes, clusters, class_of, growth)
        total += gain
        spent += links
    return total


def _begin_growth(
    clusters: npt.NDArray[np.int32], inside: npt.NDArray[np.float64], num_numbers: int
) -> Growth:
    """Allocate for a labelling; no node is met or taken."""
    num_nodes = len(clusters)
    return Growth(
        inside,
        np.empty(num_nodes, np.float64),
        np.full(num_nodes, -1, np.int32),
        np.full(num_nodes, -1, np.int32),
        np.arange(num_nodes, dtype=np.int32),
        np.bincount(clusters, minlength=num_numbers).astype(np.int32),
        np.zeros(num_numbers, np.int32),
    )


def _group_seeds(
    labels: npt.NDArray[np.int32], places: npt.NDArray[np.int64], workers: Workers
) -> list[npt.NDArray[np.int64]]:
    """Divide places of seeds among threads; those of one cluster stay together, and in order."""
    if workers.num_threads == 1:
        return [places]
    order = np.argsort(labels, kind="stable")
    in_order = labels[order]
    wanted = len(places) * np.arange(1, MAX_GROUPS) // MAX_GROUPS
    cuts = [0, *np.searchsorted(in_order, in_order[wanted]).tolist(), len(places)]
    return [np.sort(places[order[a:b]]) for a, b in pairwise(cuts) if a < b]


def _settle(
    trials: list[Trials],
    budget: int,
    num_classes: int,
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    growth: Growth,
) -> tuple[float, int]:
    """Put together what was done at some seeds, as if one had followed the other.

    Parts that would not have begun to grow any more are given back. The others get cluster numbers.

    Args:
        trials: of each group of seeds.
        budget: links that may be visited by all.
        num_classes: K.
        clusters: as for `split_clusters`, changed.
        class_of: as there, changed.
        growth: changed.

    Returns:
        What was gained, and how many links were visited; not less than the budget if it is spent.
    """
    if not any(group.gains.any() for group in trials):
        return 0.0, sum(int(group.links.sum()) for group in trials)
    seeds, links, gains, sources = (
        np.concatenate(column) for column in list(zip(*trials, strict=True))[:4]
    )
    members = [group.members[begin:end] for group in trials for begin, end in pairwise(group.first)]
    order = np.argsort(seeds)
    visited = np.cumsum(links[order])
    num_kept = int(np.count_nonzero(visited - links[order] < budget))
    for t in reversed(order[num_kept:]):
        if gains[t] > 0.0:
            clusters[members[t]] = sources[t]
    kept = [t for t in order[:num_kept].tolist() if gains[t] > 0.0]
    num_numbers = len(class_of)
    unused = np.flatnonzero(growth.size[num_classes:num_numbers] == 0)[: len(kept)]
    numbers: dict[int, int] = {}  # that labels have become
    for t, number in zip(kept, (num_classes + unused).tolist(), strict=True):
        label, source = num_numbers + int(seeds[t]), int(sources[t])
        numbers[label] = number
        class_of[number] = class_of[numbers.get(source, source)]
        clusters[members[t]] = number
        growth.size[number], growth.tried[number] = growth.size[label], growth.tried[label]
    return float(sum(gains[kept].tolist())), int(links[order[:num_kept]].sum())


@jit
def _split_at(graph, clusters, num_numbers, budget, seeds, places, growth):
    """Do `split_clusters` at some seeds in their order; a new cluster has a label of its own.

    Args:
        graph: as there.
        clusters: as there.
        num_numbers: C; the part that seed s takes off is labelled C + s.
        budget: as there.
        seeds: (S,) int32.
        places: (P,) int64, which of them.
        growth: changed.

    Returns:
        The fields of `Trials`.
    """
    size, tried = growth.size, growth.tried
    part = make_part(graph)
    numbers = np.empty(places.size, np.int64)
    links = np.empty(places.size, np.int64)
    gains = np.empty(places.size, np.float64)
    sources = np.empty(places.size, np.int32)
    first = np.zeros(places.size + 1, np.int64)
    members = np.empty(64, np.int32)
    visits = 0
    count = 0
    for place in places:
        seed = seeds[place]
        own = clusters[seed]
        if visits >= budget:
            break
        # A seed that an earlier part has tried is not tried again.
        if growth.taken[seed] >= 0 or tried[own] == SEEDS_PER_CLUSTER:
            continue
        tried[own] += 1
        gain, num_taken, visited = grow_part(graph, clusters, seed, size[own], place, growth, part)
        visits += visited
        numbers[count] = place
        links[count] = visited
        gains[count] = gain
        sources[count] = own
        begin = first[count]
        end = begin + num_taken
        first[count + 1] = end
        count += 1
        if num_taken > 0:
            if end > members.size:
                members = np.append(members[:begin], np.empty(2 * end - begin, np.int32))
            members[begin:end] = part.members[:num_taken]
            new = num_numbers + place
            size[new] = num_taken
            size[own] -= num_taken
            take_off(graph, clusters, own, new, num_taken, growth, part)
    end = first[count]
    return (
        numbers[:count],
        links[:count],
        gains[:count],
        sources[:count],
        first[: count + 1],
        members[:end],
    )


@jit
def _find_seeds(graph, clusters, begin, end, inside):
    """Return the seeds among nodes begin .. end - 1, int32, and fill `inside` (n,) for them."""
    seeds = np.empty(end - begin, np.int32)
    if graph.offsets.size == 0:
        count = _list_seeds(graph, clusters, begin, end, make_row(graph), inside, seeds)
        return seeds[:count].copy()
    count = 0
    # The same along the runs of a stencil, for many nodes at a time. Sums are those of
    # `_list_seeds` to the last bit.
    pays_uncut = np.empty(NODES_AT_ONCE, np.float64)
    pays_cut = np.empty(NODES_AT_ONCE, np.float64)
    for first in range(begin, end, NODES_AT_ONCE):
        last = min(first + NODES_AT_ONCE, end)
        pays_uncut[:] = 0.0
        pays_cut[:] = 0.0
        own = clusters[first:last]
        for r in range(2 * graph.offsets.size):
            low, high, others, costs = load_run(graph, r, first, last, clusters)
            _add_uncut(own[low:high], others, costs, pays_uncut[low:high], pays_cut[low:high])
        for v in range(first, last):
            if _is_seed(graph, v, clusters[v], pays_uncut[v - first], pays_cut[v - first], inside):
                seeds[count] = v
                count += 1
    return seeds[:count].copy()


@jit_inner_pass
def _list_seeds(graph, clusters, begin, end, row, inside, seeds):
    """Sum the edges of each node into its cluster, and list the seeds; return their number."""
    num_seeds = 0
    for v in range(begin, end):
        own = clusters[v]
        pays_uncut = np.float64(0.0)
        pays_cut = np.float64(0.0)
        for i in range(load_labels(graph, v, clusters, row)):
            cost = np.float64(row.costs[i]) if row.labels[i] == own else 0.0
            pays_uncut += max(cost, 0.0)
            pays_cut += max(-cost, 0.0)
        if _is_seed(graph, v, own, pays_uncut, pays_cut, inside):
            seeds[num_seeds] = v
            num_seeds += 1
    return num_seeds


@jit_inner_pass
def _add_uncut(own, others, costs, pays_uncut, pays_cut):
    """Add the cost of each link inside a cluster to what is paid if it is cut, or if it is not."""
    for i in range(own.size):
        uncut = own[i] == others[i] and costs[i] > MISSING
        cost = np.float64(costs[i]) if uncut else 0.0
        pays_uncut[i] += max(cost, 0.0)
        pays_cut[i] += max(-cost, 0.0)
    return 0


@jit_step
def _is_seed(graph, v, own, pays_uncut, pays_cut, inside):
    """Set `inside` of a node, and tell whether the node is a seed."""
    partitionable = own >= graph.node_costs.shape[1]
    inside[v] = pays_uncut - pays_cut if partitionable else 0.0
    return partitionable and pays_cut > SEED_SHARE * pays_uncut
