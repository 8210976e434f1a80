"""Hostile input for all methods: 10,000 random problems, degenerate graphs, ties, magnitudes.

A solution must be feasible, and its energy must be that of its labelling. What `multilevel` and
`auto` return must cost no more than two trivial labellings. They are each node alone in its best
class (those of a class outside P joined), and all nodes in one cluster. Greedy contraction promises
the latter in two cases only, and one test shows how it fails in others.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_instances import ROUNDING, Batch, Verdict, join, judge, random_batch

from cops.solver import Result, check_problem, solve_amwc, solve_mwc

# Methods and numbers of refinement cycles under test.
SOLVERS: dict[str, dict[str, Any]] = {
    "greedy": {"method": "greedy"},
    "multilevel-0": {"method": "multilevel", "refine": 0},
    "multilevel-1": {"method": "multilevel", "refine": 1},
    "multilevel-3": {"method": "multilevel", "refine": 3},
    "auto": {"method": "auto"},
}
solvers = pytest.mark.parametrize("solver", SOLVERS)


def solve_batch(batch: Batch, solver: str, mwc: bool = False) -> list[Result]:
    options = SOLVERS[solver]
    if mwc:
        return [solve_mwc(*problem[:3], **options) for problem in batch.problems()]
    return [solve_amwc(*problem, **options) for problem in batch.problems()]


def assert_all_right(batch: Batch, solver: str, mwc: bool = False) -> Verdict:
    """Solve a batch and check what the method promises."""
    if mwc:
        batch = batch.without_partitionable()
    verdict = judge(batch, solve_batch(batch, solver, mwc))
    assert not verdict.infeasible.any()
    assert not verdict.wrong_energy.any()
    above_alone, above_one_cluster = verdict.above_alone, verdict.above_one_cluster
    if solver == "greedy":
        # Each contraction saves something, so it does not end above all nodes alone unless
        # clusters of a class outside P had to be joined. With one class, all edges left between
        # clusters earn something (or were joined), so it does not end above one cluster.
        above_alone = above_alone[batch.partitionable.all(axis=1)]
        above_one_cluster = above_one_cluster[: 0 if batch.partitionable.shape[1] > 1 else None]
    assert not above_alone.any()
    assert not above_one_cluster.any()
    return verdict


@pytest.mark.parametrize("mwc", [False, True], ids=["amwc", "mwc"])
@solvers
def test_ten_thousand_random_problems(solver, mwc):
    for seed in range(50):
        assert_all_right(random_batch(seed, 200), solver, mwc)


@solvers
def test_larger_random_problems(solver):
    for seed in range(100, 110):
        assert_all_right(random_batch(seed, 3, max_nodes=400), solver)


def test_the_checks_see_what_is_wrong():
    """Each check fails for a result that was changed by little, and for no other problem."""
    chain = ([[0.0, 1.0]] * 3, [[0, 1], [1, 2]], [2.0, -1.0], [True, False])
    batch = join([chain, chain, chain])
    good = solve_batch(batch, "multilevel-1")
    assert good[1].node_clusters.tolist() == [0, 0, 1]
    assert not np.any(judge(batch, good))

    def verdict_on(**changes: Any) -> tuple[list[bool], ...]:
        values = {k: np.array(v) if k != "energy" else v for k, v in changes.items()}
        return tuple(
            found.tolist() for found in judge(batch, [good[0], good[1]._replace(**values), good[2]])
        )

    none, second = [False] * 3, [False, True, False]
    assert verdict_on(energy=-1.0 + 1e-9) == (none, second, none, none)
    assert verdict_on(energy=float("nan")) == (none, second, second, second)
    # A cut that no cluster has, a cluster of two classes, wrong numbers, two clusters outside P.
    assert verdict_on(is_cut=[False, False], energy=0.0)[0] == second
    assert verdict_on(node_classes=[0, 1, 0], energy=0.0)[0] == second
    assert verdict_on(node_clusters=[1, 1, 0])[0] == second
    assert verdict_on(node_clusters=[0, 0, 2])[0] == second
    assert verdict_on(node_classes=[1, 1, 1], energy=2.0)[0] == second
    # Feasible, told truly, and worse than what is trivial: alone costs 1, one cluster costs 0.
    apart = {"node_clusters": [0, 1, 1], "is_cut": [True, False], "energy": 2.0}
    assert verdict_on(**apart) == (none, none, second, second)
    alone = {"node_clusters": [0, 1, 2], "is_cut": [True, True], "energy": 1.0}
    assert verdict_on(**alone) == (none, none, none, second)
    # Beside nothing but positive edges, one cluster is the best, and alone the worst.
    assert not np.any(judge(join([chain]), good[:1]))


@pytest.mark.parametrize("mwc", [False, True], ids=["amwc", "mwc"])
def test_greedy_may_end_above_each_node_alone(mwc):
    # Classes: stuff, thing. Joining 0 and 2 saves 3 and costs 1: both are stuff. Then 1 is stuff,
    # too, and has to join them, though it would have earned 100 for being apart from 2.
    nodes, edges, costs = [[0, 9], [0, 9], [1, 0]], [[0, 2], [1, 2]], [3.0, -100.0]
    options = {} if mwc else {"partitionable": [False, True]}
    solve = solve_mwc if mwc else solve_amwc
    greedy = solve(nodes, edges, costs, **options, method="greedy")
    assert greedy.node_clusters.tolist() == [0, 0, 0] and greedy.energy == 1.0
    assert solve(nodes, edges, costs, **options, method="multilevel").energy == -97.0


@pytest.mark.parametrize("mwc", [False, True], ids=["amwc", "mwc"])
def test_greedy_may_end_above_one_cluster(mwc):
    # Any two of three nodes lose 1.25 for a common class and gain 1 for their edge; all three lose
    # 2.5 and gain 3.
    nodes = 1.25 * (1 - np.eye(3))
    edges, costs = [[0, 1], [1, 2], [0, 2]], [1.0, 1.0, 1.0]
    options = {} if mwc else {"partitionable": [True] * 3}
    solve = solve_mwc if mwc else solve_amwc
    assert solve(nodes, edges, costs, **options, method="greedy").energy == 3.0
    assert solve(nodes, edges, costs, **options, method="multilevel").energy == 2.5


def degenerate_graphs() -> dict[str, tuple[int, list[tuple[int, int]]]]:
    """Number of nodes and edges, by name."""
    return {
        "one node": (1, []),
        "no edge": (7, []),
        "one edge": (2, [(0, 1)]),
        "all parallel": (2, [(0, 1), (1, 0)] * 20),
        "all parallel and a third": (3, [(2, 1), (1, 2)] * 20),
        "star": (40, [(20, v) for v in range(40) if v != 20]),
        "path": (40, [(v, v + 1) for v in range(39)]),
        "path, backwards": (40, [(v + 1, v) for v in reversed(range(39))]),
        "cycle": (9, [(v, (v + 1) % 9) for v in range(9)]),
        "complete": (14, list(itertools.combinations(range(14), 2))),
        "two parts": (12, [(v, v + 2) for v in range(10)]),
        "halves": (12, [(a, b) for a in range(6) for b in range(6, 12)]),
    }


@solvers
def test_degenerate_graphs_and_ties(solver):
    rng = np.random.default_rng(0)
    for num_classes in (1, 2, 5):
        problems = []
        for num_nodes, edges in degenerate_graphs().values():
            shape = (num_nodes, num_classes)
            all_nodes = [np.zeros(shape), np.full(shape, 3.0), rng.integers(-1, 2, shape)]
            all_nodes.append(np.tile(np.arange(num_classes)[::-1], (num_nodes, 1)))
            size = len(edges)
            all_costs = [np.zeros(size), np.ones(size), -np.ones(size), rng.integers(-1, 2, size)]
            all_costs.append(np.where(np.arange(size) % 2 == 0, 1, -1))
            all_flags = [np.zeros(num_classes, bool), np.ones(num_classes, bool)]
            all_flags.append(np.arange(num_classes) % 2 == 0)
            for nodes, costs, flags in itertools.product(all_nodes, all_costs, all_flags):
                problems.append((nodes.astype(float), edges, costs.astype(float), flags))
        assert_all_right(join(problems, tolerance=0.0), solver)


# Zeros and subnormal numbers included. What is below float32 within one problem counts as nothing
# to `multilevel`; its promises hold all the same.
finite = st.floats(-1e30, 1e30, allow_subnormal=True)
any_cost = st.one_of(finite, st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 1e30, 5e-324, 1e-310, 1.0]))


@st.composite
def wild_problems(draw):
    num_nodes, num_classes = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    cost = draw(st.sampled_from([any_cost, finite, st.floats(-1e-310, 1e-310)]))

    def numbers(size: int) -> np.ndarray:
        return np.array(draw(st.lists(cost, min_size=size, max_size=size)), dtype=np.float64)

    nodes = numbers(num_nodes * num_classes).reshape(num_nodes, num_classes)
    forbidden = draw(st.lists(st.booleans(), min_size=nodes.size, max_size=nodes.size))
    never = np.array(forbidden).reshape(nodes.shape) & draw(st.booleans())
    never[:, draw(st.integers(0, num_classes - 1))] = False
    nodes[never] = np.inf
    pair = st.permutations(range(num_nodes)).map(lambda order: order[:2])
    edges = draw(st.lists(pair, max_size=12)) if num_nodes > 1 else []
    flags = draw(st.lists(st.booleans(), min_size=num_classes, max_size=num_classes))
    return nodes, edges, numbers(len(edges)), flags


@settings(max_examples=150, deadline=None)
@given(problem=wild_problems())
def test_magnitudes_from_subnormal_to_huge_and_never(problem):
    for solver in SOLVERS:
        assert_all_right(join([problem]), solver)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _not_aligned(array: np.ndarray) -> np.ndarray:
    shifted = np.frombuffer(bytearray(b"x" + array.tobytes()), array.dtype, offset=1)
    return shifted.reshape(array.shape)


# What is read as it is, though read-only or not aligned, has kernels of its own; compiling them for
# each mixture would take minutes. So those forms have a test of their own.
FORMS = {
    "plain": lambda a: a,
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "reversed columns": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every third": lambda a: np.repeat(a, 3, axis=0)[::3],
    "transposed": lambda a: a.T.copy().T,
    "part of a larger one": lambda a: np.pad(a, 1)[(slice(1, -1),) * a.ndim],
    "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only and reversed": lambda a: _read_only(a[::-1].copy())[::-1],
    "torch": lambda a: torch.from_numpy(a.copy()),
    "torch, transposed": lambda a: torch.from_numpy(a.T.copy()).t(),
    "subclass": lambda a: a.view(np.ndarray if a.ndim < 2 else np.matrix),
}
COST_TYPES = ("float64", "float32", "float16", "int64", "int8")
EDGE_TYPES = ("int32", "int64", "int8", "uint8", "uint64")


@st.composite
def forms(draw) -> dict[str, Any]:
    """A problem of small integers, and the same in other forms."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_nodes, num_classes = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    num_edges = draw(st.integers(1, 20)) if num_nodes > 1 else 0
    first = rng.integers(0, num_nodes, num_edges)
    second = (first + rng.integers(1, max(num_nodes, 2), num_edges)) % num_nodes
    plain = {
        "node_costs": rng.integers(-4, 5, (num_nodes, num_classes)).astype(np.float64),
        "edges": np.stack([first, second], axis=1).astype(np.int32),
        "edge_costs": rng.integers(-4, 5, num_edges).astype(np.float64),
        "partitionable": rng.random(num_classes) < 0.5,
    }
    other = {}
    # Each pair of types is compiled anew, so costs of nodes and edges have the same.
    kind = draw(st.sampled_from(COST_TYPES))
    for name, array in plain.items():
        dtype = {"edges": draw(st.sampled_from(EDGE_TYPES)), "partitionable": "bool"}.get(
            name, kind
        )
        form = draw(st.sampled_from(sorted(FORMS)))
        other[name] = FORMS[form](array.astype(dtype))
    return {"plain": plain, "other": other}


