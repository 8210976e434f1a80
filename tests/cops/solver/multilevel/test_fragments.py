"""Fragments: an object that no class cost shows, strips, and random graphs against twins."""

from __future__ import annotations

import numpy as np
import pytest

from cops.solver import is_feasible, solve_amwc
from cops.solver.multilevel import auto
from cops.solver.multilevel.algorithm import improve, input_graph, number_start
from cops.solver.multilevel.build import make_graph, reduce_node_costs
from cops.solver.multilevel.chain import move_chains
from cops.solver.multilevel.departures import move_departures
from cops.solver.multilevel.force import force_moves
from cops.solver.multilevel.fragments import cut_fragments, move_fragments
from cops.solver.multilevel.refine import find_restless, labelling_cost
from cops.solver.multilevel.rows import Graph
from cops.solver.planted import grid_edges
from cops.solver.problem import Problem, survey_problem

MANY = 10**6
SIDE, OBJECT = 24, 12


def faint_object() -> tuple[Problem, np.ndarray]:
    """A square of 12 x 12 in an image of 24 x 24; where it is, (V,) bool.

    Class 0 is the background, class 1 has objects. Each node of the square pays 1 for class 1, all
    others 64. Neighbours hold together by 8. At distance 6 they do by 2 on one side of the border,
    and pay 4 for being together across it. Alone, a node of the square would lose four edges of 8.
    The whole square gains 4 for each of 2 * 2 * 6 * 12 distant edges, loses 8 for each of 4 * 12 at
    its border, and pays 144: 1152 - 384 - 144 = 624.
    """
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    inside = (abs(row - 11.5) < OBJECT / 2) & (abs(column - 11.5) < OBJECT / 2)
    edges = grid_edges(SIDE, SIDE, (1, 6))
    distance = abs(
        np.stack([row, column])[:, edges[:, 0]] - np.stack([row, column])[:, edges[:, 1]]
    )
    across = inside[edges[:, 0]] != inside[edges[:, 1]]
    costs = np.where(distance.max(axis=0) == 1, 8.0, np.where(across, -4.0, 2.0))
    nodes = np.stack([np.zeros(SIDE**2), np.where(inside, 1.0, 64.0)], axis=1)
    return Problem(nodes, edges, costs, np.array([False, True])), inside


def all_background(problem: Problem) -> tuple[Graph, np.ndarray, np.ndarray]:
    """The graph of a problem, and the labelling in which all nodes are of class 0."""
    checked, survey = survey_problem(*problem)
    graph, scale = input_graph(checked, survey, both=True)
    assert scale == 1.0
    nobody = np.zeros(len(problem.node_costs), np.int32)
    return graph, *number_start(nobody, nobody, checked.partitionable)


@pytest.mark.parametrize("second", [True, False])
def test_an_object_leaves_that_no_other_move_takes_out(second: bool) -> None:
    problem, inside = faint_object()
    flags = np.array([False, second])
    graph, clusters, class_of = all_background(problem)
    before = labelling_cost(graph, clusters, class_of)
    assert improve(graph, flags, clusters, class_of) == 0.0
    assert force_moves(graph, flags, clusters, class_of, MANY) == 0.0
    assert move_departures(graph, flags, clusters, class_of, MANY) == 0.0
    gain = move_fragments(graph, flags, clusters, class_of)
    assert gain == 624.0
    assert labelling_cost(graph, clusters, class_of) == before - gain
    assert np.array_equal(class_of[clusters] == 1, inside)
    assert len(set(clusters[inside])) == 1
    assert move_fragments(graph, flags, clusters, class_of) == 0.0


