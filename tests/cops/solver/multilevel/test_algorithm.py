"""Multilevel local moving: every result is certified, compared with brute force, and repeatable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT

import cops.solver.multilevel.algorithm as multilevel
from cops.solver import energy, is_feasible, solve_amwc, solve_mwc
from cops.solver.greedy.algorithm import contract_greedily
from cops.solver.labelling import finish
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem, check_problem

Labels = np.ndarray
KINDS = ("normal", "signs", "small integers", "many zeros", "huge", "tiny", "mixed magnitudes")


def random_costs(generator: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    costs = generator.normal(size=shape)
    if kind == "signs":
        return np.sign(costs)
    if kind == "small integers":
        return generator.integers(-2, 3, shape).astype(np.float64)
    if kind == "many zeros":
        return np.where(generator.random(shape) < 0.6, 0.0, costs)
    if kind == "huge":
        return 1e6 * costs
    if kind == "tiny":
        return 1e-6 * costs
    if kind == "mixed magnitudes":
        return costs * 10.0 ** generator.integers(-6, 7, shape)
    return costs


def random_problem(seed: int, max_nodes: int = 12, max_classes: int = 4) -> Problem:
    """A small random graph with costs of some kind; parallel edges, no edge, any P may occur."""
    generator = np.random.default_rng(seed)
    num_nodes = int(generator.integers(1, max_nodes + 1))
    num_classes = int(generator.integers(1, max_classes + 1))
    num_edges = int(generator.integers(0, 3 * num_nodes + 1)) if num_nodes > 1 else 0
    first = generator.integers(0, num_nodes, num_edges)
    second = (first + generator.integers(1, max(num_nodes, 2), num_edges)) % num_nodes
    dtype = (np.float32, np.float64)[int(generator.integers(2))]
    # Edges and nodes may be of different kinds: large class costs with tiny edge costs and so on.
    node_costs = random_costs(generator, str(generator.choice(KINDS)), (num_nodes, num_classes))
    edge_costs = random_costs(generator, str(generator.choice(KINDS)), (num_edges,))
    partitionable = generator.random(num_classes) < generator.choice([0.0, 0.5, 1.0])
    return check_problem(
        node_costs.astype(dtype),
        np.stack([first, second], axis=1).astype(np.int32),
        edge_costs.astype(dtype),
        partitionable,
    )


def multilevel_amwc(*problem: np.ndarray, **options: int) -> tuple[Labels, Labels]:
    """Class and cluster of each node."""
    return solve_amwc(*problem, method="multilevel", **options)[:2]


def multilevel_mwc(*problem: np.ndarray, start: Labels | None = None, **options: int) -> Labels:
    """Class of each node."""
    return solve_mwc(*problem, method="multilevel", start=start, **options).node_classes


def cost_of(problem: Problem, classes: np.ndarray, clusters: np.ndarray) -> float:
    is_cut = clusters[problem.edges[:, 0]] != clusters[problem.edges[:, 1]]
    return energy(problem.node_costs, problem.edges, problem.edge_costs, classes, is_cut)


def trivial_costs(problem: Problem) -> tuple[float, float]:
    """Costs of every node alone in its best class (stuff joined), and of one cluster."""
    best = problem.node_costs.argmin(axis=1)
    nodes = np.arange(len(best))
    alone = np.where(problem.partitionable[best], len(problem.partitionable) + nodes, best)
    together = problem.node_costs.sum(axis=0, dtype=np.float64).min()
    return cost_of(problem, best, alone), float(together)


def certify(problem: Problem, classes: np.ndarray, clusters: np.ndarray) -> float:
    """Check all that a result promises; returns its cost."""
    assert classes.dtype == clusters.dtype == np.int32
    is_cut = clusters[problem.edges[:, 0]] != clusters[problem.edges[:, 1]]
    assert is_feasible(problem.edges, problem.partitionable, classes, clusters, is_cut)
    numbers, first_nodes = np.unique(clusters, return_index=True)
    assert np.array_equal(numbers, np.arange(len(numbers)))
    assert np.all(np.diff(first_nodes) > 0)  # numbered by first nodes
    cost = cost_of(problem, classes, clusters)
    assert np.isclose(cost, finish(problem, classes, clusters).energy)
    scale = np.abs(problem.node_costs).sum(dtype=np.float64)
    scale += np.abs(problem.edge_costs).sum(dtype=np.float64)
    assert cost <= min(trivial_costs(problem)) + 1e-12 * scale
    return cost


def labellings(problem: Problem) -> Iterator[tuple[list[int], list[int]]]:
    """All feasible labellings (classes of the clusters, cluster of each node), by recursion."""
    num_nodes, num_classes = problem.node_costs.shape

    def extend(cluster_classes: list[int], clusters: list[int]) -> Iterator:
        if len(clusters) == num_nodes:
            yield cluster_classes, clusters
            return
        for c in range(len(cluster_classes)):
            yield from extend(cluster_classes, [*clusters, c])
        for k in range(num_classes):
            if problem.partitionable[k] or k not in cluster_classes:
                yield from extend([*cluster_classes, k], [*clusters, len(cluster_classes)])

    yield from extend([], [])


def brute_force(problem: Problem) -> float:
    return min(
        cost_of(problem, np.array(classes)[clusters], np.array(clusters))
        for classes, clusters in labellings(problem)
    )


def test_many_random_problems_are_solved_feasibly_and_no_worse_than_trivially() -> None:
    for seed in range(1500):
        problem = random_problem(seed)
        certify(problem, *multilevel_amwc(*problem, refine=seed % 4))


def test_larger_random_problems() -> None:
    for seed in range(150):
        problem = random_problem(10_000 + seed, max_nodes=400, max_classes=9)
        certify(problem, *multilevel_amwc(*problem, refine=seed % 3))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.sampled_from([-1, 0, 1, 2]))),
    st.lists(st.integers(-1, 1), min_size=36, max_size=36),
    st.integers(0, 15),
    st.integers(0, 3),
)
def test_problems_full_of_ties(num_nodes, num_classes, triples, costs, flags, refine) -> None:
    triples = [(a % num_nodes, b % num_nodes, c) for a, b, c in triples]
    triples = [(a, b, c) for a, b, c in triples if a != b]
    problem = check_problem(
        np.array(costs[: num_nodes * num_classes], np.float32).reshape(num_nodes, num_classes),
        np.array([(a, b) for a, b, _ in triples], np.int32).reshape(-1, 2),
        np.array([c for _, _, c in triples], np.float32),
        np.array([bool(flags >> k & 1) for k in range(num_classes)]),
    )
    certify(problem, *multilevel_amwc(*problem, refine=refine))


def test_gap_to_the_optimum_is_small() -> None:
    gaps = {refine: [] for refine in (0, 1, 3)}
    for seed in range(250):
        problem = random_problem(20_000 + seed, max_nodes=6, max_classes=3)
        optimum = brute_force(problem)
        span = abs(optimum) + 1e-9
        for refine, found in gaps.items():
            cost = certify(problem, *multilevel_amwc(*problem, refine=refine))
            assert cost >= optimum - 1e-6 * span
            found.append((cost - optimum) / span)
    solved = {refine: np.mean(np.array(found) < 1e-6) for refine, found in gaps.items()}
    # Random signs without structure are the hardest there is; most are solved to optimality.
    assert solved[0] > 0.6 and solved[1] > 0.75 and solved[3] >= solved[1], solved


def test_hand_worked_example() -> None:
    """Five nodes in a row; class 0 is a thing, class 1 stuff.

    Nodes 0, 1 and 3, 4 want class 0 (saving 5 each) and their neighbour (saving 4). Node 2 wants
    class 1 (saving 5), and the long edge 1-3 wants to be cut. Clusters {0, 1}, {2}, {3, 4}: all
    node costs are 0, and edges 1-2 (1), 2-3 (1) and 1-3 (-3) are cut, which costs 1 + 1 - 3 = -1.
    Uncut edges 1-2 and 2-3 would save 2, but cost 5 for the class of node 2 and 3 for edge 1-3.
    """
    problem = check_problem(
        np.array([[0, 5], [0, 5], [5, 0], [0, 5], [0, 5]], np.float32),
        np.array([[0, 1], [1, 2], [2, 3], [3, 4], [3, 1]], np.int32),
        np.array([4, 1, 1, 4, -3], np.float32),
        np.array([True, False]),
    )
    for refine in range(3):
        classes, clusters = multilevel_amwc(*problem, refine=refine)
        assert classes.tolist() == [0, 0, 1, 0, 0]
        assert clusters.tolist() == [0, 0, 1, 2, 2]
        assert certify(problem, classes, clusters) == -1.0


def test_stuff_rule_holds_across_the_image() -> None:
    """Two far apart groups of one stuff class are one cluster: a repelling edge stays uncut."""
    problem = check_problem(
        np.array([[0, 9], [0, 9], [9, 0], [0, 9], [0, 9]], np.float32),
        np.array([[0, 1], [3, 4], [0, 4]], np.int32),
        np.array([1, 1, -2], np.float32),
        np.array([False, False]),
    )
    classes, clusters = multilevel_amwc(*problem)
    assert clusters.tolist() == [0, 0, 1, 0, 0]
    # Cutting 0-4 would gain 2 and cost 9 for another class.
    assert certify(problem, classes, clusters) == 0.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("num_nodes", [1, 2, 7])
@pytest.mark.parametrize("flags", [[True], [False], [True, True], [False, False]])
def test_degenerate_problems(sign: float, num_nodes: int, flags: list[bool]) -> None:
    pairs = np.array([(a, b) for b in range(num_nodes) for a in range(b)], np.int32).reshape(-1, 2)
    for edges in (pairs, pairs[:0]):
        problem = check_problem(
            np.zeros((num_nodes, len(flags))), edges, np.full(len(edges), sign), np.array(flags)
        )
        for refine in range(3):
            cost = certify(problem, *multilevel_amwc(*problem, refine=refine))
            repelled = sign < 0 and (flags[0] or len(flags) >= num_nodes)
            if repelled:  # all nodes can be alone
                assert cost == -len(edges)
            if sign > 0:
                assert cost == 0.0


def test_node_costs_are_relative_to_their_row() -> None:
    """A constant on a row changes no labelling, however large against the differences."""
    problem = planted_problem(3, 12, 16, 5, (1, 4), 3.0)
    shift = np.random.default_rng(0).integers(-1000, 1000, (192, 1)) * 1024.0
    shifted = problem._replace(node_costs=problem.node_costs.astype(np.float64) + shift)
    plain = multilevel_amwc(*problem)
    moved = multilevel_amwc(*shifted)
    assert all(np.array_equal(a, b) for a, b in zip(plain, moved, strict=True))


def test_extreme_magnitudes_do_not_overflow_float32() -> None:
    problem = planted_problem(3, 12, 16, 5, (1, 4), 3.0)
    plain = multilevel_amwc(*problem)
    for power in (-900, -200, 100, 900):
        factor = 2.0**power
        scaled = problem._replace(
            node_costs=problem.node_costs.astype(np.float64) * factor,
            edge_costs=problem.edge_costs.astype(np.float64) * factor,
        )
        labels = multilevel_amwc(*scaled)
        assert all(np.array_equal(a, b) for a, b in zip(plain, labels, strict=True)), power


def test_float32_and_float64_give_the_same_labels() -> None:
    for seed in range(5):
        problem = planted_problem(seed, 16, 24, 7, (1, 4, 8), 4.0)
        double = problem._replace(
            node_costs=problem.node_costs.astype(np.float64),
            edge_costs=problem.edge_costs.astype(np.float64),
        )
        single = multilevel_amwc(*problem)
        assert all(
            np.array_equal(a, b) for a, b in zip(single, multilevel_amwc(*double), strict=True)
        )


def test_input_may_be_read_only_and_is_left_alone() -> None:
    problem = planted_problem(1, 10, 14, 5, (1, 4), 3.0)
    copies = [array.copy() for array in problem]
    plain = multilevel_amwc(*problem)
    for array in problem:
        array.flags.writeable = False
    frozen = multilevel_amwc(*problem)
    assert all(np.array_equal(a, b) for a, b in zip(problem, copies, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(plain, frozen, strict=True))


def test_result_depends_neither_on_the_call_nor_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multilevel, "NODES_PER_RANGE", 100)
    problem = planted_problem(5, 30, 40, 9, (1, 4, 8), 5.0)
    results = [multilevel_amwc(*problem, num_threads=threads) for threads in (1, 2, 5, 1, 2)]
    for classes, clusters in results:
        assert np.array_equal(classes, results[0][0])
        assert np.array_equal(clusters, results[0][1])
    certify(problem, *results[0])


def test_ranges_cost_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = planted_problem(5, 48, 64, 9, (1, 4, 16), 3.0)
    whole = certify(problem, *multilevel_amwc(*problem))
    monkeypatch.setattr(multilevel, "NODES_PER_RANGE", 400)
    assert certify(problem, *multilevel_amwc(*problem)) <= whole + 2e-3 * abs(whole)


def test_each_cycle_improves_and_noise_is_handled_better_than_by_greed() -> None:
    relative = []
    for seed in range(6):
        problem = planted_problem(seed, 40, 64, 11, (1, 4, 16), 6.0)
        costs = [certify(problem, *multilevel_amwc(*problem, refine=r)) for r in range(4)]
        slack = 1e-6 * abs(costs[0])
        assert all(later <= sooner + slack for sooner, later in zip(costs, costs[1:], strict=False))
        greedy = finish(problem, *contract_greedily(problem)).energy
        relative.append((greedy - costs[1]) / abs(greedy))
    assert np.mean(relative) > 0.004, relative  # 0.4 % better on average
    assert min(relative) > 0.0, relative


def test_little_noise_is_recovered() -> None:
    for seed in range(4):
        problem = planted_problem(seed, 48, 80, 11, (1, 4, 16), 1.0)
        cost = certify(problem, *multilevel_amwc(*problem, refine=0))
        greedy = finish(problem, *contract_greedily(problem)).energy
        assert cost <= greedy + 1e-6 * abs(greedy)


def test_mwc_has_one_cluster_a_class() -> None:
    for seed in range(300):
        problem = random_problem(30_000 + seed)
        problem = problem._replace(partitionable=np.zeros_like(problem.partitionable))
        classes = multilevel_mwc(*problem[:3], refine=seed % 3)
        cost = cost_of(problem, classes, classes)
        assert classes.dtype == np.int32
        assert cost <= min(trivial_costs(problem)) + 1e-9 * abs(cost)


def test_warm_start_is_never_made_worse() -> None:
    generator = np.random.default_rng(0)
    for seed in range(300):
        problem = random_problem(40_000 + seed, max_nodes=30)
        num_nodes, num_classes = problem.node_costs.shape
        start = generator.integers(0, num_classes, num_nodes).astype(np.int32)
        kept = start.copy()
        classes = multilevel_mwc(*problem[:3], start=start, refine=seed % 3)
        cost, cost_of_start = cost_of(problem, classes, classes), cost_of(problem, start, start)
        assert np.array_equal(start, kept)
        assert cost <= cost_of_start + 1e-12 * abs(cost_of_start)


def test_warm_start_from_the_solution_keeps_or_improves_it() -> None:
    problem = planted_problem(2, 32, 48, 9, (1, 4, 16), 4.0)
    cold = multilevel_mwc(*problem[:3], refine=2)
    warm = multilevel_mwc(*problem[:3], start=cold)
    assert cost_of(problem, warm, warm) <= cost_of(problem, cold, cold)
    assert np.mean(cold == warm) > 0.95


@pytest.mark.parametrize("keywords", [{"refine": -1}, {"num_threads": 0}])
def test_nonsense_counts_are_refused(keywords: dict[str, int]) -> None:
    problem = random_problem(0)
    with pytest.raises(ValueError, match=next(iter(keywords))):
        multilevel_amwc(*problem, **keywords)
    with pytest.raises(ValueError, match=next(iter(keywords))):
        multilevel_mwc(*problem[:3], **keywords)


def solve_a_few() -> list[list[int]]:
    """Labels of some small problems; run compiled and with JIT off."""
    labels = []
    for seed in range(40):
        problem = random_problem(seed)
        for part in multilevel_amwc(*problem, refine=2):
            labels.append(part.tolist())
        labels.append(multilevel_mwc(*problem[:3], start=problem.node_costs.argmin(1)).tolist())
    problem = planted_problem(1, 8, 10, 4, (1, 4), 4.0)
    labels.extend(part.tolist() for part in multilevel_amwc(*problem, refine=2))
    return labels


def test_same_labels_with_jit_off() -> None:
    command = "import test_algorithm as t; print(t.solve_a_few())"
    here = Path(__file__).parent
    folders = os.pathsep.join([str(here), str(ROOT / "tests/support")])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": folders}
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(solve_a_few())
