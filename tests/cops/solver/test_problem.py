"""The problem, its checks, energy and feasibility, and what the public functions accept."""

from __future__ import annotations

import doctest
import math

import naive_solver
import numpy as np
import pytest
import torch
from project import ROOT

import cops.solver
from cops.solver import check_problem, energy, is_feasible, solve_amwc, solve_mwc
from cops.solver.labelling import finish

NODES = np.array([[0.0, 2.0], [1.0, 0.0], [3.0, 3.5]])
EDGES = np.array([[0, 1], [1, 2], [2, 0]])
COSTS = np.array([1.0, -2.0, 0.5])
PARTITIONABLE = np.array([True, False])


def changed(array: np.ndarray, index, value) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


def test_docstring_examples():
    assert doctest.testmod(cops.solver).failed == 0


def test_energy_of_a_worked_example():
    # Classes 0, 1, 0 cost 0 + 0 + 3; edges 0 and 1 are cut: 1 - 2; together 2.
    assert energy(NODES, EDGES, COSTS, [0, 1, 0], [True, True, False]) == 2.0
    # Cut flags are taken at their word, whatever the classes say.
    assert energy(NODES, EDGES, COSTS, [0, 1, 0], [False, False, False]) == 3.0


def test_energy_sums_float32_costs_in_float64():
    # One million times float32(0.1), plus 2^24: in float32 the small ones would be lost or drift.
    nodes = np.full((1_000_001, 1), 0.1, dtype=np.float32)
    nodes[0] = 2.0**24
    edges = np.zeros((0, 2), dtype=np.int32)
    total = energy(nodes, edges, np.zeros(0), np.zeros(len(nodes), int), np.zeros(0, bool))
    assert total == pytest.approx(2.0**24 + 1e6 * float(np.float32(0.1)), rel=1e-12)


def test_energy_needs_a_flag_for_each_edge():
    with pytest.raises(ValueError, match="equally many"):
        energy(NODES, EDGES, COSTS, [0, 1, 0], [True])


@pytest.mark.parametrize(
    ("classes", "clusters", "is_cut", "feasible"),
    [
        ([0, 1, 0], [0, 1, 0], [True, True, False], True),
        ([0, 1, 0], [0, 1, 2], [True, True, True], True),  # class 0 may have two clusters
        ([1, 0, 1], [0, 1, 2], [True, True, True], False),  # class 1 may not
        ([1, 0, 1], [0, 1, 0], [True, True, False], True),
        ([0, 1, 0], [0, 0, 0], [False, False, False], False),  # one cluster, two classes
        ([0, 1, 0], [0, 1, 0], [True, True, True], False),  # cut inside a cluster
        ([0, 1, 0], [0, 1, 2], [True, True, False], False),  # not cut between two
        ([0, 2, 0], [0, 1, 0], [True, True, False], False),  # no such class
        ([0, -1, 0], [0, 1, 0], [True, True, False], False),
        ([0, 1], [0, 1], [True, True, False], True),  # shapes: see below
    ],
)
def test_feasibility(classes, clusters, is_cut, feasible):
    if len(classes) == 2:
        assert not is_feasible(EDGES, PARTITIONABLE, classes, [0, 1, 0], is_cut)
        assert not is_feasible(EDGES, PARTITIONABLE, [0, 1, 0], [0, 1, 0], is_cut[:2])
        return
    assert is_feasible(EDGES, PARTITIONABLE, classes, clusters, is_cut) == feasible


