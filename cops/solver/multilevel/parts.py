"""Moving parts of clusters as wholes: what mends a segment that has swallowed another.

A part becomes one node of a contracted graph (graph.py), on which the moves of refine.py and the
chains of chain.py go on.

Shapes: n nodes of a graph, K classes, M parts.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_pass
from cops.solver.multilevel.chain import chain_budget, move_chains
from cops.solver.multilevel.cluster_numbers import look_up
from cops.solver.multilevel.components import find_components
from cops.solver.multilevel.graph import contract
from cops.solver.multilevel.refine import move_constrained
from cops.solver.multilevel.rows import Graph
from cops.solver.parallel import ALONE, Workers

# Bounds on passes over one contracted graph.
PART_PASSES = 20
# A chain of parts (chain.py) ends when so many have brought nothing better. In a round,
# chains of parts may visit this share of the links that those of nodes may.
PART_PATIENCE = 8
PART_BUDGET = 0.3


def move_parts(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    max_rounds: int,
    workers: Workers = ALONE,
) -> float:
    """Move parts of clusters as wholes, alone and in chains: small ones, then connected clusters.

    In the first round a part is a connected set of nodes that have one cluster *and* one best class
    of their own. Where a segment has swallowed another, this is what its class costs still show.
    Later rounds take the connected parts of the clusters that have come out.

    Args:
        graph: backward rows suffice.
        partitionable: (K,) bool.
        clusters: (n,) int32, changed in place.
        class_of: (K + n,) int32, changed in place.
        max_rounds: how often at most to contract.
        workers: threads, which do not change the result.

    Returns:
        What the moves have gained in sum; 0 if there was none.
    """
    num_nodes, num_classes = graph.node_costs.shape
    # Invariant: `parts` leads from nodes of the graph to nodes of `small`; `coarse` and `classes`
    # are the labelling of the latter.
    small, coarse, classes = graph, clusters, class_of
    parts = np.empty(0, np.int32)
    total = 0.0
    budget = int(PART_BUDGET * chain_budget(graph))
    for number in range(max_rounds):
        joined, num_parts = find_components(small, coarse, number == 0, workers)
        representative = np.empty(num_parts, np.int32)
        _write_representatives(coarse, joined, representative)
        parts = joined if number == 0 else look_up(joined, parts, workers)
        small, _ = contract(small, joined, num_parts, workers)
        coarse, classes = renumber(representative, classes, num_classes, num_parts)
        move = partial(move_constrained, small, partitionable, coarse, classes, PART_PASSES)
        gain = move()
        all_parts = np.ones(num_parts, np.bool_)
        chained = move_chains(
            small, coarse, classes, all_parts, PART_PATIENCE, budget, False, workers
        )
        if chained > 0.0:
            gain += chained + move()
        total += gain
        if gain == 0.0 and number > 0:
            break
    clusters[:] = look_up(coarse, parts, workers)
    class_of[: len(classes)] = classes
    return total


def contract_labelled(
    graph: Graph,
    parts: npt.NDArray[np.int32],
    num_parts: int,
    clusters: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.int32],
    workers: Workers = ALONE,
) -> tuple[Graph, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Contract parts of clusters; return the smaller graph and the same labelling of it."""
    small, _ = contract(graph, parts, num_parts, workers)
    coarse = np.empty(num_parts, np.int32)
    _write_representatives(clusters, parts, coarse)
    return small, *renumber(coarse, class_of, graph.node_costs.shape[1], num_parts)


@jit_pass
def _write_representatives(clusters, parts, of_parts):
    """Set of_parts (M,) to the cluster of each part, all of whose nodes have the same."""
    for v in range(parts.size):
        of_parts[parts[v]] = clusters[v]
    return 0


@jit
def renumber(clusters, class_of, num_classes, capacity):
    """Renumber the instances of a labelling K, K + 1, ... by their first nodes.

    Returns:
        clusters (n,) int32 and class_of (K + capacity,) int32.
    """
    new = np.full(class_of.size, -1, np.int32)
    classes = np.zeros(num_classes + capacity, np.int32)
    for k in range(num_classes):
        new[k] = k
        classes[k] = k
    compact = np.empty_like(clusters)
    count = num_classes
    for v in range(clusters.size):
        c = clusters[v]
        if new[c] < 0:
            new[c] = count
            classes[count] = class_of[c]
            count += 1
        compact[v] = new[c]
    return compact, classes
