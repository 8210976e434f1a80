"""Splits and chains: their gain is the fall of the cost, and they find what moves do not find."""

from __future__ import annotations

import numpy as np
import pytest

from cops.solver.multilevel import split
from cops.solver.multilevel.build import make_graph, make_stencil_graph, reduce_node_costs
from cops.solver.multilevel.chain import move_chains
from cops.solver.multilevel.parts import move_parts
from cops.solver.multilevel.refine import labelling_cost, move_constrained
from cops.solver.multilevel.rows import Graph
from cops.solver.multilevel.split import split_clusters
from cops.solver.parallel import Workers
from cops.solver.planted import grid_edges
from cops.solver.stencil import find_stencil

MANY = 10**9  # links; no limit


def build(edges: list[tuple[int, int, float]], node_costs: np.ndarray) -> Graph:
    ends = np.array([edge[:2] for edge in edges], np.int32)
    costs = np.array([edge[2] for edge in edges], np.float32)
    reduced = reduce_node_costs(np.asarray(node_costs, np.float32), 1.0)
    return make_graph(ends, costs, 1.0, *reduced, True)


def random_grid(seed: int) -> tuple[Graph, Graph]:
    """The same random problem on a grid, with rows and with a stencil; costs are integers."""
    rng = np.random.default_rng(seed)
    height, width, num_classes = 9, 14, 3
    edges = grid_edges(height, width, (1, 3))
    costs = rng.integers(-4, 6, len(edges)).astype(np.float32)
    nodes = rng.integers(0, 9, (height * width, num_classes)).astype(np.float32)
    stencil, valid = find_stencil(edges, len(nodes))
    assert valid and len(stencil.offsets)
    reduced = reduce_node_costs(nodes, 1.0)
    rows = make_graph(edges, costs, 1.0, *reduced, True)
    return rows, make_stencil_graph(stencil, costs, 1.0, *reduced)


