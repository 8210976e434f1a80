"""Bounds are below every labelling, and optima are what brute force finds."""

from __future__ import annotations

import time

import numpy as np
import pytest
from naive_solver import brute_force

from cops.solver import energy, is_feasible, solve_amwc, solve_mwc
from cops.solver.bounds import _Program, components, find_bound
from cops.solver.planted import planted_problem
from cops.solver.problem import check_problem

FEW = {"num_classes": 6, "distances": (1, 3), "num_things": 4}


def random_problem(seed: int):
    """5 nodes, 3 classes and up to 9 edges, of costs that are multiples of 1/8."""
    generator = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    chosen = generator.permutation(len(pairs))[: generator.integers(4, 10)]
    edges = np.array(pairs)[chosen]
    node_costs = generator.integers(-16, 17, (5, 3)) / 8
    edge_costs = generator.integers(-24, 25, len(edges)) / 8
    return node_costs, edges, edge_costs, generator.random(3) < 0.5


@pytest.mark.parametrize("seed", range(25))
def test_the_optimum_of_brute_force(seed):
    problem = random_problem(seed)
    bound = find_bound(*problem)
    best = float(brute_force(*problem))
    assert bound.optimum is not None and bound.optimum.energy == best
    assert is_feasible(problem[1], problem[3], *bound.optimum[:3])
    assert bound.relaxation <= bound.lower + 1e-6
    assert bound.lower == pytest.approx(best, abs=1e-6)
    assert bound.gap_percent(best) == pytest.approx(0.0, abs=1e-3)


def test_what_each_family_of_constraints_forbids():
    # A cycle cut once: the end of a path pays for being apart, but the path holds it.
    triangle = np.array([[0, 1], [1, 2], [0, 2]])
    one = find_bound(np.zeros((3, 1)), triangle, [5.0, 5.0, -3.0], [True])
    assert one.optimum.energy == 0.0 and one.num_constraints > 0
    # Two clusters of a class outside P: cutting would earn 2, but there is one cluster only.
    two = find_bound([[0.0, 9.0], [0.0, 9.0]], [[0, 1]], [-2.0], [False, True])
    assert two.optimum.energy == 0.0 and not two.optimum.is_cut[0]
    assert find_bound([[0.0, 9.0], [0.0, 9.0]], [[0, 1]], [-2.0], [True, True]).lower == -2.0
    # Two classes without a cut: staying together costs the dearer class of one end.
    three = find_bound([[0.0, 9.0], [9.0, 0.0]], [[0, 1]], [4.0], [True, True])
    assert three.optimum.energy == 4.0 and three.optimum.is_cut[0]


def test_edges_of_a_stuff_class_are_joined_across_the_graph():
    """Nodes 0 and 2 have one class and no edge between them: one cluster all the same."""
    costs = [[-5.0, 0.0], [0.0, -5.0], [-5.0, 0.0]]
    bound = find_bound(costs, [[0, 1], [1, 2]], [1.0, 1.0], [False, False])
    assert bound.optimum.node_clusters.tolist() == [0, 1, 0] and bound.optimum.energy == -13.0


def test_never_parallel_edges_and_mwc():
    never = np.array([[0.0, np.inf], [np.inf, 1.0]])
    bound = find_bound(never, [[0, 1]], [100.0], [True, True])
    assert bound.optimum.energy == 101.0
    parallel = find_bound([[0.0], [0.0]], [[0, 1], [1, 0]], [3.0, -5.0], [True])
    assert parallel.optimum.energy == -2.0 and parallel.optimum.is_cut.tolist() == [True, True]
    node_costs, edges, edge_costs, _ = random_problem(3)
    mwc = find_bound(node_costs, edges, edge_costs)
    assert mwc.optimum.energy == float(brute_force(node_costs, edges, edge_costs, [False] * 3))
    assert mwc.optimum.energy <= solve_mwc(node_costs, edges, edge_costs).energy
    alone = find_bound([[2.0, 1.0], [0.5, 3.0]], np.zeros((0, 2), int), [], [True, False])
    assert alone.lower == alone.relaxation == alone.optimum.energy == 1.5


@pytest.mark.parametrize("variant", ["smooth", "rounded", "signs", "zeroed", "white"])
def test_planted_problems(variant):
    problem = planted_problem(1, 7, 7, noise=6.0, variant=variant, **FEW)
    bound = find_bound(*problem, time_limit=30.0)
    assert bound.relaxation <= bound.lower + 1e-6
    for method in ("greedy", "multilevel"):
        assert solve_amwc(*problem, method=method).energy >= bound.lower - 1e-6 * abs(bound.lower)
    if bound.optimum is not None:
        counted = energy(*problem[:3], bound.optimum.node_classes, bound.optimum.is_cut)
        assert counted == bound.optimum.energy >= bound.lower
    # The relaxation is tight here; a wrong or missing family of constraints would show.
    assert bound.gap_percent(bound.lower) - bound.gap_percent(bound.relaxation) < 2.0


def test_the_bound_is_certified_whatever_the_multipliers():
    problem = check_problem(*planted_problem(2, 6, 6, noise=6.0, **FEW))
    program = _Program(problem, time.perf_counter() + 30.0)
    best = program.relax()
    cost = min(solve_amwc(*problem, method=m).energy for m in ("greedy", "multilevel"))
    generator = np.random.default_rng(0)
    assert program.num_rows > 0
    for _ in range(20):
        multipliers = generator.normal(size=program.num_rows)
        assert program._lagrangian(multipliers) <= best + 1e-6 <= cost + 2e-6


def test_without_time_or_integers_there_is_still_a_bound():
    problem = planted_problem(0, 8, 8, noise=6.0, **FEW)
    full = find_bound(*problem)
    none = find_bound(*problem, time_limit=0.0)
    trivial = problem.node_costs.min(axis=1).sum(dtype=float)
    trivial += problem.edge_costs[problem.edge_costs < 0].sum(dtype=float)
    assert none.optimum is None and none.lower == pytest.approx(trivial)
    relaxed = find_bound(*problem, integral=False)
    assert relaxed.optimum is None
    assert none.lower < relaxed.lower == relaxed.relaxation == full.relaxation <= full.lower


def test_large_problems_are_refused():
    with pytest.raises(ValueError, match="at most 5000"):
        find_bound(np.zeros((5001, 1)), np.zeros((0, 2), int), [], [True])


def test_components():
    edges = np.array([[0, 1], [1, 2], [3, 4]])
    assert components(edges, [False, True, False], 6).tolist() == [0, 0, 1, 2, 2, 3]
