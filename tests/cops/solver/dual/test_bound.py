"""Dual bounds are below the optimum, exactly so; they rise with the budget; known instances."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from naive_solver import all_labellings, brute_force
from naive_solver import energy as exact_energy
from solver_instances import random_batch

from cops.solver import solve_amwc, solve_multicut
from cops.solver.bounds import dual_bound, find_bound
from cops.solver.dual.ascent import costs_after_cycles, gap_percent
from cops.solver.dual.evaluation import evaluate
from cops.solver.dual.links import merge_parallel
from cops.solver.planted import planted_problem
from cops.solver.problem import survey_problem

FEW = {"num_classes": 6, "distances": (1, 3), "num_things": 4}


def random_problem(seed, num_nodes=6, num_classes=3):
    """Costs that are multiples of 1/8, any P, parallel edges among others."""
    rng = np.random.default_rng(seed)
    num_edges = int(rng.integers(0, 16))
    first = rng.integers(0, num_nodes, num_edges)
    second = (first + rng.integers(1, num_nodes, num_edges)) % num_nodes
    node_costs = rng.integers(-16, 17, (num_nodes, num_classes)) / 8
    edge_costs = rng.integers(-24, 25, num_edges) / 8
    edges = np.stack([first, second], axis=1)
    return node_costs, edges, edge_costs, rng.random(num_classes) < rng.choice([0.0, 0.5, 1.0])


def exact_bound(certificate):
    """What a certificate proves, in fractions, straight from the head of evaluation.py."""
    costs = [Fraction(float(c)) for c in certificate.edge_costs]
    first = certificate.cycle_first
    for n, amount in enumerate(certificate.cycle_amounts):
        cycle = certificate.cycle_edges[first[n] : first[n + 1]]
        assert amount >= 0 and len(cycle) >= 3
        # A closed walk: each node is met an even number of times.
        assert (np.bincount(certificate.edges[cycle].ravel()) % 2 == 0).all()
        for i, e in enumerate(cycle):
            costs[e] += Fraction(float(amount)) * (1 if i == 0 else -1)
    potentials = [[Fraction(float(c)) for c in row] for row in certificate.node_costs]
    total = Fraction(0)
    for e, ((u, v), cost) in enumerate(zip(certificate.edges.tolist(), costs, strict=True)):
        message = [Fraction(0)] * len(potentials[0])
        if len(certificate.messages):
            message = [Fraction(float(a)) for a in certificate.messages[e]]
        if cost == 0:
            continue
        if cost > 0:
            total += min(Fraction(0), cost - (max(message) - min(message)))
            sign = -1
        else:
            flags = certificate.partitionable
            message = [Fraction(0) if p else max(a, 0) for a, p in zip(message, flags, strict=True)]
            total += cost - sum(message) - max(Fraction(0), sum(message) + cost)
            sign = 1
        for k, a in enumerate(message):
            potentials[u][k] += sign * a
            potentials[v][k] += a
    return (total + sum(min(row) for row in potentials)) / Fraction(certificate.scale)


def test_below_the_optimum_and_rising_with_the_budget():
    """Problems of which brute force knows the optimum, guided by good labels and by nonsense."""
    for seed in range(60):
        problem = random_problem(seed, num_nodes=5)
        best = brute_force(*problem)
        nonsense = np.random.default_rng(seed).integers(0, 3, (2, 5))
        for labels in (None, nonsense):
            bounds = [dual_bound(problem, budget, labels=labels) for budget in (0, 1, 2, 6)]
            lowers = [bound.lower for bound in bounds]
            assert lowers == sorted(lowers) and lowers[0] == bounds[0].trivial
            assert lowers[-1] <= best


def test_exact_evaluation_agrees():
    """In fractions a certificate proves no less than was claimed, and hardly more."""
    for seed in range(40):
        problem = random_problem(seed, num_nodes=4)
        bound = dual_bound(problem, 4, certify=True)
        exact = exact_bound(bound.certificate)
        assert bound.lower <= exact <= bound.lower + 1e-9
        for classes, clusters in all_labellings(4, problem[3]):
            assert exact_energy(*problem[:3], classes, clusters) >= exact


def test_any_messages_give_a_bound():
    """Only the evaluation must be right; what it is given may be anything."""
    rng = np.random.default_rng(0)
    for seed in range(30):
        problem = random_problem(seed, num_nodes=5)
        best = float(brute_force(*problem))
        certificate = dual_bound(problem, 1, certify=True).certificate
        messages = rng.normal(0.0, 2.0, certificate.messages.shape).astype(np.float32)
        shape = certificate.node_costs.shape
        proved, _ = evaluate(
            certificate.node_costs,
            certificate.edges,
            certificate.edge_costs,
            certificate.partitionable,
            messages,
            np.empty(shape),
            np.empty(shape, np.float32),
        )
        assert proved <= best + 1e-9
        wrong = certificate._replace(messages=messages, cycle_first=np.zeros(1, int))
        wrong = wrong._replace(cycle_amounts=np.zeros(0))
        assert float(exact_bound(wrong)) == pytest.approx(proved, abs=1e-9)


@pytest.mark.parametrize("noise", [1.0, 3.0, 6.0])
def test_between_the_trivial_bound_and_highs(noise):
    problem = planted_problem(1, 9, 9, noise=noise, **FEW)
    exact = find_bound(*problem, time_limit=30.0)
    dual = dual_bound(problem, 20)
    assert dual.trivial <= dual.lower <= exact.lower + 1e-6
    # Most of what the trivial bound lacks is won.
    assert exact.lower - dual.lower <= 0.25 * (exact.lower - dual.trivial) + 1e-6


def multicut_bound(edges, costs, budget=4):
    free = np.zeros((np.max(edges) + 1, 1))
    return dual_bound((free, edges, costs, [True]), budget).lower


# Instances of the test folders of LPMP and RAMA: edges, costs, the optimum. Their programs expect
# these lower bounds, too (of one of them that it is at least -1).
PUBLIC = {
    "triangle": ([[0, 1], [0, 2], [1, 2]], [-1.0, 1.0, 1.0], 0.0),
    "two triangles": ([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]], [1.0, 1.0, -1.5, 1.0, 1.0], 0.0),
    "two, hard": ([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]], [1.0, 1.0, -3.0, 1.0, 1.0], -1.0),
    "RAMA": ([[0, 1], [0, 2], [0, 3], [1, 3], [2, 3]], [1.0, 1.0, -2.0, 1.0, 1.0], 0.0),
    "RAMA's first": ([[0, 1], [0, 2], [1, 2]], [1.5, -3.0, 1.0], -2.0),
    "four": ([[0, 1], [1, 2], [2, 3], [3, 0]], [-1.0, 2.0, 1.0, 3.0], 0.0),
    "five": ([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]], [-1.0, 2.0, 1.0, 3.0, 2.0], 0.0),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_instances(name):
    edges, costs, best = PUBLIC[name]
    assert solve_multicut(edges, costs).energy == best
    assert solve_multicut(edges, costs, method="greedy").energy == best
    assert multicut_bound(edges, costs) == pytest.approx(best, abs=1e-9)


# The other weighted graphs of RAMA's test folder: edges, costs, and the optimum by hand or brute
# force. Its tests of contraction ask that the ends of some edges are not joined; so does this one.
OF_RAMA = {
    "cycles": (
        [[0, 1], [1, 2], [0, 2], [2, 3], [3, 4], [0, 3]]
        + [[2, 4], [0, 4], [3, 5], [4, 5], [5, 6], [4, 6]],
        [2.0, 3.0, -1.0, 4.0, 1.5, 5.0, 2.0, -2.0, -3.0, 2.0, -1.5, 0.5],
        [],
    ),
    "no conflict": ([[0, 1], [1, 2], [2, 3], [3, 0]], [-1.0, -2.0, 1.0, 3.0], []),
    "contraction of four": (
        [[0, 1], [1, 2], [1, 3], [0, 3], [0, 2]],
        [2.0, 3.0, 1.0, -3.0, -2.0],
        [(0, 2), (0, 3)],
    ),
    "contraction of six": (
        [[0, 1], [1, 2], [1, 3], [0, 3], [0, 2], [0, 4], [3, 4], [3, 5], [3, 2]],
        [2.0, 3.0, 1.0, -3.0, -2.0, 0.5, 0.75, 0.9, 0.8],
        [(0, 2), (0, 3)],
    ),
    "contraction with two ends": (
        [[0, 1], [1, 2], [1, 3], [0, 4], [3, 4], [3, 5], [3, 2], [1, 5], [0, 2], [0, 3]],
        [2.0, 3.0, 1.0, 0.5, 0.75, 0.9, 0.8, -2.0, -3.0, -1.0],
        [(1, 5), (0, 2), (0, 3)],
    ),
    "matching": ([[0, 1], [1, 2], [0, 2], [3, 0], [3, 1]], [2.0, 3.0, -1.0, 1.0, 2.0], []),
    "torch": ([[0, 1], [1, 2], [2, 0]], [1.1, -2.0, 3.0], []),
}


@pytest.mark.parametrize("name", OF_RAMA)
def test_other_public_instances_against_brute_force(name):
    edges, costs, apart = OF_RAMA[name]
    free = [[0.0]] * (np.max(edges) + 1)
    best = float(brute_force(free, edges, costs, [True]))
    for method in ("greedy", "auto"):
        found = solve_multicut(edges, costs, method=method)
        assert found.energy == pytest.approx(best, abs=1e-9)
        assert all(found.labels[u] != found.labels[v] for u, v in apart)
    bound = multicut_bound(edges, costs, 20)
    assert best - 1e-6 <= bound <= best + 1e-9


def test_a_long_cycle_needs_a_second_pass():
    """100 edges around, one of them negative: longer than the first pass looks."""
    edges = [[v, (v + 1) % 100] for v in range(100)]
    costs = [-2.0] + [3.0] * 99
    assert multicut_bound(edges, costs, 1) == pytest.approx(-2.0)
    assert multicut_bound(edges, costs, 5) == pytest.approx(0.0, abs=1e-9)


def test_costs_after_cycles_have_no_labelling_that_costs_more():
    """Each labelling of small multicuts, with costs that are multiples of 1/8: exact in float32."""
    changed = 0
    for seed in range(60):
        _, edges, costs, _ = random_problem(seed)
        problem, survey = survey_problem(np.zeros((6, 1), np.float32), edges, costs, [True])
        guide = solve_multicut(edges, costs, num_nodes=6).labels
        left_edges, left = costs_after_cycles(problem, survey, np.zeros(6, np.int32), guide)
        changed += abs(left).sum() < abs(merge_parallel(problem)[1]).sum()
        for _, labels in all_labellings(6, [True]):
            clusters = np.array(labels)
            before, after = (
                float(np.sum(c[clusters[e[:, 0]] != clusters[e[:, 1]]]))
                for e, c in ((problem.edges, problem.edge_costs), (left_edges, left))
            )
            assert after <= before
    assert changed >= 20


def test_of_stuff_and_of_things():
    """Two nodes of one class pay for being apart: outside P they cannot be, inside they can."""
    nodes = [[0.0, 9.0], [0.0, 9.0]]
    assert dual_bound((nodes, [[0, 1]], [-2.0], [False, True])).lower == pytest.approx(0.0)
    assert dual_bound((nodes, [[0, 1]], [-2.0], [True, True])).lower == pytest.approx(-2.0)
    # Two classes and an edge: one of 9 and 4 is paid.
    nodes = [[0.0, 9.0], [9.0, 0.0]]
    assert dual_bound((nodes, [[0, 1]], [4.0], [True, True])).lower == pytest.approx(4.0)


def test_never_nothing_and_magnitudes():
    never = [[0.0, np.inf], [np.inf, 1.0]]
    assert dual_bound((never, [[0, 1]], [100.0], [True, True])).lower == pytest.approx(101.0)
    alone = dual_bound(([[2.0, 1.0], [0.5, 3.0]], np.zeros((0, 2), int), [], [True, False]))
    assert alone.lower == pytest.approx(1.5)
    parallel = ([[0.0], [0.0]], [[0, 1], [1, 0]], [3.0, -5.0], [True])
    assert dual_bound(parallel).lower == pytest.approx(-2.0)
    for factor in (1e-30, 1e30):
        nodes, edges, costs, flags = random_problem(3)
        scaled = dual_bound((nodes * factor, edges, costs * factor, flags)).lower
        assert scaled == pytest.approx(factor * dual_bound((nodes, edges, costs, flags)).lower)


def test_hostile_costs_still_give_bounds():
    """Magnitudes from 1e-42 to 1e30, "never", ties: no bound is above what a solver has found."""
    for seed in range(30):
        for problem in random_batch(seed, 4, max_nodes=9).problems():
            found = solve_amwc(*problem, method="multilevel").energy
            bound = dual_bound(problem, 3)
            magnitude = np.abs(problem[0][np.isfinite(problem[0])]).sum(dtype=float)
            magnitude += np.abs(problem[2]).sum(dtype=float)
            assert np.isfinite(bound.lower) and bound.lower <= found + 1e-15 * magnitude


def test_the_gap_of_an_optimum_is_zero():
    """Where the bound is 0 up to rounding, a percentage of it is none."""
    edges = np.array([[0, 1], [1, 2]])
    bound = dual_bound((np.zeros((3, 1)), edges, [0.1, 0.2], [True]))
    assert -1e-14 < bound.lower <= 0.0 and bound.rounding < 1e-14
    assert bound.gap_percent(0.0) == 0.0 == bound.gap_percent(5e-17)
    assert bound.gap_percent(0.1) == np.inf
    assert gap_percent(-2.0, -1.0) == 50.0 and gap_percent(0.0, 0.0) == 0.0
    assert gap_percent(0.0, 3.0) == np.inf and gap_percent(-1.0, -1.0 + 1e-16, 1e-15) == 0.0
    for factor in (1e-30, 1e30):  # costs of any magnitude
        problem = (np.zeros((3, 1)), edges, np.array([0.1, 0.2]) * factor, [True])
        assert dual_bound(problem).gap_percent(0.0) == 0.0


def test_progress_and_wrong_arguments():
    seen = []
    bound = dual_bound(random_problem(1), 5, progress=lambda *values: seen.append(values))
    assert [passes for passes, _ in seen] == list(range(1, bound.passes + 1))
    assert seen[-1][1] == bound.lower and bound.certificate is None
    assert bound.gap_percent(bound.lower) == 0.0
    with pytest.raises(ValueError, match="budget must be at least 0"):
        dual_bound(random_problem(1), -1)
    with pytest.raises(ValueError, match=r"labels\[1\] must be 6 integers"):
        dual_bound(random_problem(1), labels=([0] * 6, [0] * 5))