def test_auto_moves_fragments_where_it_does_not_contract_greedily(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, inside = faint_object()
    nobody = np.zeros(len(inside), np.int32)
    start = nobody, nobody
    stuck = solve_amwc(*problem, start=start)
    assert not stuck.node_classes.any()
    monkeypatch.setattr(auto, "_greedy_pays", lambda *_: False)
    found = solve_amwc(*problem, start=start)
    assert found.energy == stuck.energy - 624.0
    assert np.array_equal(found.node_classes == 1, inside)
    for threads in (2, 8):
        again = solve_amwc(*problem, start=start, num_threads=threads)
        assert np.array_equal(again.node_clusters, found.node_clusters)


def test_fragments_rest_where_class_costs_show_the_segments_or_all_edges_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    monkeypatch.setattr(auto, "_greedy_pays", lambda *_: False)
    monkeypatch.setattr(auto, "move_fragments", lambda *_: calls.append(None) or 0.0)
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    flags = [False, True]
    # Nothing disagrees: nodes take their best class, edges are cut where that pays.
    nodes = np.array([[0.0, 9.0], [0.0, 9.0], [9.0, 0.0], [9.0, 0.0]])
    solve_amwc(nodes, chain, [1.0, -1.0, 1.0], flags, method="auto")
    # Node 2 pays 0.5 for the class of the others, and all edges have it their way.
    bent = np.array([[0.0, 9.0], [0.0, 9.0], [0.5, 0.0], [0.0, 9.0]])
    solve_amwc(bent, chain, [1.0, 1.0, 1.0], flags, method="auto")
    assert not calls
    # The ends are in one cluster and pay 1 for it; the class costs all agree.
    plain = np.array([[0.0, 9.0]] * 4)
    edges = np.concatenate([chain, [[0, 3]]])
    solve_amwc(plain, edges, [3.0, 3.0, 3.0, -1.0], flags, method="auto")
    assert len(calls) == 1


def wide_strip() -> tuple[Graph, np.ndarray, np.ndarray]:
    """Nodes 3, 4 and 5 hold together by 3, to the cluster of 0 .. 2 by 6, to that of 6 .. 8 by 5.

    Edges of -3 keep these two apart.

    The first to leave the latter loses 5 + 6 - 6 = 5, which is 5/17 of its edges. That is more than
    seeds of chains may lose, and less than those of strips. The second gains 1 and the third 7.
    """
    edges = [(a + n, b + n, 9.0) for n in (0, 6) for a, b in ((0, 1), (0, 2), (1, 2))]
    edges += [(3, 4, 3.0), (3, 5, 3.0), (4, 5, 3.0)]
    edges += [(a, a + 3, 6.0) for a in range(3)] + [(a, a + 3, 5.0) for a in range(3, 6)]
    edges += [(a, b, -3.0) for a in range(3) for b in range(6, 9)]
    ends = np.array([edge[:2] for edge in edges], np.int32)
    costs = np.array([edge[2] for edge in edges])
    nodes = reduce_node_costs(np.tile([90.0, 0.0], (9, 1)), 1.0)
    graph = make_graph(ends, costs, 1.0, *nodes, True)
    return graph, np.array([2] * 3 + [3] * 6, np.int32), np.array([0, 1] + [1] * 9, np.int32)


def test_strips_begin_where_chains_do_not() -> None:
    graph, clusters, class_of = wide_strip()
    everybody = np.ones(9, np.bool_)
    assert move_chains(graph, clusters, class_of, everybody, 8, MANY, True) == 0.0
    assert move_chains(graph, clusters, class_of, everybody, 8, MANY, True, share=0.4) == 3.0
    assert clusters.tolist() == [2] * 6 + [3] * 3


@pytest.mark.parametrize("reach", [1.0, 8.0])
def test_restless_are_those_whose_other_edges_outweigh_the_rest(reach: float) -> None:
    rng = np.random.default_rng(0)
    edges = grid_edges(20, 30, (1, 4))
    costs = rng.integers(-3, 6, len(edges)).astype(float)  # so that sums are exact
    nodes = rng.integers(0, 9, (600, 3)).astype(float)
    flags = np.array([False, True, True])
    checked, survey = survey_problem(nodes, edges, costs, flags)
    graph, _ = input_graph(checked, survey, both=True)
    assert len(graph.offsets)
    classes = rng.integers(0, 3, 600).astype(np.int32)
    clusters, class_of = number_start(classes, classes, flags)
    same = clusters[edges[:, 0]] == clusters[edges[:, 1]]
    stay = -graph.node_costs[np.arange(600), class_of[clusters]].astype(float)
    outside = np.zeros(600)
    for end in edges.T:
        np.add.at(stay, end, np.where(same, costs, 0.0))
        np.add.at(outside, end, np.where(same, 0.0, np.maximum(costs, 0.0)))
    expected = stay < reach * outside
    assert 0 < expected.sum() < 600
    assert np.array_equal(find_restless(graph, clusters, class_of, reach=reach), expected)


def random_labelled(seed: int) -> tuple[Graph, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A graph with integer costs, which classes are in P, its edges, and a feasible labelling."""
    rng = np.random.default_rng(seed)
    num_nodes, num_classes = int(rng.integers(2, 40)), int(rng.integers(1, 5))
    edges = rng.integers(0, num_nodes, (90, 2)).astype(np.int32)
    edges = edges[edges[:, 0] != edges[:, 1]]
    costs = rng.integers(-3, 6, len(edges)).astype(float)
    nodes = rng.integers(0, 9, (num_nodes, num_classes)).astype(float)
    graph = make_graph(edges, costs, 1.0, *reduce_node_costs(nodes, 1.0), True)
    flags = rng.random(num_classes) < 0.5
    classes = rng.integers(0, num_classes, num_nodes).astype(np.int32)
    _, pieces = np.unique(
        classes + num_classes * rng.integers(0, 2, num_nodes), return_inverse=True
    )
    return graph, flags, edges, *number_start(classes, pieces.astype(np.int32), flags)


def test_the_gain_is_what_the_cost_falls_by_and_the_labelling_stays_feasible() -> None:
    gained = 0
    for seed in range(60):
        graph, flags, edges, clusters, class_of = random_labelled(seed)
        before = labelling_cost(graph, clusters, class_of)
        gain = move_fragments(graph, flags, clusters, class_of)
        assert gain >= 0.0
        assert labelling_cost(graph, clusters, class_of) == before - gain
        ends = clusters[edges]
        assert is_feasible(edges, flags, class_of[clusters], clusters, ends[:, 0] != ends[:, 1])
        gained += gain > 0.0
    assert gained > 30


def fragments_in_python(graph, clusters, weights, largest) -> list[int]:
    """What `cut_fragments` says, by dictionaries."""
    found: list[int] = []
    members: list[list[int]] = []
    for v in range(len(clusters)):
        sums: dict[int, float] = {}
        for i in range(graph.first[v], graph.middle[v]):
            f = found[graph.link_node[i]]
            sums[f] = sums.get(f, 0.0) + float(graph.link_cost[i])
        best, most = len(members), 0.0
        for f, total in sums.items():  # in the order in which they were met
            room = largest - sum(weights[u] for u in members[f]) - weights[v] >= 0
            if room and clusters[members[f][0]] == clusters[v] and total > most:
                best, most = f, total
        if best == len(members):
            members.append([])
        members[best].append(v)
        found.append(best)
    return found


@pytest.mark.parametrize("largest", [1, 3, 8, 1000])
def test_fragments_are_those_of_the_slow_twin(largest: int) -> None:
    sizes = []
    for seed in range(40):
        graph, _, _, clusters, _ = random_labelled(seed)
        weights = np.random.default_rng(seed).integers(1, 4, len(clusters))
        fragments, count = cut_fragments(graph, clusters, weights, largest)
        assert fragments.tolist() == fragments_in_python(graph, clusters, weights, largest)
        assert count == fragments.max() + 1
        held = np.bincount(fragments, weights)
        alone = np.bincount(fragments) == 1
        assert (held[~alone] <= largest).all()
        sizes.append(len(clusters) / count)
    assert (max(sizes) > 1.0) == (largest > 1)
