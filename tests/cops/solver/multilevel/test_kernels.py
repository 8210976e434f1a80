"""Kernels of the multilevel method against dense matrices and against recomputed costs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cops.solver.multilevel.build import (
    MAX_RUNS,
    NODES_PER_BLOCK,
    find_scale,
    make_graph,
    reduce_node_costs,
)
from cops.solver.multilevel.cluster_numbers import number_by_first
from cops.solver.multilevel.components import find_components
from cops.solver.multilevel.graph import contract
from cops.solver.multilevel.parts import move_parts, renumber
from cops.solver.multilevel.refine import labelling_cost, move_constrained
from cops.solver.multilevel.rows import Graph
from cops.solver.multilevel.sweep import first_sweep, move_freely
from cops.solver.planted import grid_edges


def random_graph(
    seed: int, num_nodes: int, num_edges: int, num_classes: int, both: bool = True
) -> tuple[Graph, np.ndarray, np.ndarray]:
    """A graph with integer costs, so that float32 sums are exact; and its edges and their costs."""
    generator = np.random.default_rng(seed)
    first = generator.integers(0, num_nodes, num_edges)
    second = (first + generator.integers(1, num_nodes, num_edges)) % num_nodes
    edges = np.stack([first, second], axis=1).astype(np.int32)
    costs = generator.integers(-4, 6, num_edges).astype(np.float32)
    nodes = generator.integers(0, 9, (num_nodes, num_classes)).astype(np.float32)
    return make_graph(edges, costs, 1.0, *reduce_node_costs(nodes, 1.0), both), edges, costs


def dense(graph: Graph, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n, n) sums of the costs of the links begin[v] .. end[v] - 1 from v."""
    num_nodes = len(graph.middle)
    matrix = np.zeros((num_nodes, num_nodes))
    for v in range(num_nodes):
        for i in range(begin[v], end[v]):
            matrix[v, graph.link_node[i]] += graph.link_cost[i]
    return matrix


@pytest.mark.parametrize("num_edges", [0, 3, 400])
def test_rows_hold_each_edge_once_backward_and_once_forward(num_edges: int) -> None:
    graph, edges, costs = random_graph(num_edges, 30, num_edges, 3)
    expected = np.zeros((30, 30))
    np.add.at(expected, (edges.max(axis=1), edges.min(axis=1)), costs)
    assert np.array_equal(dense(graph, graph.first, graph.middle), expected)
    assert np.array_equal(dense(graph, graph.middle, graph.first[1:]), expected.T)
    half, _, _ = random_graph(num_edges, 30, num_edges, 3, both=False)
    assert half.first[-1] == num_edges
    assert np.array_equal(dense(half, half.first, half.middle), expected)


