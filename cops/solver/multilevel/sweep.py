"""Local moving without the stuff rule: how the multilevel method finds clusters in the first place.

As in the Louvain method for modularity, the best cluster (sums.py) is taken at once, in the order
of the nodes. `first_sweep` does so on the input, `move_freely` again and again on contracted
graphs. Here every class may have several clusters; algorithm.py joins those of a class outside P
later.

Shapes: n nodes of a graph, K classes, M clusters.
"""

from __future__ import annotations

import numpy as np

from cops.solver._jit import jit, jit_inline, jit_inner_pass
from cops.solver.multilevel.cluster_numbers import count_sizes, leave, number_by_first, take_unused
from cops.solver.multilevel.rows import (
    add_up,
    load_earlier,
    load_labels,
    make_row,
    make_tally,
    sum_sides,
    wake_neighbours,
)
from cops.solver.multilevel.sums import (
    RELATIVE_GAIN,
    Sums,
    add_to_cluster,
    find_candidate,
    found_cluster,
    gain_of_joining,
    lowest_difference,
    take_from_cluster,
)


@jit
def first_sweep(graph, begin, end, clusters):
    """Let each node of a range join the best cluster of earlier nodes of the range, or found one.

    One pass in the order of the nodes, over backward rows only: a later neighbour is in no cluster
    yet, and will itself look back. Ranges do not see each other, so they may run side by side.

    Args:
        graph: backward rows suffice.
        begin: the first node of the range.
        end: the node after its last.
        clusters: (n,) int32; entries begin .. end-1 are set, to 0 .. M-1.

    Returns:
        M, the number of clusters of this range.
    """
    size = end - begin
    num_classes = graph.node_costs.shape[1]
    # Memory that is not written costs nothing, so rows for `size` clusters are asked for.
    sums = Sums(
        np.empty((size, num_classes), np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.int32),
    )
    row = make_row(graph)
    tally = make_tally(row, np.empty(size, np.float32))
    return _sweep_range(graph, begin, end, clusters, sums, row, tally)


@jit_inner_pass
def _sweep_range(graph, begin, end, clusters, sums, row, tally):
    """Do the pass of `first_sweep`."""
    num_clusters = np.int64(0)
    # Invariant: nodes begin .. v - 1 have clusters 0 .. num_clusters - 1, and `sums` are theirs.
    for v in range(begin, end):
        count = load_earlier(graph, v, begin, clusters, row)
        best = -1
        if count > 0:
            best = _guess_cluster(graph, v, row, count, sums)
        if best < 0:
            num_touched = add_up(row, count, v, tally)
            best = find_candidate(graph, v, tally, num_touched, sums, np.float32(0.0), np.int64(-1))
        if best < 0:
            best = num_clusters
            num_clusters += 1
            found_cluster(sums, best, graph, v)
        else:
            add_to_cluster(sums, best, graph, v)
        clusters[v] = best
    return num_clusters


@jit_inline
def _guess_cluster(graph, v, row, count, sums):
    """Return the first neighbour's cluster if no other can be better, else -1."""
    # Inside a segment it wins by far. It has won if its gain exceeds what all other links together
    # could bring.
    best = np.int64(-1)
    inside, outside = sum_sides(row, count, row.labels[0])
    guess = np.int64(row.labels[0])
    if inside > outside and gain_of_joining(inside, sums, guess, graph, v) > outside:
        best = guess
    return best


@jit
def move_freely(graph, max_passes):
    """Start from single nodes and move each to the best cluster until no move gains.

    A node may also leave its cluster for one of its own. Nodes are taken in order. After the first
    pass, only those are looked at again for which a move of a neighbour may have changed the best.

    Args:
        graph: with forward and backward links.
        max_passes: at most.

    Returns:
        clusters (n,) int32, 0 .. M-1 numbered by first nodes; and M.
    """
    num_nodes = graph.node_costs.shape[0]
    clusters = np.arange(num_nodes).astype(np.int32)
    sums = Sums(
        graph.node_costs.astype(np.float64), np.zeros(num_nodes, np.float64), graph.best.copy()
    )
    numbers = count_sizes(clusters, np.int64(0), num_nodes)
    row = make_row(graph)
    tally = make_tally(row, np.empty(num_nodes, np.float64))
    waiting = np.ones(num_nodes, np.bool_)
    for number in range(max_passes):
        if _pass_freely(graph, number, clusters, sums, numbers, waiting, row, tally) == 0:
            break
    return clusters, number_by_first(clusters, num_nodes)


@jit_inner_pass
def _pass_freely(graph, number, clusters, sums, numbers, waiting, row, tally):
    """Do one pass of `move_freely`; return the number of moves."""
    num_nodes = graph.node_costs.shape[0]
    num_moves = 0
    # Invariant: `sums` and `numbers` are those of `clusters`, and a node that does not wait gains
    # by no move.
    for v in range(num_nodes):
        if not waiting[v]:
            continue
        waiting[v] = False
        now = number * num_nodes + v
        own = clusters[v]
        shared = numbers.size[own] > 1
        tally.stamp[own] = now
        tally.weight[own] = 0.0
        count = load_labels(graph, v, clusters, row)
        num_touched = add_up(row, count, now, tally)
        # Gains are those over standing alone, which is 0.
        low_without = 0.0
        gain = 0.0
        if shared:
            low_without = lowest_difference(sums, own, graph.node_costs, v)
            gain = tally.weight[own] + low_without - sums.low[own]
        best = own
        threshold = gain + RELATIVE_GAIN * abs(gain)
        if shared and threshold < 0.0:
            best = -1
            threshold = 0.0
        best = find_candidate(graph, v, tally, num_touched, sums, threshold, best)
        if best == own:
            continue
        num_moves += 1
        leave(numbers, own, 0)
        take_from_cluster(sums, np.int64(own), graph, v, not shared, low_without)
        if best < 0:
            best = take_unused(numbers)
        add_to_cluster(sums, best, graph, v)
        numbers.size[best] += 1
        clusters[v] = best
        wake_neighbours(graph, v, clusters, waiting)
    return num_moves