def random_labelling(graph: Graph, seed: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Class 0 is outside P; the other clusters are long runs of nodes."""
    rng = np.random.default_rng(seed)
    num_nodes, num_classes = graph.node_costs.shape
    runs = np.arange(num_nodes) * blocks // num_nodes
    class_of = np.zeros(num_classes + num_nodes, np.int32)
    class_of[:num_classes] = np.arange(num_classes)
    class_of[num_classes:] = rng.integers(1, num_classes, num_nodes)
    clusters = np.where(rng.random(blocks) < 0.3, 0, num_classes + np.arange(blocks))[runs]
    return clusters.astype(np.int32), class_of


def chains(graph: Graph, clusters: np.ndarray, class_of: np.ndarray, **changes: int) -> float:
    options = {"patience": 8, "budget": MANY, "one_source": True} | changes
    waiting = np.ones(len(clusters), bool)
    return move_chains(
        graph,
        clusters,
        class_of,
        waiting,
        options["patience"],
        options["budget"],
        bool(options["one_source"]),
    )


@pytest.mark.parametrize("stencil", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_gain_of_splits_is_what_the_cost_falls_by(seed: int, stencil: bool) -> None:
    graph = random_grid(seed)[stencil]
    clusters, class_of = random_labelling(graph, seed, 4)
    outside = clusters == 0
    classes = class_of[clusters]
    before = labelling_cost(graph, clusters, class_of)
    gain = split_clusters(graph, clusters, class_of, MANY)
    assert gain > 0.0
    assert labelling_cost(graph, clusters, class_of) == before - gain
    assert np.array_equal(clusters == 0, outside)
    assert np.array_equal(class_of[clusters], classes)
    assert np.array_equal(class_of[:3], [0, 1, 2])


@pytest.mark.parametrize("one_source", [False, True])
@pytest.mark.parametrize("stencil", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_gain_of_chains_is_what_the_cost_falls_by(
    seed: int, stencil: bool, one_source: bool
) -> None:
    graph = random_grid(seed)[stencil]
    clusters, class_of = random_labelling(graph, seed, 12)
    numbers = set(clusters.tolist())
    classes_before = class_of.copy()
    before = labelling_cost(graph, clusters, class_of)
    gain = chains(graph, clusters, class_of, one_source=one_source)
    assert gain > 0.0
    assert labelling_cost(graph, clusters, class_of) == before - gain
    # Into clusters that are there: none is founded, and none changes its class.
    assert set(clusters.tolist()) <= numbers
    assert np.array_equal(class_of, classes_before)


@pytest.mark.parametrize("seed", range(4))
def test_both_forms_of_a_graph_have_the_same_outcome(seed: int) -> None:
    rows, stencil = random_grid(seed)
    outcomes = []
    for graph in (rows, stencil, rows):
        clusters, class_of = random_labelling(graph, seed, 6)
        split_clusters(graph, clusters, class_of, MANY)
        chains(graph, clusters, class_of)
        outcomes.append((clusters, class_of))
    for clusters, class_of in outcomes[1:]:
        assert np.array_equal(clusters, outcomes[0][0])
        assert np.array_equal(class_of, outcomes[0][1])


@pytest.mark.parametrize("seed", range(4))
def test_repeated_until_nothing_gains_both_end_and_then_change_nothing(seed: int) -> None:
    graph, _ = random_grid(seed)
    clusters, class_of = random_labelling(graph, seed, 6)
    for _ in range(100):
        gain = split_clusters(graph, clusters, class_of, MANY) + chains(graph, clusters, class_of)
        if gain == 0.0:
            break
    assert gain == 0.0
    kept = clusters.copy(), class_of.copy()
    assert split_clusters(graph, clusters, class_of, MANY) == 0.0
    assert chains(graph, clusters, class_of) == 0.0
    assert np.array_equal(clusters, kept[0])
    assert np.array_equal(class_of, kept[1])


@pytest.mark.parametrize("at_once", [1, 5, 256])
@pytest.mark.parametrize("seed", range(6))
def test_threads_split_as_one_does_whatever_the_budget(seed: int, at_once: int, monkeypatch):
    graph, _ = random_grid(seed)
    outcomes: dict[int, list[tuple[float, bytes, bytes]]] = {1: [], 2: [], 3: []}
    for threads, found in outcomes.items():
        monkeypatch.setattr(split, "SEEDS_AT_ONCE", at_once if threads > 1 else MANY)
        for budget in (0, 1, 50, 400, 1000, MANY):
            clusters, class_of = random_labelling(graph, seed, 5)
            with Workers(threads) as workers:
                gain = split_clusters(graph, clusters, class_of, budget, workers)
            found.append((gain, clusters.tobytes(), class_of.tobytes()))
    assert outcomes[1] == outcomes[2] == outcomes[3]
    gains = [gain for gain, _, _ in outcomes[1]]
    assert gains[0] == 0.0 and gains == sorted(gains)  # the more links, the more parts


def test_a_part_is_split_again_by_a_later_seed() -> None:
    """Three cliques in one cluster; a second part comes from the first, or from what is left."""
    across = [(a, b, -1.0) for a in range(12) for b in range(12) if a // 4 < b // 4]
    edges = [e for first in (0, 4, 8) for e in clique(range(first, first + 4), 4.0)]
    graph = build(edges + across, np.tile([9.0, 0.0], (12, 1)))
    for threads in (1, 2):
        clusters = np.full(12, 2, np.int32)
        class_of = np.array([0, 1] + [1] * 12, np.int32)
        with Workers(threads) as workers:
            assert split_clusters(graph, clusters, class_of, MANY, workers) == 48.0
        assert len(set(clusters.reshape(3, 4)[:, 0])) == 3
        assert (clusters.reshape(3, 4) == clusters[::4, None]).all()
        assert clusters.max() < len(class_of)


def clique(members: range, cost: float) -> list[tuple[int, int, float]]:
    return [(a, b, cost) for a in members for b in members if a < b]


def nothing_else_moves(graph: Graph, clusters: np.ndarray, class_of: np.ndarray) -> bool:
    partitionable = np.arange(graph.node_costs.shape[1]) > 0
    return move_constrained(graph, partitionable, clusters, class_of, 10) == 0.0


def two_cliques() -> tuple[Graph, np.ndarray, np.ndarray]:
    """Five and five nodes of class 1 in one cluster, which should be two."""
    across = [(a, a + 5, -2.0) for a in range(5)] + [(a, (a + 1) % 5 + 5, -2.0) for a in range(5)]
    edges = clique(range(5), 3.0) + clique(range(5, 10), 3.0) + across
    graph = build(edges, np.tile([9.0, 0.0], (10, 1)))
    return graph, np.full(10, 2, np.int32), np.array([0, 1] + [1] * 10, np.int32)


def test_two_cliques_joined_by_mistake_are_split() -> None:
    graph, clusters, class_of = two_cliques()
    partitionable = np.array([False, True])
    assert nothing_else_moves(graph, clusters, class_of)
    assert move_parts(graph, partitionable, clusters, class_of, 4) == 0.0
    assert chains(graph, clusters, class_of) == 0.0
    assert split_clusters(graph, clusters, class_of, MANY) == 20.0
    assert (clusters[:5] == clusters[0]).all()
    assert (clusters[5:] == clusters[5]).all()
    assert clusters[0] != clusters[5]
    assert (class_of[clusters] == 1).all()


def test_a_cluster_of_a_class_outside_p_is_never_split() -> None:
    graph, clusters, class_of = two_cliques()
    clusters[:] = 0
    assert split_clusters(graph, clusters, class_of, MANY) == 0.0
    assert not clusters.any()


def strip() -> tuple[Graph, np.ndarray, np.ndarray]:
    """Nodes 0 .. 2 are one cluster, 3 .. 8 another of the same class.

    Nodes 3, 4 and 5 are a clique. Each has an edge of 6 to a node of the first cluster and one of 5
    to a node of its own. Any one alone would lose 5 + 2 - 6, all three gain 6 - 5 each.
    """
    edges = clique(range(3), 9.0) + clique(range(3, 6), 1.0) + clique(range(6, 9), 9.0)
    edges += [(a, a + 3, 6.0) for a in range(3)] + [(a, a + 3, 5.0) for a in range(3, 6)]
    edges += [(a, b, -3.0) for a in range(3) for b in range(6, 9)]
    graph = build(edges, np.tile([30.0, 0.0], (9, 1)))
    clusters = np.array([2] * 3 + [3] * 6, np.int32)
    return graph, clusters, np.array([0, 1] + [1] * 9, np.int32)


@pytest.mark.parametrize("one_source", [False, True])
def test_a_strip_that_gains_as_a_whole_only_changes_sides(one_source: bool) -> None:
    graph, clusters, class_of = strip()
    assert nothing_else_moves(graph, clusters, class_of)
    # One step loses 1, the next brings it back: who gives up after one finds nothing.
    assert chains(graph, clusters, class_of, patience=1) == 0.0
    assert chains(graph, clusters, class_of, one_source=one_source) == 3.0
    assert clusters.tolist() == [2] * 6 + [3] * 3


def test_without_budget_no_chain_begins() -> None:
    graph, clusters, class_of = strip()
    assert chains(graph, clusters, class_of, budget=0) == 0.0
    assert clusters.tolist() == [2] * 3 + [3] * 6


def test_a_node_that_is_not_waiting_is_no_seed() -> None:
    graph, clusters, class_of = strip()
    nobody = np.zeros(9, bool)
    assert move_chains(graph, clusters, class_of, nobody, 8, MANY, True) == 0.0


def test_nodes_of_two_clusters_that_hold_on_to_each_other_join_a_third() -> None:
    """Nodes 1 and 2 would both rather be with 0 and 5, but only together: each alone loses 1."""
    edges = [(0, 5, 90.0), (0, 1, 11.0), (0, 2, 11.0), (1, 3, 12.0), (2, 4, 12.0), (1, 2, 10.0)]
    edges += [(0, 3, -20.0), (0, 4, -20.0), (3, 4, -20.0)]
    graph = build(edges, np.tile([900.0, 0.0], (6, 1)))
    clusters = np.array([2, 3, 4, 3, 4, 2], np.int32)
    class_of = np.array([0, 1] + [1] * 6, np.int32)
    assert nothing_else_moves(graph, clusters, class_of)
    assert split_clusters(graph, clusters, class_of, MANY) == 0.0
    assert chains(graph, clusters, class_of, one_source=True) == 0.0
    assert chains(graph, clusters, class_of, one_source=False) == 8.0
    assert clusters.tolist() == [2, 2, 2, 3, 4, 2]


def test_whole_clusters_are_chained_by_moving_parts() -> None:
    """The same with each node of that problem a pair of nodes: no chain of single nodes gains."""
    small = [(0, 5, 90.0), (0, 1, 11.0), (0, 2, 11.0), (1, 3, 12.0), (2, 4, 12.0), (1, 2, 10.0)]
    small += [(0, 3, -20.0), (0, 4, -20.0), (3, 4, -20.0)]
    edges = [(2 * a, 2 * b, cost) for a, b, cost in small]
    edges += [(2 * a, 2 * a + 1, 50.0) for a in range(6)]
    # The best classes of their own show the parts of a cluster; all of them stay in class 1.
    node_costs = np.tile([900.0, 0.0, 0.0], (12, 1))
    node_costs[[2, 3, 4, 5], 1] = 0.001
    node_costs[[0, 1, 6, 7, 8, 9, 10, 11], 2] = 9.0
    node_costs[[2, 3, 4, 5], 2] = 0.0
    graph = build(edges, node_costs)
    clusters = np.repeat(np.array([3, 4, 5, 4, 5, 3], np.int32), 2)
    class_of = np.array([0, 1, 2] + [1] * 12, np.int32)
    before = labelling_cost(graph, clusters, class_of)
    partitionable = np.array([False, True, True])
    assert nothing_else_moves(graph, clusters, class_of)
    assert split_clusters(graph, clusters, class_of, MANY) == 0.0
    gain = move_parts(graph, partitionable, clusters, class_of, 4)
    assert gain == pytest.approx(8.0, abs=0.01)
    assert before - labelling_cost(graph, clusters, class_of) == pytest.approx(gain, abs=1e-4)
    pairs = clusters.reshape(6, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert pairs[0, 0] == pairs[1, 0] == pairs[2, 0] == pairs[5, 0]
    assert len(set(pairs[:, 0])) == 3


def test_move_parts_counts_what_its_chains_gain() -> None:
    for seed in range(6):
        graph, _ = random_grid(seed)
        clusters, class_of = random_labelling(graph, seed, 8)
        before = labelling_cost(graph, clusters, class_of)
        gain = move_parts(graph, np.array([False, True, True]), clusters, class_of, 4)
        assert labelling_cost(graph, clusters, class_of) == before - gain
        outside = class_of[clusters] == 0
        assert np.array_equal(clusters == 0, outside)
