"""Where nodes would rather be: the seeds of chains (chain.py) and the targets that they move into.

Shapes: n nodes of a graph, K classes, C cluster numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit, jit_inner, jit_inner_pass, jit_step
from cops.solver.multilevel.rows import Graph, Row, least_block, load_labels, make_row
from cops.solver.parallel import ALONE, Workers

# A node is a seed if its move costs less than this share of all its edges, in absolute terms.
SEED_SHARE = 0.2


class Wish(NamedTuple):
    """Where one node would rather be.

    Attributes:
        same: the best other cluster of the class of the node's own; -1 where none has edges to the
            node that are worth it.
        any: the best other cluster of any class; -1 where there is none.
        lack_same: what the move to `same` costs; inf where there is none.
        lack_any: what the move to `any` costs; inf where there is none.
    """

    same: int
    any: int
    lack_same: float
    lack_any: float


class Room(NamedTuple):
    """Room for the neighbours of one node.

    Attributes:
        row: their clusters, and the costs of the edges to them.
        weight: (C,) float64, the costs of edges into each cluster in sum.
    """

    row: Row
    weight: npt.NDArray[np.float64]


@jit_inner
def make_room(graph, class_of):
    """Allocate for a labelling of a graph."""
    return Room(make_row(graph), np.empty(class_of.size, np.float64))


@jit_inner_pass
def find_targets(graph, clusters, class_of, v, room):
    """Find the clusters to which v would rather move; return the number of its links, too."""
    node = np.int64(v)
    num_links = load_labels(graph, node, clusters, room.row)
    return _compare(graph, clusters, class_of, node, num_links, room), num_links


@jit_step
def _compare(graph, clusters, class_of, v, num_links, room):
    """Compare the clusters next to v, whose row is loaded."""
    row, weight = room.row, room.weight
    own = clusters[v]
    # Two loops without a branch: that is faster here than `add_up`, which lists the labels.
    weight[index(own)] = 0.0
    for i in range(num_links):
        weight[index(row.labels[i])] = 0.0
    for i in range(num_links):
        weight[index(row.labels[i])] += row.costs[i]
    stay = weight[index(own)] - graph.node_costs[index(v), index(class_of[index(own)])]
    same = anywhere = np.int64(-1)
    lack_same = lack_any = np.float64(np.inf)
    for i in range(num_links):
        c = row.labels[i]
        if c == own or weight[index(c)] <= 0.0:
            continue
        lack = stay - (weight[index(c)] - graph.node_costs[index(v), index(class_of[index(c)])])
        if lack < lack_any:
            lack_any = lack
            anywhere = np.int64(c)
        if lack < lack_same and class_of[index(c)] == class_of[index(own)]:
            lack_same = lack
            same = np.int64(c)
    return Wish(same, anywhere, lack_same, lack_any)


def find_seeds(
    graph: Graph,
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    waiting: npt.NDArray[np.bool_],
    workers: Workers = ALONE,
    share: float = SEED_SHARE,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """List the seeds.

    Args:
        graph: as for `move_chains` of chain.py.
        clusters: as there.
        class_of: as there.
        waiting: (n,) bool, False for nodes that cannot be one.
        workers: threads, which do not change the result.
        share: as there.

    Returns:
        (S,) int32 seeds, and (2, S) float64 what moves of them cost, to clusters of their class and
        to any; inf where that is too much.
    """
    found = workers.over(
        len(waiting),
        lambda *block: _find_seeds(graph, clusters, class_of, waiting, share, *block),
        least_block(graph),
    )
    if len(found) == 1:
        return found[0]
    seeds = np.concatenate([block[0] for block in found])
    return seeds, np.concatenate([block[1] for block in found], axis=1)


@jit
def _find_seeds(graph, clusters, class_of, waiting, share, begin, end):
    """Do `find_seeds` for nodes begin .. end - 1."""
    room = make_room(graph, class_of)
    seeds = np.empty(end - begin, np.int32)
    lacks = np.empty((2, end - begin), np.float64)
    count = _list_seeds(graph, clusters, class_of, waiting, share, begin, end, room, seeds, lacks)
    return seeds[:count].copy(), lacks[:, :count].copy()


@jit_inner_pass
def _list_seeds(graph, clusters, class_of, waiting, share, begin, end, room, seeds, lacks):
    """Do the pass of `_find_seeds`; return the number of seeds."""
    num_seeds = 0
    for v in range(begin, end):
        if not waiting[v]:
            continue
        num_links = load_labels(graph, v, clusters, room.row)
        mass = np.float64(0.0)
        for i in range(num_links):
            mass += abs(room.row.costs[i])
        wish = _compare(graph, clusters, class_of, v, num_links, room)
        limit = share * mass
        if wish.lack_any < limit:
            seeds[num_seeds] = v
            lacks[0, num_seeds] = wish.lack_same if wish.lack_same < limit else np.inf
            lacks[1, num_seeds] = wish.lack_any
            num_seeds += 1
    return num_seeds