def test_brute_force_labellings_are_the_feasible_ones():
    # Two classes, class 0 partitionable, three nodes. For each set of nodes that take class 1 (one
    # cluster), the others are divided freely: sum of C(3, m) Bell(m) = 1 + 3 * 1 + 3 * 2 + 5 = 15.
    labellings = list(naive_solver.all_labellings(3, PARTITIONABLE))
    assert len(labellings) == 15
    for classes, clusters in labellings:
        cut = naive_solver.naive_is_cut(EDGES, clusters)
        assert is_feasible(EDGES, PARTITIONABLE, classes, clusters, cut)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NODES[0], EDGES, COSTS, PARTITIONABLE), r"node_costs must have shape \(V, K\)"),
        ((NODES[:0], EDGES[:0], COSTS[:0], PARTITIONABLE), "at least one node"),
        ((NODES[:, :0], EDGES, COSTS, PARTITIONABLE[:0]), "K is 0"),
        ((changed(NODES, (1, 1), np.nan), EDGES, COSTS, PARTITIONABLE), r"\[1, 1\] is NaN"),
        ((changed(NODES, (2, 0), -np.inf), EDGES, COSTS, PARTITIONABLE), r"\+inf instead"),
        ((changed(NODES, 2, np.inf), EDGES, COSTS, PARTITIONABLE), r"node_costs\[2\] is \+inf for"),
        ((NODES, EDGES[:, :1], COSTS, PARTITIONABLE), r"edges must have shape \(E, 2\)"),
        ((NODES, changed(EDGES, (1, 0), 3), COSTS, PARTITIONABLE), r"edges\[1\] = \[3, 2\] names"),
        ((NODES, changed(EDGES, (2, 1), -1), COSTS, PARTITIONABLE), r"edges\[2\] .*outside 0 .. 2"),
        ((NODES, changed(EDGES, (2, 1), 2), COSTS, PARTITIONABLE), "node 2 to itself"),
        ((NODES, EDGES, COSTS[:2], PARTITIONABLE), r"edge_costs must have shape \(3,\)"),
        ((NODES, EDGES, changed(COSTS, 1, np.nan), PARTITIONABLE), r"edge_costs\[1\] is nan"),
        ((NODES, EDGES, changed(COSTS, 2, np.inf), PARTITIONABLE), "must be finite"),
        ((NODES, EDGES, COSTS, PARTITIONABLE[:1]), "2 bools, one per class"),
        ((NODES, EDGES, COSTS, [0]), "not a list of class numbers"),
        ((NODES, EDGES, COSTS, [0, 1]), "bools"),
        ((NODES * 1e300, EDGES, COSTS, PARTITIONABLE), "too large"),
        ((NODES, EDGES, COSTS * 1e300, PARTITIONABLE), "too large"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_amwc(*arguments)
    with pytest.raises(ValueError, match=message):
        solve_amwc(*arguments, method="multilevel")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NODES.astype(complex), EDGES, COSTS, PARTITIONABLE), "node_costs must hold real numbers"),
        ((NODES, EDGES.astype(float), COSTS, PARTITIONABLE), "edges must hold integers"),
        ((NODES, EDGES, COSTS.astype(str), PARTITIONABLE), "edge_costs must hold real numbers"),
    ],
)
def test_types_that_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        check_problem(*arguments)


def test_infinities_of_both_signs_are_found():
    # Their sum is NaN, which must not be mistaken for one.
    nodes = NODES.copy()
    nodes[0], nodes[1, 0] = [np.inf, 0.0], -np.inf
    with pytest.raises(ValueError, match=r"node_costs\[1, 0\] is -inf"):
        check_problem(nodes, EDGES, COSTS)


