"""Every fast path gives what the slow one gives: stencils, grid maps, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import cops.solver.multilevel.algorithm as multilevel
from cops.grid_graph import grid_graph
from cops.solver import Result, solve_amwc, solve_amwc_grid, solve_mwc
from cops.solver.multilevel.algorithm import solve_multilevel
from cops.solver.multilevel.build import make_graph, make_stencil_graph, reduce_node_costs
from cops.solver.multilevel.components import find_components
from cops.solver.multilevel.graph import contract
from cops.solver.multilevel.refine import labelling_cost, move_constrained
from cops.solver.multilevel.rows import Graph
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem, survey_problem
from cops.solver.stencil import find_stencil, no_stencil

DISTANCES = (1, 3, 8)


def grid_problem(seed: int, height: int, width: int, noise: float = 4.0) -> Problem:
    """Costs in sixteenths, of which float32 and float64 sums are exact."""
    problem = planted_problem(seed, height, width, 6, DISTANCES, noise, num_things=6)
    return problem._replace(
        node_costs=np.round(problem.node_costs * 16) / 16,
        edge_costs=np.round(problem.edge_costs * 16) / 16,
    )


def both_forms(problem: Problem) -> tuple[Graph, Graph]:
    """The graph of a problem with a stencil, and with rows of links."""
    reduced, best = reduce_node_costs(problem.node_costs, 1.0)
    stencil, valid = find_stencil(problem.edges, len(best))
    assert valid and len(stencil.offsets) == 2 * len(DISTANCES)
    return (
        make_stencil_graph(stencil, problem.edge_costs, 1.0, reduced, best),
        make_graph(problem.edges, problem.edge_costs, 1.0, reduced, best, True),
    )


def assert_equal(ours: Result, theirs: Result) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(9, 11), (24, 40), (40, 70)])
def test_a_stencil_describes_the_list(shape: tuple[int, int]) -> None:
    for edges in (grid_graph(*shape, DISTANCES).edges, grid_graph(*shape, (2,)).edges[:, ::-1]):
        edges = np.ascontiguousarray(edges)
        stencil, valid = find_stencil(edges, shape[0] * shape[1])
        assert valid
        if not len(stencil.offsets):
            assert shape == (9, 11)  # pieces too short to be worth it
            continue
        found = []
        for s, node in enumerate(stencil.node):
            length = stencil.edge[s + 1] - stencil.edge[s]
            small = node + np.arange(length)
            found.append(np.stack([small, small + stencil.offsets[stencil.run[s]]], axis=1))
        np.testing.assert_array_equal(np.concatenate(found), np.sort(edges, axis=1))


@pytest.mark.parametrize("place", [0, 700, -1])
@pytest.mark.parametrize("wrong", [-1, 30 * 40, "loop"])
def test_a_wrong_edge_in_a_grid_is_noticed(place: int, wrong: int | str) -> None:
    edges = grid_graph(30, 40, DISTANCES).edges.copy()
    edges[place, 1] = edges[place, 0] if wrong == "loop" else wrong
    assert not find_stencil(edges, 1200)[1]
    np.random.default_rng(0).shuffle(edges)  # no order: the other check
    assert not find_stencil(edges, 1200)[1]


def test_graphs_of_both_forms_are_the_same_to_all_kernels() -> None:
    generator = np.random.default_rng(0)
    for seed in range(4):
        problem = grid_problem(seed, 20, 33)
        stencil_graph, graph = both_forms(problem)
        num_nodes, num_classes = problem.node_costs.shape
        for num_clusters in (3, 40, num_nodes):
            clusters = generator.integers(0, num_clusters, num_nodes).astype(np.int32)
            clusters[:num_clusters] = np.arange(num_clusters)
            class_of = generator.integers(0, num_classes, num_clusters).astype(np.int32)
            costs = [labelling_cost(g, clusters, class_of) for g in (stencil_graph, graph)]
            assert costs[0] == costs[1]
            parts = [find_components(g, clusters, True)[0] for g in (stencil_graph, graph)]
            np.testing.assert_array_equal(*parts)
            small = [contract(g, clusters, num_clusters)[0] for g in (stencil_graph, graph)]
            np.testing.assert_array_equal(small[0].node_costs, small[1].node_costs)
            labels = generator.integers(0, 5, num_clusters).astype(np.int32)
            costs = [labelling_cost(g, labels, class_of[:5].repeat(2)) for g in small]
            assert costs[0] == costs[1]
        partitionable = problem.partitionable
        outcomes = []
        for g in (stencil_graph, graph):
            clusters = (num_classes + np.arange(num_nodes) // 7).astype(np.int32)
            class_of = np.arange(num_classes + num_nodes, dtype=np.int32) % num_classes
            class_of[num_classes:] = num_classes - 1
            gain = move_constrained(g, partitionable, clusters, class_of, 10)
            outcomes.append((gain, clusters, class_of[clusters]))
        assert outcomes[0][0] == outcomes[1][0] > 0.0
        np.testing.assert_array_equal(outcomes[0][1:], outcomes[1][1:])


def test_a_grid_without_its_stencil_is_solved_as_well() -> None:
    """Ties may fall differently, because contracted rows have another order."""
    for seed in range(3):
        problem = planted_problem(seed, 30, 44, 6, DISTANCES, 3.0, num_things=6)
        survey = survey_problem(*problem)[1]
        assert len(survey.stencil.offsets)
        fast = solve_multilevel(problem, survey)
        slow = solve_multilevel(problem, survey._replace(stencil=no_stencil()))
        assert fast.energy == pytest.approx(slow.energy, rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maps_give_what_lists_give(dtype) -> None:
    generator = np.random.default_rng(1)
    for shape in ((5, 6), (24, 40)):
        graph = grid_graph(*shape, DISTANCES)
        class_maps = generator.normal(size=(5, *shape)).astype(dtype)
        edge_maps = generator.normal(size=(6, *shape)).astype(dtype)
        edge_maps[~graph.valid] = np.nan  # never read
        class_maps[0, 2, 3] = np.inf
        partitionable = np.array([False, True, True, False, True])
        lists = solve_amwc(
            graph.node_costs_from_maps(class_maps),
            graph.edges,
            graph.edge_costs_from_maps(edge_maps),
            partitionable,
            method="multilevel",
            refine=2,
        )
        for maps in ((class_maps, edge_maps), map(torch.from_numpy, (class_maps, edge_maps))):
            result = solve_amwc_grid(*maps, DISTANCES, partitionable, refine=2)
            assert_equal(result, lists)


def test_maps_are_checked() -> None:
    classes, edges, flags = np.zeros((2, 4, 5)), np.zeros((2, 4, 5)), [True, False]
    for arguments, message in (
        ((classes[0], edges, [1], flags), "class_costs must have shape"),
        ((classes, edges[:1], [1], flags), "edge_costs must have shape"),
        ((classes, edges, [1], [True]), "2 bools"),
        ((classes + np.nan, edges, [1], flags), "is NaN"),
        ((classes, edges + np.inf, [1], flags), "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            solve_amwc_grid(*arguments)


def test_threads_and_neighbours_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 1, 2 or 3 threads, one solve at a time or several side by side."""
    monkeypatch.setattr(multilevel, "NODES_PER_RANGE", 300)
    problems = [planted_problem(seed, 30, 40, 6, DISTANCES, 5.0) for seed in range(4)]
    alone = [solve_amwc(*p, method="multilevel") for p in problems]
    for threads in (2, 3):
        for problem, expected in zip(problems, alone, strict=True):
            result = solve_amwc(*problem, method="multilevel", num_threads=threads)
            assert_equal(result, expected)
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(solve_amwc, *p, method="multilevel", num_threads=2) for p in problems * 3
        ]
        for future, expected in zip(futures, alone * 3, strict=True):
            assert_equal(future.result(), expected)
    mwc = [solve_mwc(*problems[0][:3], method="multilevel", num_threads=t) for t in (1, 3)]
    assert_equal(*mwc)
