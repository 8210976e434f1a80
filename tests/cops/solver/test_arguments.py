"""What callers may hand over by mistake: a sentence that names it, from all functions alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cops.solver import solve_amwc, solve_amwc_grid, solve_many, solve_multicut, solve_mwc
from cops.solver.arguments import float_array, plain_array
from cops.solver.dual import dual_bound

NODES = np.array([[0.0, 3.0], [0.0, 2.0], [1.0, 0.5]])
EDGES, COSTS = np.array([[0, 1], [1, 2]]), np.array([2.0, -1.5])
AMWC = {"node_costs": NODES, "edges": EDGES, "edge_costs": COSTS, "partitionable": [True, False]}
MWC = {"node_costs": NODES, "edges": EDGES, "edge_costs": COSTS}
MULTICUT = {"edges": EDGES, "edge_costs": COSTS}


def said(error, function, *arguments, **options):
    """The sentence."""
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("edge_costs", np.ma.masked_array(COSTS, [True, False]), ValueError, "has masked entries"),
        ("node_costs", np.ma.masked_greater(NODES, 2), ValueError, "has masked entries"),
        ("node_costs", list(np.ma.masked_greater(NODES, 2)), ValueError, "has masked entries"),
        ("edges", np.ma.masked_equal(EDGES, 2), ValueError, "has masked entries"),
        ("partitionable", np.ma.masked_array([True, False], [0, 1]), ValueError, "masked entries"),
        ("node_costs", torch.tensor(NODES, requires_grad=True), TypeError, "cannot be read"),
        ("node_costs", torch.tensor(NODES).bfloat16(), TypeError, "cannot be read"),
        ("edge_costs", torch.tensor(COSTS).bfloat16(), TypeError, "cannot be read"),
        ("node_costs", torch.zeros(3, 2, device="meta"), TypeError, "cannot be read"),
        ("node_costs", torch.tensor(NODES).to_sparse(), TypeError, "cannot be read"),
        ("edges", [[0, 1], [2]], ValueError, r"edges[1] has 1 entries, but edges[0] has 2"),
        ("node_costs", [[0, 1], [2], [3]], ValueError, "node_costs[1] has 1 entries"),
        ("node_costs", [[0, 1], 2, 3], ValueError, "node_costs[1] is a single value"),
        ("edge_costs", [1.0, [2.0]], ValueError, "edge_costs[1] has 1 entries"),
        ("edge_costs", None, TypeError, "edge_costs must hold real numbers"),
        ("edges", None, ValueError, "edges must have shape"),
        ("node_costs", NODES * 1e299, ValueError, "node_costs[0, 1] = 3e+299 in magnitude is too"),
        ("edge_costs", COSTS * 1e300, ValueError, "edge_costs[0] = 2e+300 in magnitude is too"),
    ],
)
def test_arrays_of_another_kind_are_named(name, values, error, message):
    found = said(error, solve_amwc, **(AMWC | {name: values}))
    assert found.startswith(name) and message in found


def test_a_mask_without_masked_entries_is_none():
    costs = np.ma.masked_array(COSTS, [False, False])
    assert solve_amwc(**(AMWC | {"edge_costs": costs})).energy == solve_amwc(**AMWC).energy


def test_what_is_an_array_is_not_copied():
    for values in (NODES, COSTS.astype(np.float32)):
        assert np.shares_memory(float_array("a", values), values)
        assert plain_array("a", values) is values
    assert float_array("a", 1.0).shape == ()


@pytest.mark.skipif(np.finfo(np.longdouble).max < np.longdouble("1e400"), reason="no longer double")
def test_a_number_that_is_too_large_is_no_infinity():
    costs = np.array([np.longdouble("1e400"), 1])
    assert said(ValueError, solve_multicut, EDGES, costs).startswith("edge_costs[0] is too large")


@pytest.mark.parametrize(
    ("function", "options"), [(solve_amwc, AMWC), (solve_mwc, MWC), (solve_multicut, MULTICUT)]
)
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num_threads", "2", TypeError),
        ("num_threads", None, TypeError),
        ("num_threads", 1.5, TypeError),
        ("num_threads", True, TypeError),
        ("num_threads", 0, ValueError),
        ("refine", 1.5, TypeError),
        ("refine", None, TypeError),
        ("refine", "1", TypeError),
        ("refine", -1, ValueError),
        ("method", None, ValueError),
        ("method", ["auto"], ValueError),
    ],
)
def test_options_of_another_kind_are_named(function, options, name, value, error):
    assert said(error, function, **options, **{name: value}).startswith(f"{name} must be ")


@pytest.mark.parametrize(
    ("value", "error"),
    [("3", TypeError), (3.0, TypeError), (True, TypeError), (np.array([3]), TypeError),
     (np.nan, TypeError), (0, ValueError), (-5, ValueError)],
)  # fmt: skip
def test_numbers_of_nodes_of_another_kind_are_named(value, error):
    assert said(error, solve_multicut, EDGES, COSTS, num_nodes=value).startswith("num_nodes must")
    assert len(solve_multicut(EDGES, COSTS, num_nodes=np.int64(4)).labels) == 4


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0, 10**9]], "edges[0] names node 1000000000, but the edges are only 1: give num_nodes"),
        ([[0, 1], [10**12, 0]], "edges[1] names node 1000000000000"),
        (np.array([[0, 2**64 - 1]], np.uint64), "edges[0] names node 18446744073709551615"),
        ([[-1, -1]], "edges[0] = [-1, -1], but nodes are numbered from 0"),
        ([[0, 1], [-3, -2]], "edges[1] = [-3, -2], but nodes are numbered from 0"),
    ],
)  # fmt: skip
def test_nodes_that_nobody_can_mean_are_refused_at_once(edges, message):
    assert message in said(ValueError, solve_multicut, edges, np.ones(len(edges)))


def test_many_nodes_are_there_if_the_caller_says_so(monkeypatch):
    assert len(solve_multicut([[0, 1]], [1.0], num_nodes=1_500_000).labels) == 1_500_000
    assert "at most 1073741823" in said(ValueError, solve_multicut, EDGES, COSTS, num_nodes=2**40)

    def too_many(*_):
        raise MemoryError("Unable to allocate 7 GiB for an array")

    monkeypatch.setattr("cops.solver.multicut.join_linked", too_many)
    assert "do not fit into memory" in said(MemoryError, solve_multicut, EDGES, COSTS)


def test_a_cannot_link_beside_costs_that_are_too_large():
    edges = [[0, 1], [1, 2], [0, 2]]
    found = said(ValueError, solve_multicut, edges, [1e298, 1e299, -np.inf])
    assert found.startswith("edge_costs[1] = 1e+299 is too large beside a cannot-link")
    assert solve_multicut(edges, [1e297, 2e297, -np.inf]).energy == 1e297


# ---- starts --------------------------------------------------------------------------------------


def test_a_whole_result_is_a_start():
    first, classes = solve_amwc(**AMWC), solve_mwc(**MWC)
    parts = solve_multicut(**MULTICUT)
    for start in (first, first[:2], list(first[:2]), np.array(first[:2])):
        assert solve_amwc(**AMWC, start=start).energy == first.energy
        problem = tuple(AMWC.values())
        assert dual_bound(problem, 1, labels=start).lower <= first.energy + 1e-9
    assert solve_mwc(**MWC, start=classes).energy == classes.energy
    for start in (parts, parts.labels, first):
        assert solve_multicut(**MULTICUT, start=start).energy == parts.energy


@pytest.mark.parametrize("start", [[0, 0, 0], ([0, 0, 0],), 5, "abc", solve_multicut(**MULTICUT)])
def test_what_is_no_pair_is_no_start(start):
    assert said(TypeError, solve_amwc, **AMWC, start=start).startswith("start must be a result, or")
    found = said(TypeError, dual_bound, tuple(AMWC.values()), labels=start)
    assert found.startswith("labels must be a result, or a pair")


@pytest.mark.parametrize("start", [([0, 0, 0], [0, 0, 0]), 5, [0.0, 0.0, 0.0], [0, 0]])
def test_what_are_no_labels_is_no_start(start):
    for function, options in ((solve_mwc, MWC), (solve_multicut, MULTICUT)):
        found = said(ValueError, function, **options, start=start)
        assert found.startswith("start must be 3 integers")


# ---- many, grids and bounds ----------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (tuple(MWC.values()), "problems[1] must be a mapping of arguments"),
        (MWC | {"partitionble": [True, False]}, "problems[1] has partitionble, which is none of"),
        ({"edges": EDGES, "edge_costs": COSTS}, "problems[1] has no node_costs"),
    ],
)
def test_what_is_no_problem_of_many_is_named(problem, message, num_threads):
    assert message in said(TypeError, solve_many, [MWC, problem], num_threads)


@pytest.mark.parametrize("num_threads", [1.5, "2", None])
def test_threads_for_many_are_a_number(num_threads):
    found = said(TypeError, solve_many, [MWC, MWC], num_threads)
    assert found.startswith("num_threads must be")


CLASSES, MAPS = np.zeros((2, 3, 4)), np.ones((4, 3, 4))


def with_value(maps, place, value):
    changed = maps.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_costs": with_value(CLASSES, (1, 2, 3), np.nan)}, "class_costs[1, 2, 3] is NaN"),
        ({"class_costs": with_value(CLASSES, (0, 1, 2), -np.inf)}, "class_costs[0, 1, 2] is -inf"),
        (
            {"class_costs": with_value(CLASSES, (slice(None), 1, 0), np.inf)},
            "class_costs[:, 1, 0] is +inf",
        ),
        ({"class_costs": with_value(CLASSES, (1, 0, 2), 1e300)}, "class_costs[1, 0, 2] = 1e+300"),
        ({"edge_costs": with_value(MAPS, (3, 1, 1), np.nan)}, "edge_costs[3, 1, 1] is nan"),
        ({"edge_costs": with_value(MAPS, (2, 0, 2), np.inf)}, "edge_costs[2, 0, 2] is inf"),
        ({"edge_costs": MAPS[:2]}, "edge_costs must have shape (4, 3, 4)"),
        ({"class_costs": CLASSES[0]}, "class_costs must have shape (K, h, w)"),
        ({"distances": 2}, "the distances 2 are not different positive integers"),
        ({"distances": (np.nan, 1)}, "not different positive integers"),
        ({"distances": (np.inf, 1)}, "not different positive integers"),
        ({"distances": ("a", 1)}, "not different positive integers"),
        ({"distances": "12"}, "not different positive integers"),
        ({"distances": (1.5, 1)}, "not different positive integers"),
        ({"distances": None}, "not different positive integers"),
        ({"distances": (1, 1)}, "not different positive integers"),
        ({"refine": -1}, "refine must be at least 0"),
    ],
)
def test_faults_of_maps_are_named_by_their_places_in_the_maps(change, message):
    given = {"class_costs": CLASSES, "edge_costs": MAPS, "distances": (1, 2)}
    given["partitionable"] = [True, False]
    assert message in said(ValueError, solve_amwc_grid, **(given | change))


@pytest.mark.parametrize("budget", [None, np.nan, 2.5, "3", -1])
def test_a_budget_is_a_number(budget):
    error = ValueError if budget == -1 else TypeError
    assert said(error, dual_bound, tuple(AMWC.values()), budget).startswith("budget must be")


@pytest.mark.parametrize("problem", [(*AMWC.values(), 1), (NODES, EDGES), 5, AMWC])
def test_a_problem_to_bound_is_a_tuple(problem):
    assert said(TypeError, dual_bound, problem).startswith("problem must be a tuple of node_costs")