@settings(max_examples=150, deadline=None)
@given(problem=forms(), solver=st.sampled_from(sorted(SOLVERS)))
def test_the_form_of_the_input_plays_no_part(problem, solver):
    expected = solve_amwc(**problem["plain"], **SOLVERS[solver])
    before = {name: np.asarray(form).copy() for name, form in problem["other"].items()}
    result = solve_amwc(**problem["other"], **SOLVERS[solver])
    for ours, theirs in zip(result, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, form in problem["other"].items():
        np.testing.assert_array_equal(np.asarray(form), before[name])  # the input is only read
    assert all(type(array) is np.ndarray for array in result[:3])


@pytest.mark.parametrize("change", [_read_only, _not_aligned])
@solvers
def test_input_that_is_read_where_it_is(solver, change):
    batch = random_batch(4, 30)
    expected = solve_batch(batch, solver)
    changed = Batch(*(change(array.copy()) for array in batch[:4]), *batch[4:])
    for ours, theirs in zip(solve_batch(changed, solver), expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def noisy_problem(forbid: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Costs near 1 on a grid, where no trivial labelling is any good."""
    rng = np.random.default_rng(0)
    cells = np.arange(400).reshape(20, 20)
    edges = np.concatenate(
        [
            np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], axis=1),
            np.stack([cells[:-1].ravel(), cells[1:].ravel()], axis=1),
        ]
    )
    nodes = rng.normal(size=(400, 4))
    if forbid:
        nodes[7, :2] = np.inf
    return nodes, edges, rng.normal(0.5, 1.0, len(edges)), np.array([True, True, False, False])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("exponent", [-1060, -1000, -300, -100, 100, 300, 900])
@pytest.mark.parametrize("forbid", [False, True])
def test_a_common_factor_plays_no_part(solver, exponent, forbid):
    """A power of two changes no mantissa, except where numbers become subnormal (-1060)."""
    nodes, edges, costs, flags = noisy_problem(forbid)
    if exponent == -1060:  # 15 bits are left: costs that have no more
        nodes, costs = np.round(nodes * 512) / 512, np.round(costs * 512) / 512
    expected = solve_amwc(nodes, edges, costs, flags, **SOLVERS[solver])
    factor = 2.0**exponent
    result = solve_amwc(nodes * factor, edges, costs * factor, flags, **SOLVERS[solver])
    np.testing.assert_array_equal(result.node_clusters, expected.node_clusters)
    np.testing.assert_array_equal(result.node_classes, expected.node_classes)
    assert result.energy == pytest.approx(expected.energy * factor, rel=1e-9)


INDICES = [
    (np.int64, [2**31 - 1, -(2**31), 2**31, 2**32 + 1, -(2**32) + 1, 2**63 - 1, -(2**63), 3, -1]),
    (np.int32, [2**31 - 1, -(2**31), 3, -1]),
    (np.uint32, [2**31, 2**32 - 1, 3]),
    (np.uint64, [2**63, 2**64 - 1, 2**32 + 1, 3]),
]


@pytest.mark.parametrize(
    ("dtype", "index"), [(dtype, index) for dtype, indices in INDICES for index in indices]
)
@pytest.mark.parametrize("end", [0, 1])
def test_indices_that_would_wrap_into_range_are_refused(dtype, index, end):
    edges = np.array([[0, 1], [1, 2]], dtype=dtype)
    edges[1, end] = index
    with pytest.raises(ValueError, match=r"edges\[1\] = .* names a node outside 0 \.\. 2"):
        check_problem(np.zeros((3, 2)), edges, np.zeros(2))


@solvers
def test_many_nodes_without_an_edge(solver):
    nodes = np.random.default_rng(0).integers(0, 3, (200_000, 3)).astype(np.float32)
    best = nodes.argmin(axis=1)
    result = solve_amwc(nodes, [], [], [True, False, True], **SOLVERS[solver])
    np.testing.assert_array_equal(result.node_classes, best)
    assert result.energy == nodes.min(axis=1).sum() and result.is_cut.shape == (0,)
    assert result.node_clusters.max() == (best != 1).sum()  # one cluster more: all of class 1
    mwc = solve_mwc(nodes, np.zeros((0, 2), dtype=np.int32), np.zeros(0), **SOLVERS[solver])
    np.testing.assert_array_equal(mwc.node_classes, best)


def test_batches_hold_what_their_names_say():
    """No kind of problem has been lost from the ten thousand."""
    batches = [random_batch(seed, 200) for seed in range(50)]
    tolerances = {batch.tolerance for batch in batches}
    assert tolerances == {0.0, ROUNDING}
    assert any(np.isinf(batch.node_costs).any() for batch in batches)
    assert {batch.node_costs.dtype.name for batch in batches} == {"float32", "float64"}
    assert {batch.partitionable.shape[1] for batch in batches} == {1, 2, 3, 4}
    for batch in batches:
        sizes = np.diff(batch.node_begin)
        assert sizes.min() == 1 and sizes.max() == 10 and 0 in np.diff(batch.edge_begin)
        flags = batch.partitionable
        assert flags.all(axis=1).any() and (~flags).all(axis=1).any()
    magnitudes = np.concatenate([np.abs(b.node_costs).ravel() for b in batches])
    magnitudes = magnitudes[np.isfinite(magnitudes) & (magnitudes > 0)]
    assert magnitudes.min() < 1e-40 and magnitudes.max() > 1e29
