"""Fragments: clusters are cut into pieces of a few nodes, and those move, leave and split off.

Where class costs show where a segment ends, a piece of it is a connected part with one best class
(parts.py). With costs of networks that is not so. A part of the background may be an object
although each of its nodes would rather be background, because distant edges push it away. Or one
object is two. No node of it gains by leaving, nor do the first hundred. So clusters are cut into
*fragments*, each a few nodes that hold on to each other, in several sizes. On the graph of
fragments, a hundred steps are a thousand nodes, and cost what a hundred cost.

* Parts of any cluster leave for a class that is not their best either (departures.py). That takes
  hundreds of fragments before it pays.
* Clusters split (split.py), and fragments move alone and by force.

Borders of fragments are not always those of segments. So *strips* follow: chains of single nodes
that begin where a move costs more than chain.py allows, or where a node alone would never move.
Then all of it is done once more with other sizes, so that borders of fragments lie elsewhere.

Shapes: n nodes of a graph, K classes, M fragments.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inner_pass
from cops.solver.multilevel.algorithm import CHAIN_PATIENCE, CONSTRAINED_PASSES
from cops.solver.multilevel.chain import chain_budget, move_chains
from cops.solver.multilevel.cluster_numbers import look_up
from cops.solver.multilevel.departures import move_departures
from cops.solver.multilevel.force import force_moves
from cops.solver.multilevel.parts import PART_PASSES, contract_labelled
from cops.solver.multilevel.refine import find_restless, move_constrained
from cops.solver.multilevel.rows import Graph, add_up, load_earlier, make_row, make_tally
from cops.solver.multilevel.split import split_clusters
from cops.solver.parallel import ALONE, Workers

Labels = npt.NDArray[np.int32]

# Nodes of the largest fragments on each graph of a ladder, and of those of the second ladder.
LADDERS = ((8, 64, 512), (5, 40, 320))
# An object that no class cost shows pays only when most of its fragments have left.
PATIENCE = 512
# Departures may visit this share of the links that chains may, and splits another.
DEPARTURE_SHARE = 0.25
SPLIT_SHARE = 0.25
# Strips may visit so many times the links that chains may. Their seeds may pay a larger share
# of their edges (0.2 in chains).
STRIP_BUDGET = 2
STRIP_SHARE = 0.4
# Nodes are seeds of strips if positive edges into other clusters, so many times, outweigh the rest.
STRIP_REACH = 8.0


def move_fragments(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    workers: Workers = ALONE,
) -> float:
    """Move fragments of clusters, and then strips of nodes, where that lowers the cost.

    Args:
        graph: with forward and backward links.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place; numbers below K are of classes outside P.
        class_of: (K + n,) int32, changed in place.
        workers: threads, which do not change the result.

    Returns:
        What was gained in sum; 0 if nothing was.
    """
    budget = chain_budget(graph)
    labelling = (graph, partitionable, clusters, class_of)
    total = 0.0
    for ladder in LADDERS:
        total += _climb(*labelling, ladder, budget, workers)
        total += _move_strips(*labelling, STRIP_BUDGET * budget, workers)
    return total


def _climb(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    ladder: tuple[int, ...],
    budget: int,
    workers: Workers,
) -> float:
    """Move fragments on graphs of ever larger ones; return what that gains."""
    # Invariant: `parts` leads from nodes of the graph to those of `small`, of `weights`
    # nodes each. `coarse` and `classes` are the labelling of the latter.
    small, coarse, classes = graph, clusters, class_of
    parts = np.arange(len(clusters), dtype=np.int32)
    weights = np.ones(len(clusters), np.int64)
    total = 0.0
    for level, largest in enumerate(ladder):
        joined, count = cut_fragments(small, coarse, weights, largest)
        weights = np.bincount(joined, weights, count).astype(np.int64)
        small, coarse, classes = contract_labelled(small, joined, count, coarse, classes, workers)
        parts = joined[parts]
        labelling = (small, partitionable, coarse, classes)
        if partitionable.any():
            links = int(SPLIT_SHARE * budget)
            total += split_clusters(small, coarse, classes, links, workers)
        total += move_constrained(*labelling, PART_PASSES, workers)
        if level == 0:
            links = int(DEPARTURE_SHARE * budget)
            departed = move_departures(*labelling, links, PATIENCE, True, workers)
            if departed > 0.0:
                total += departed + move_constrained(*labelling, PART_PASSES, workers)
    total += force_moves(small, partitionable, coarse, classes, budget, workers)
    clusters[:] = look_up(coarse, parts, workers)
    class_of[: len(classes)] = classes
    return total


def _move_strips(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    budget: int,
    workers: Workers,
) -> float:
    """Move chains of nodes from seeds that other chains leave out; return what that gains."""
    waiting = find_restless(graph, clusters, class_of, workers, STRIP_REACH)
    options = (CHAIN_PATIENCE, budget, True, workers, STRIP_SHARE)
    gain = move_chains(graph, clusters, class_of, waiting, *options)
    if gain > 0.0:
        labelling = (graph, partitionable, clusters, class_of)
        gain += move_constrained(*labelling, CONSTRAINED_PASSES, workers)
    return gain


@jit
def cut_fragments(graph, clusters, weights, largest):
    """Cut clusters into fragments, in one pass in the order of the nodes.

    A node joins the fragment of its cluster, among those of earlier neighbours that have room, to
    which its edges pay most. If none pays, it begins one.

    Args:
        graph: backward rows suffice.
        clusters: (n,) int32.
        weights: (n,) int64, for how many nodes of the input each stands.
        largest: how many of these a fragment may hold; a node that stands for more is one alone.

    Returns:
        (n,) int32 fragments 0 .. M-1, numbered by first nodes; and M.
    """
    fragments = np.empty(clusters.size, np.int32)
    size = np.zeros(clusters.size, np.int64)
    owner = np.empty(clusters.size, clusters.dtype)
    row = make_row(graph)
    tally = make_tally(row, np.empty(clusters.size, np.float32))
    inputs = (graph, clusters, weights, largest)
    return fragments, _fill_fragments(*inputs, fragments, size, owner, row, tally)


@jit_inner_pass
def _fill_fragments(graph, clusters, weights, largest, fragments, size, owner, row, tally):
    """Do the pass of `cut_fragments`; return M."""
    count = np.int64(0)
    # Invariant: of the fragments 0 .. count - 1 of the nodes before v, `size` is what they hold
    # and `owner` their cluster.
    for v in range(clusters.size):
        num_links = load_earlier(graph, v, np.int64(0), fragments, row)
        num_near = add_up(row, num_links, v, tally)
        best = np.int64(-1)
        most = np.float32(0.0)
        for t in range(num_near):
            f = tally.touched[t]
            fits = owner[f] == clusters[v] and size[f] + weights[v] <= largest
            if fits and tally.weight[f] > most:
                best = np.int64(f)
                most = tally.weight[f]
        if best < 0:
            best = count
            owner[best] = clusters[v]
            count += 1
        size[best] += weights[v]
        fragments[v] = best
    return count
