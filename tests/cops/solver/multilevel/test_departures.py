"""Departures: what no other move finds, and random graphs against recomputed costs."""

from __future__ import annotations

import numpy as np
import pytest

from cops.solver.multilevel.algorithm import improve, number_start
from cops.solver.multilevel.build import make_graph, reduce_node_costs
from cops.solver.multilevel.departures import move_departures
from cops.solver.multilevel.force import force_moves
from cops.solver.multilevel.refine import labelling_cost
from cops.solver.multilevel.rows import Graph


def swallowed_segment() -> Graph:
    """A body of three nodes of class 0, and a line of five that it has swallowed.

    By leaving for class 1, an end of the line saves 8 and pays 1 for its edge to the body. Each of
    the three between saves 1 and pays 2, as they would rather be of class 2, which the ends would
    not. Edges along the line cost 10. So all five gain 2 (8 - 1) + 3 (1 - 2) = 11, the first four
    lose 6, 7, 8 and 9 less than that at best, and whoever is forced to leave is not followed far.
    """
    body, end, between = [0.0, 9.0, 9.0], [8.0, 0.0, 20.0], [2.0, 1.0, 0.0]
    nodes = np.array([body] * 3 + [end, between, between, between, end])
    edges = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (5, 6), (6, 7)]
    costs = [10.0] * 7 + [1.0, 2.0, 2.0, 2.0, 1.0]
    edges += [(0, 3), (1, 4), (2, 5), (1, 6), (0, 7)]
    reduced = reduce_node_costs(nodes, 1.0)
    return make_graph(np.array(edges, np.int32), np.array(costs), 1.0, *reduced, True)


@pytest.mark.parametrize("second", [True, False])
def test_a_line_departs_that_no_other_move_takes_out(second: bool) -> None:
    graph = swallowed_segment()
    flags = np.array([False, second, True])
    clusters, class_of = number_start(np.zeros(8, np.int32), np.zeros(8, np.int32), flags)
    before = labelling_cost(graph, clusters, class_of)
    assert improve(graph, flags, clusters, class_of) == 0.0
    assert force_moves(graph, flags, clusters, class_of, 10**6) == 0.0
    assert move_departures(graph, flags, clusters, class_of, 10**6) == 11.0
    assert labelling_cost(graph, clusters, class_of) == before - 11.0
    assert class_of[clusters].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    # Outside P the cluster of class 1 is number 1; in P it is a new one, from K = 3 on.
    assert len(set(clusters[3:])) == 1 and (clusters[3] >= 3) == second
    assert move_departures(graph, flags, clusters, class_of, 10**6) == 0.0


def test_without_a_budget_nobody_departs() -> None:
    graph = swallowed_segment()
    flags = np.array([False, True, True])
    clusters, class_of = number_start(np.zeros(8, np.int32), np.zeros(8, np.int32), flags)
    assert move_departures(graph, flags, clusters, class_of, 0) == 0.0
    assert not clusters.any()


def test_where_every_node_is_alone_nobody_departs() -> None:
    """Then each number is taken: there is none for a new cluster, not even behind the last."""
    nodes = np.array([[0.0, 3.0], [3.0, 0.0], [0.0, 3.0]])
    edges, costs = np.array([[0, 1], [1, 2]], np.int32), np.array([-1.0, -1.0])
    graph = make_graph(edges, costs, 1.0, *reduce_node_costs(nodes, 1.0), True)
    flags = np.array([True, True])
    clusters, class_of = number_start(np.zeros(3, np.int32), np.arange(3, dtype=np.int32), flags)
    assert len(set(clusters.tolist())) == len(class_of) - 2
    labels = clusters.copy()
    assert move_departures(graph, flags, clusters, class_of, 10**6) == 0.0
    assert move_departures(graph, flags, clusters, class_of, 10**6, anywhere=True) == 0.0
    assert np.array_equal(clusters, labels)
    assert class_of.tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("anywhere", [False, True])
def test_the_gain_is_what_the_cost_falls_by_and_the_labelling_stays_feasible(
    anywhere: bool,
) -> None:
    gained = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        num_nodes, num_classes = int(rng.integers(2, 30)), int(rng.integers(1, 5))
        edges = rng.integers(0, num_nodes, (60, 2)).astype(np.int32)
        edges = edges[edges[:, 0] != edges[:, 1]]
        costs = rng.integers(-3, 6, len(edges)).astype(float)  # so that sums are exact
        nodes = rng.integers(0, 9, (num_nodes, num_classes)).astype(float)
        graph = make_graph(edges, costs, 1.0, *reduce_node_costs(nodes, 1.0), True)
        flags = rng.random(num_classes) < 0.5
        classes = rng.integers(0, num_classes, num_nodes).astype(np.int32)
        pieces = classes + num_classes * rng.integers(0, 2, num_nodes)
        _, numbers = np.unique(pieces, return_inverse=True)
        clusters, class_of = number_start(classes, numbers.astype(np.int32), flags)
        before = labelling_cost(graph, clusters, class_of)
        gain = move_departures(graph, flags, clusters, class_of, 10**6, anywhere=anywhere)
        assert gain >= 0.0
        assert labelling_cost(graph, clusters, class_of) == before - gain
        # Clusters outside P have the number of their class, and all others are of classes in P.
        own = clusters < num_classes
        assert (class_of[clusters[own]] == clusters[own]).all()
        assert flags[class_of[clusters[~own]]].all() and not flags[clusters[own]].any()
        gained += gain > 0.0
    assert gained > 50