def test_what_fits_is_not_copied():
    nodes, costs = NODES.astype(np.float32), COSTS.astype(np.float32)
    edges = EDGES.astype(np.int32)
    problem = check_problem(nodes, edges, costs, PARTITIONABLE)
    for ours, given in zip(problem, (nodes, edges, costs, PARTITIONABLE), strict=True):
        assert np.shares_memory(ours, given)


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.tolist(),
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: a.astype({"f": np.float32, "i": np.int16, "b": bool}[a.dtype.kind]),
        lambda a: a.astype({"f": np.float16, "i": np.uint64, "b": bool}[a.dtype.kind]),
        lambda a: torch.from_numpy(a.copy()),
        lambda a: np.broadcast_to(a, a.shape),  # read-only
    ],
    ids=["lists", "fortran", "strided", "swapped", "small", "half", "torch", "readonly"],
)
def test_any_form_of_the_same_numbers_gives_the_same_result(convert):
    expected = solve_amwc(NODES, EDGES, COSTS, PARTITIONABLE)
    before = NODES.copy(), EDGES.copy(), COSTS.copy()
    result = solve_amwc(*(convert(a) for a in (NODES, EDGES, COSTS, PARTITIONABLE)))
    for ours, theirs in zip(result, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for now, then in zip((NODES, EDGES, COSTS), before, strict=True):
        np.testing.assert_array_equal(now, then)  # the input is only read


def test_integer_costs_are_numbers_too():
    result = solve_amwc([[0, 2], [1, 0]], [[0, 1]], [5], [True, False])
    assert result.node_classes.tolist() == [0, 0] and result.energy == 1.0


def test_clusters_are_numbered_by_their_first_nodes_and_stuff_is_joined():
    problem = check_problem(np.zeros((6, 2)), EDGES, COSTS, PARTITIONABLE)
    result = finish(problem, np.array([0, 1, 0, 1, 0, 0]), np.array([5, 1, 2, 3, 5, 2]))
    assert result.node_clusters.tolist() == [0, 1, 2, 1, 0, 2]
    assert [a.dtype for a in result[:3]] == [np.int32, np.int32, bool]
    assert isinstance(result.energy, float) and math.isfinite(result.energy)


def test_methods_and_starts_are_checked():
    with pytest.raises(ValueError, match="greedy, multilevel, auto, not 'fast'"):
        solve_amwc(NODES, EDGES, COSTS, PARTITIONABLE, method="fast")
    with pytest.raises(ValueError, match="greedy, multilevel, auto, not 'fast'"):
        solve_mwc(NODES, EDGES, COSTS, method="fast")
    with pytest.raises(ValueError, match="greedy method has no start"):
        solve_mwc(NODES, EDGES, COSTS, method="greedy", start=[0, 0, 0])
    for start, message in (
        ([0, 0], "3 integers"),
        ([0, 0, 2], r"0 \.\. 1"),
        ([0, -1, 0], "0 .. 1"),
    ):
        with pytest.raises(ValueError, match=message):
            solve_mwc(NODES, EDGES, COSTS, method="multilevel", start=start)


@pytest.mark.parametrize("method", cops.solver.METHODS)
def test_infinity_means_never(method):
    # Both like class 0 best among all, but node 1 must not take it; the edge wants them together.
    nodes = [[0.0, 3.0, 9.0], [np.inf, np.inf, 1.0]]
    together = solve_amwc(nodes, [[0, 1]], [20.0], [True, True, True], method=method)
    assert together.node_classes.tolist() == [2, 2] and together.energy == 10.0
    apart = solve_amwc(nodes, [[0, 1]], [5.0], [True, True, True], method=method)
    assert apart.node_classes.tolist() == [0, 2] and apart.energy == 6.0
    # No class is left for both: however much the edge pays, they stay apart.
    nodes = [[0.0, np.inf], [np.inf, 0.0]]
    result = solve_amwc(nodes, [[0, 1]], [1e6], [True, True], method=method)
    assert result.node_classes.tolist() == [0, 1] and result.energy == 1e6


@pytest.mark.parametrize("method", cops.solver.METHODS)
def test_mwc_clusters_are_classes(method):
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(30, 3))
    edges = np.array([[i, j] for i in range(30) for j in range(i)])[::3]
    costs = rng.normal(size=len(edges))
    result = solve_mwc(nodes, edges, costs, method=method)
    assert is_feasible(edges, np.zeros(3, dtype=bool), *result[:3])
    classes = result.node_classes[edges]
    np.testing.assert_array_equal(result.is_cut, classes[:, 0] != classes[:, 1])
    if method == "multilevel":
        again = solve_mwc(nodes, edges, costs, method=method, start=result.node_classes)
        assert again.energy <= result.energy + 1e-6


@pytest.mark.parametrize("page", ["docs/solver.md", "docs/tutorials/solver.md"])
def test_the_examples_of_the_documentation(page):
    document = ROOT / page
    outcome = doctest.testfile(str(document), module_relative=False)
    assert outcome.failed == 0 and outcome.attempted > 8