def test_blocks_and_runs_do_not_change_the_rows() -> None:
    """A grid of more than one block, in few runs and, shuffled, in more than MAX_RUNS."""
    edges = grid_edges(40, 2 * NODES_PER_BLOCK // 40 + 7, (1, 4))
    num_nodes = int(edges.max()) + 1
    assert num_nodes > 2 * NODES_PER_BLOCK
    nodes = np.zeros((num_nodes, 1), np.float32), np.zeros(num_nodes, np.int32)
    costs = np.arange(len(edges), dtype=np.float32)
    in_runs = make_graph(edges, costs, 1.0, *nodes, True)
    order = np.random.default_rng(0).permutation(len(edges))
    small, large = np.sort(edges[order], axis=1).T
    assert ((np.diff(small) < 0) | (np.diff(large) < 0)).sum() > MAX_RUNS
    shuffled = make_graph(edges[order], costs[order], 1.0, *nodes, True)
    assert np.array_equal(in_runs.first, shuffled.first)
    assert np.array_equal(in_runs.middle, shuffled.middle)
    rows = np.repeat(np.arange(num_nodes), np.diff(in_runs.first))
    for graph in (in_runs, shuffled):
        assert np.all((graph.link_node < rows) == (np.arange(len(rows)) < graph.middle[rows]))
    # Each cost names its edge, so rows are compared as sets by sorting them.
    key = [np.lexsort((graph.link_cost, rows)) for graph in (in_runs, shuffled)]
    assert np.array_equal(in_runs.link_node[key[0]], shuffled.link_node[key[1]])
    assert np.array_equal(in_runs.link_cost[key[0]], shuffled.link_cost[key[1]])
    # Within a row and direction, edges keep their order.
    for v in range(0, num_nodes, 97):
        for begin, end in (
            (in_runs.first[v], in_runs.middle[v]),
            (in_runs.middle[v], in_runs.first[v + 1]),
        ):
            assert np.all(np.diff(in_runs.link_cost[begin:end]) > 0)


def test_contraction_keeps_the_cost_of_every_labelling() -> None:
    """Up to one constant: the minima of the contracted rows and the edges inside clusters."""
    generator = np.random.default_rng(0)
    for seed in range(20):
        graph, _, _ = random_graph(seed, 40, 200, 4)
        clusters = generator.integers(0, 12, 40).astype(np.int32)
        num_clusters = number_by_first(clusters, 12)
        small, taken = contract(graph, clusters, num_clusters)
        assert np.all(small.node_costs[np.arange(num_clusters), small.best] == 0.0)
        sums = np.zeros((num_clusters, 4))
        np.add.at(sums, clusters, graph.node_costs)
        assert taken == sums.min(axis=1).sum()
        assert np.all(small.node_costs.min(axis=1) == 0.0)
        differences = set()
        for _ in range(5):
            labelling = generator.integers(0, 6, num_clusters).astype(np.int32)
            class_of = generator.integers(0, 4, 6).astype(np.int32)
            differences.add(
                labelling_cost(graph, labelling[clusters], class_of)
                - labelling_cost(small, labelling, class_of)
            )
        assert len(differences) == 1


def test_components_are_those_of_scipy() -> None:
    generator = np.random.default_rng(1)
    for seed in range(30):
        graph, edges, _ = random_graph(seed, 60, int(generator.integers(0, 150)), 3)
        clusters = generator.integers(0, 3, 60).astype(np.int32)
        best = graph.node_costs.argmin(axis=1)
        for by_best_class in (False, True):
            key = clusters * 3 + best if by_best_class else clusters
            uncut = edges[key[edges[:, 0]] == key[edges[:, 1]]]
            matrix = coo_matrix((np.ones(len(uncut)), uncut.T), shape=(60, 60))
            count, expected = connected_components(matrix, directed=False)
            expected = expected.astype(np.int32)
            number_by_first(expected, count)
            parts, num_parts = find_components(graph, clusters, by_best_class)
            assert num_parts == count
            assert np.array_equal(parts, expected)


@pytest.mark.parametrize("flags", [[True, True, True], [False, True, False], [False] * 3])
def test_moves_gain_what_they_say(flags: list[bool]) -> None:
    """The cost falls by the gains exactly (all costs are integers), and no cheaper move is left."""
    partitionable = np.array(flags)
    for seed in range(25):
        graph, _, _ = random_graph(seed, 50, 220, 3)
        clusters = np.where(partitionable[0], 3 + np.arange(50), 0).astype(np.int32)
        class_of = np.zeros(53, np.int32)
        class_of[:3] = [0, 1, 2]
        before = labelling_cost(graph, clusters, class_of)
        gain = move_constrained(graph, partitionable, clusters, class_of, 100)
        after = labelling_cost(graph, clusters, class_of)
        assert gain > 0.0 and before - after == gain
        assert move_constrained(graph, partitionable, clusters, class_of, 1) == 0.0
        for v in range(50):  # every single move, tried out
            for target in range(53):
                for k in range(3) if target not in clusters and target >= 3 else [class_of[target]]:
                    if (target < 3) == partitionable[k]:
                        continue
                    moved, classes = clusters.copy(), class_of.copy()
                    moved[v], classes[target] = target, k
                    assert labelling_cost(graph, moved, classes) >= after
        gain = move_parts(graph, partitionable, clusters, class_of, 5)
        assert after - labelling_cost(graph, clusters, class_of) == gain
        used = np.unique(clusters)
        assert all(partitionable[class_of[used]] == (used >= 3))


def test_renumbering_keeps_the_labelling() -> None:
    class_of = np.array([0, 1, 0, 0, 1, 1, 0, 0], np.int32)
    clusters = np.array([6, 1, 4, 6, 0, 4], np.int32)
    compact, classes = renumber(clusters, class_of, 2, 6)
    assert compact.tolist() == [2, 1, 3, 2, 0, 3]
    assert classes[compact].tolist() == class_of[clusters].tolist()


def test_sweeps_lower_the_cost_without_the_stuff_rule() -> None:
    for seed in range(20):
        graph, _, _ = random_graph(seed, 80, 400, 4)
        alone = np.arange(80, dtype=np.int32)
        swept = np.empty(80, np.int32)
        count = first_sweep(graph, 0, 80, swept)
        assert set(swept.tolist()) == set(range(count))
        moved, num_moved = move_freely(graph, 50)
        assert set(moved.tolist()) == set(range(num_moved))
        costs = []
        for clusters in (alone, swept, moved):
            classes = contract(graph, clusters, clusters.max() + 1)[0].node_costs.argmin(axis=1)
            costs.append(labelling_cost(graph, clusters, classes.astype(np.int32)))
        assert costs[1] < costs[0] and costs[2] < costs[0]


def test_ranges_do_not_see_each_other() -> None:
    graph, _, _ = random_graph(4, 90, 500, 3)
    whole = np.full(90, -1, np.int32)
    counts = [first_sweep(graph, begin, begin + 30, whole) for begin in (60, 0, 30)]
    backwards = np.full(90, -1, np.int32)
    assert counts[::-1] == [
        first_sweep(graph, begin, begin + 30, backwards) for begin in (30, 0, 60)
    ]
    assert np.array_equal(whole, backwards)


def test_scale_is_a_power_of_two_and_seldom_needed() -> None:
    for ordinary in (1e6, 1e-6, 0.0):
        assert find_scale(ordinary) == 1.0
    for largest in (1e250, 1e-250):
        scale = find_scale(largest)
        assert np.log2(scale) == round(np.log2(scale))
        assert 0.5 < scale * largest <= 2.0
