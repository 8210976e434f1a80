"""Greedy contraction against Algorithm 2 as printed, in fractions, and against brute force."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial

import naive_solver
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT

import cops.solver
from cops.solver import energy, is_feasible

solve_amwc = partial(cops.solver.solve_amwc, method="greedy")
solve_mwc = partial(cops.solver.solve_mwc, method="greedy")

WITHOUT_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
EXAMPLES = 15 if WITHOUT_JIT else 150


@st.composite
def exact_problems(draw, max_nodes: int = 9, never: bool = False):
    """Small problems whose sums are exact in float64; ties, zeros and parallel edges abound."""
    num_nodes = draw(st.integers(1, max_nodes))
    num_classes = draw(st.integers(1, 4))
    unit = draw(st.sampled_from([1.0, 0.125]))
    number = st.integers(-12, 12).map(lambda n: n * unit)
    node_costs = draw(
        st.lists(
            st.lists(number, min_size=num_classes, max_size=num_classes),
            min_size=num_nodes,
            max_size=num_nodes,
        )
    )
    nodes = np.array(node_costs)
    if never:
        forbidden = draw(st.lists(st.booleans(), min_size=nodes.size, max_size=nodes.size))
        allowed = draw(st.integers(0, num_classes - 1))
        mask = np.array(forbidden).reshape(nodes.shape)
        mask[:, allowed] &= np.arange(num_nodes) % 2 == 1  # even nodes may take this class
        mask[mask.all(axis=1)] = False
        nodes[mask] = np.inf
    pair = st.tuples(st.integers(0, num_nodes - 1), st.integers(0, num_nodes - 1))
    pairs = draw(st.lists(pair.filter(lambda p: p[0] != p[1]), max_size=25 if num_nodes > 1 else 0))
    costs = draw(st.lists(number, min_size=len(pairs), max_size=len(pairs)))
    flags = draw(st.lists(st.booleans(), min_size=num_classes, max_size=num_classes))
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return nodes, edges, np.array(costs, dtype=np.float64), np.array(flags)


def random_problem(seed: int, num_nodes: int, num_edges: int, num_classes: int = 4):
    """A problem without ties."""
    rng = np.random.default_rng(seed)
    edges = np.array([rng.choice(num_nodes, 2, replace=False) for _ in range(num_edges)])
    nodes = 2.0 * rng.normal(size=(num_nodes, num_classes))
    return nodes, edges, rng.normal(0.3, 1.0, num_edges), rng.random(num_classes) < 0.5


def assert_equals_naive(problem, result) -> None:
    """The same labelling and energy as the printed algorithm, and a feasible one."""
    nodes, edges, costs, partitionable = problem
    classes, clusters = naive_solver.greedy(nodes, edges, costs, partitionable)
    number: dict[int, int] = {}
    numbered = [number.setdefault(cluster, len(number)) for cluster in clusters]
    assert result.node_classes.tolist() == classes
    assert result.node_clusters.tolist() == numbered
    assert result.is_cut.tolist() == naive_solver.naive_is_cut(edges, clusters)
    expected = float(naive_solver.energy(nodes, edges, costs, classes, clusters))
    assert result.energy == pytest.approx(expected, abs=1e-9)
    assert result.energy == energy(nodes, edges, costs, result.node_classes, result.is_cut)
    assert is_feasible(edges, partitionable, *result[:3])


@settings(max_examples=EXAMPLES, deadline=None)
@given(problem=exact_problems())
def test_equals_the_printed_algorithm_ties_included(problem):
    assert_equals_naive(problem, solve_amwc(*problem))


@settings(max_examples=EXAMPLES, deadline=None)
@given(problem=exact_problems(never=True))
def test_equals_the_printed_algorithm_with_infinity(problem):
    assert_equals_naive(problem, solve_amwc(*problem))


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(problem=exact_problems())
def test_mwc_is_amwc_without_partitionable_classes(problem):
    nodes, edges, costs, flags = problem
    assert_equals_naive((nodes, edges, costs, np.zeros_like(flags)), solve_mwc(nodes, edges, costs))


@pytest.mark.parametrize("seed", range(4 if WITHOUT_JIT else 40))
def test_equals_the_printed_algorithm_where_no_ties_are(seed):
    problem = random_problem(seed, num_nodes=8 + seed, num_edges=10 + 3 * seed)
    assert_equals_naive(problem, solve_amwc(*problem))


def dense_problem(seed: int):
    """Clusters with many neighbours whose classes change, where bounds on penalties must fall."""
    rng = np.random.default_rng(seed)
    num_nodes = int(rng.choice([10, 16, 24]))
    num_classes = int(rng.choice([3, 5, 8]))
    density = rng.choice([0.15, 0.3, 0.6])
    mean = rng.choice([0.3, 0.8, 1.5])
    scale = rng.choice([0.3, 1.0, 3.0])
    pairs = [(i, j) for i in range(num_nodes) for j in range(i) if rng.random() < density]
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    nodes = rng.normal(size=(num_nodes, num_classes)) * scale
    return nodes, edges, rng.normal(mean, 1.0, len(edges)), rng.random(num_classes) < 0.5


# On most seeds a bound that is forgotten, or is lowered for one end of an edge only, changes
# nothing. The large seeds are some of the few among 1500 where it does. Each was seen to fail for
# such a mistake.
@pytest.mark.parametrize("seed", [*range(3 if WITHOUT_JIT else 20), 73, 113, 192, 771, 1042, 1211])
def test_equals_the_printed_algorithm_on_dense_graphs(seed):
    problem = dense_problem(seed)
    assert_equals_naive(problem, solve_amwc(*problem))


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(problem=exact_problems(max_nodes=5))
def test_never_below_the_optimum(problem):
    assert solve_amwc(*problem).energy >= float(naive_solver.brute_force(*problem)) - 1e-9


@settings(max_examples=EXAMPLES, deadline=None)
@given(problem=exact_problems(max_nodes=2))
def test_two_nodes_of_partitionable_classes_are_solved_to_the_optimum(problem):
    # With one edge, contracting it or not are the only choices, and the similarity decides rightly.
    nodes, edges, costs, flags = problem
    everything = np.ones_like(flags)
    optimum = float(naive_solver.brute_force(nodes, edges, costs, everything))
    assert solve_amwc(nodes, edges, costs, everything).energy == pytest.approx(optimum, abs=1e-9)


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(problem=exact_problems(), seed=st.integers(0, 100))
def test_orientation_of_edges_plays_no_part(problem, seed):
    nodes, edges, costs, flags = problem
    turned = np.random.default_rng(seed).random(len(edges)) < 0.5
    other = np.where(turned[:, None], edges[:, ::-1], edges)
    for ours, theirs in zip(
        solve_amwc(nodes, edges, costs, flags), solve_amwc(nodes, other, costs, flags), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_parallel_edges_are_one_edge_with_the_sum():
    problem = random_problem(3, num_nodes=12, num_edges=30)
    nodes, edges, costs, flags = problem
    # Each edge as three: one turned round, with shares of 1/2, 3/4 and -1/4 of the cost.
    parts = np.concatenate([costs / 2, costs * 0.75, costs * -0.25])
    tripled = np.concatenate([edges, edges[:, ::-1], edges])
    expected = solve_amwc(nodes, edges, costs, flags)
    result = solve_amwc(nodes, tripled, parts, flags)
    np.testing.assert_array_equal(result.node_clusters, expected.node_clusters)
    assert result.energy == pytest.approx(expected.energy, abs=1e-9)


# The rules that the printed algorithm leaves open.


def test_similarity_of_zero_contracts():
    nodes = [[0.0], [0.0]]
    assert solve_amwc(nodes, [[0, 1]], [0.0], [True]).node_clusters.tolist() == [0, 0]
    assert solve_amwc(nodes, [[0, 1]], [-1e-300], [True]).node_clusters.tolist() == [0, 1]
    # c_E = 2 and both would have to leave a class that is better by 1: 2 - 1 - 1 = 0.
    nodes = [[0.0, 1.0, 5.0], [5.0, 1.0, 0.0]]
    result = solve_amwc(nodes, [[0, 1]], [2.0], [True, True, True])
    assert result.node_clusters.tolist() == [0, 0] and result.node_classes.tolist() == [1, 1]


@pytest.mark.parametrize("first", [0, 1])
def test_equal_similarities_contract_in_the_order_of_the_edges(first):
    # Node 1 can join 0 or 2, not both: they want to be apart by more than an edge would pay.
    edges = [[0, 1], [1, 2], [0, 2]] if first == 0 else [[1, 2], [0, 1], [0, 2]]
    result = solve_amwc(np.zeros((3, 1)), edges, [1.0, 1.0, -3.0], [True])
    assert result.node_clusters.tolist() == ([0, 0, 1] if first == 0 else [0, 1, 1])


@pytest.mark.parametrize("summed_first", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
def test_a_summed_edge_has_the_smallest_index_of_its_parts(summed_first, swapped):
    # 0-1 is contracted first (9). Then {0,1}-2 pays 1 + 1 and ties with 3-2, which pays 2; node 2
    # cannot join both, since 0 and 3 want to be apart. The index of the tie's winner is 0.
    parts = [[0, 2], [1, 2]][:: -1 if swapped else 1]
    if summed_first:
        edges, costs = [parts[0], [3, 2], [0, 1], parts[1], [3, 0]], [1.0, 2.0, 9.0, 1.0, -50.0]
    else:
        edges, costs = [[3, 2], parts[0], [0, 1], parts[1], [3, 0]], [2.0, 1.0, 9.0, 1.0, -50.0]
    result = solve_amwc(np.zeros((4, 1)), edges, costs, [True])
    assert result.node_clusters.tolist() == ([0, 0, 0, 1] if summed_first else [0, 0, 1, 1])


def test_equal_classes_the_lowest_wins():
    assert solve_amwc([[1.0, 1.0, 0.0, 0.0]], [], [], [True] * 4).node_classes.tolist() == [2]


def test_largest_similarity_goes_first():
    # 1-2 (5) before 0-1 (4): then {1,2} and 0 are joined by 4 - 6 = -2 and stay apart.
    result = solve_amwc(np.zeros((3, 1)), [[0, 1], [1, 2], [0, 2]], [4.0, 5.0, -6.0], [True])
    assert result.node_clusters.tolist() == [0, 1, 1] and result.energy == -2.0


def test_stuff_becomes_one_segment_and_what_that_costs():
    # Both ends of the row are stuff (class 1), apart for a gain of 3, or not even neighbours.
    nodes = [[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]
    edges, costs = [[0, 1], [1, 2], [2, 3]], [-3.0, 1.0, 1.0]
    free = solve_amwc(nodes, edges, costs, [True, True])
    joined = solve_amwc(nodes, edges, costs, [True, False])
    assert free.node_clusters.tolist() == [0, 1, 2, 3] and free.energy == -1.0
    assert joined.node_clusters.tolist() == [0, 0, 1, 0]
    assert joined.energy == free.energy + 3.0


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(problem=exact_problems())
def test_joining_stuff_never_lowers_the_energy(problem):
    nodes, edges, costs, flags = problem
    free = solve_amwc(nodes, edges, costs, np.ones_like(flags))
    joined = solve_amwc(nodes, edges, costs, flags)
    np.testing.assert_array_equal(joined.node_classes, free.node_classes)
    # What it costs are the edges that were cut and no longer are.
    price = -costs[free.is_cut & ~joined.is_cut].sum()
    assert not (joined.is_cut & ~free.is_cut).any()
    assert price >= 0.0 and joined.energy == pytest.approx(free.energy + price, abs=1e-9)


@pytest.mark.parametrize("flags", [[True, True], [False, False]], ids=["P everything", "P empty"])
def test_degenerate_graphs(flags):
    one = solve_amwc([[2.0, 1.0]], np.zeros((0, 2)), np.zeros(0), flags)
    assert one.node_classes.tolist() == [1] and one.is_cut.shape == (0,) and one.energy == 1.0
    apart = solve_amwc([[0.0, 1.0]] * 3, [], [], flags)
    assert apart.node_clusters.tolist() == ([0, 1, 2] if flags[0] else [0, 0, 0])
    assert apart.energy == 0.0
    # Two parts of the graph without a connection.
    split = solve_amwc([[0.0, 1.0]] * 4, [[0, 1], [2, 3]], [1.0, 1.0], flags)
    assert split.node_clusters.tolist() == ([0, 0, 1, 1] if flags[0] else [0, 0, 0, 0])


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e290])
def test_magnitude_plays_no_part(scale):
    nodes, edges, costs, flags = random_problem(7, num_nodes=15, num_edges=40)
    scale = 2.0 ** np.round(np.log2(scale))  # exact
    expected = solve_amwc(nodes, edges, costs, flags)
    result = solve_amwc(nodes * scale, edges, costs * scale, flags)
    np.testing.assert_array_equal(result.node_clusters, expected.node_clusters)


def test_one_cost_far_above_all_others():
    """All other edges share one bucket of the queue, which then is a plain heap."""
    problem = random_problem(11, num_nodes=20, num_edges=60)
    problem[2][5] = 1e12
    assert_equals_naive(problem, solve_amwc(*problem))


def test_the_same_without_jit():
    """This file again as plain Python: kernels must not rely on what only compiled code does."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        [*command, "-k", "not without_jit"],  # or it would start itself for ever
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed, 1 deselected", run.stdout)
    assert passed and int(passed[1]) >= 30, run.stdout
