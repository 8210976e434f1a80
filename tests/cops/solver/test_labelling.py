"""Labellings that a caller brings: summed right or refused, and never read past their end."""

from __future__ import annotations

import numpy as np
import pytest

from cops.solver import energy, is_feasible, solve_multicut

NODES = np.array([[0.0, 3.0], [0.0, 2.0], [1.0, 0.5]])
EDGES, COSTS = np.array([[0, 1], [1, 2]]), np.array([2.0, -1.5])
CLASSES, CUT = [0, 0, 1], [False, True]  # 0.5 - 1.5


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 0, 7], r"node_classes must hold classes 0 .. 1, but node_classes\[2\] is 7"),
        ([0, -1, 0], r"node_classes\[1\] is -1"),
        ([0, 1_000_000_000, 0], r"node_classes\[1\] is 1000000000"),
        (np.array([0, 2**64 - 1, 0], np.uint64), r"node_classes\[1\] is 18446744073709551615"),
        ([0], "node_classes must be 3 integers"),
        ([0] * 5000, "node_classes must be 3 integers"),
        ([[0, 0, 1]], "node_classes must be 3 integers"),
        (0, "node_classes must be 3 integers"),
        ([0.9, 0.9, 1.9], "node_classes must be 3 integers"),
        ([False, False, True], "node_classes must be 3 integers"),
        ([0, 0, None], "node_classes must be 3 integers"),
    ],
)
def test_classes_that_are_not_there_are_not_read(classes, message):
    with pytest.raises(ValueError, match=message):
        energy(NODES, EDGES, COSTS, classes, CUT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_cut": [[False], [True]]}, "is_cut bools, one per edge"),
        ({"is_cut": [0.0, 0.5]}, "is_cut bools, one per edge"),
        ({"is_cut": [True]}, "equally many"),
        ({"edge_costs": [1.0]}, "equally many"),
        ({"edge_costs": 1.0}, "edge_costs must be numbers"),
        ({"edge_costs": [np.nan, 1.0]}, r"edge_costs\[0\] is nan"),
        ({"edges": [0, 1]}, r"edges must have shape \(E, 2\)"),
        ({"node_costs": NODES[:, 0]}, r"node_costs must have shape \(V, K\)"),
        ({"node_costs": NODES * np.nan}, r"node_costs\[0, 0\] is NaN"),
        ({"node_costs": [[0.0, 1.0], [2.0]]}, r"node_costs\[1\] has 1 entries"),
        ({"node_costs": NODES * 1e300}, r"node_costs\[0, 1\] = .* is too large"),
    ],
)
def test_what_else_is_malformed_is_named(change, message):
    given = {"node_costs": NODES, "edges": EDGES, "edge_costs": COSTS, "is_cut": CUT} | change
    with pytest.raises(ValueError, match=message):
        energy(node_classes=CLASSES, **given)


@pytest.mark.parametrize("form", ["<f2", ">f8", ">f4", "i4", "lists", "strided", "readonly"])
def test_any_form_of_the_same_numbers_gives_the_same_energy(form):
    nodes, costs = NODES * 2, COSTS * 2
    classes, cut = np.array(CLASSES), np.array(CUT)
    if form == "lists":
        nodes, costs, classes, cut = (x.tolist() for x in (nodes, costs, classes, cut))
    elif form == "strided":
        nodes, costs, classes, cut = (np.repeat(x, 2, 0)[::2] for x in (nodes, costs, classes, cut))
    elif form == "readonly":
        nodes, costs, classes, cut = map(
            np.broadcast_to,
            *zip(*((x, x.shape) for x in (nodes, costs, classes, cut)), strict=True),
        )
    else:
        nodes, costs = nodes.astype(form), costs.astype(form)
    assert energy(nodes, EDGES, costs, classes, cut) == -2.0


def test_infinite_edge_costs_are_constraints():
    """As in `solve_multicut`: nothing where they are obeyed, and everything where they are not."""
    for costs, cut, expected in (
        ([np.inf, 1.0], [False, True], 1.5),
        ([-np.inf, 1.0], [True, False], 0.5),
        ([np.inf, 1.0], [True, True], np.inf),
        ([-np.inf, 1.0], [False, True], np.inf),
        ([-np.inf, np.inf], [True, True], np.inf),
    ):
        assert energy(NODES, EDGES, costs, CLASSES, cut) == expected
    costs = [np.inf, -np.inf]
    found = solve_multicut(EDGES, costs)
    assert energy(np.zeros((3, 1)), EDGES, costs, [0, 0, 0], found.is_cut) == found.energy == 0.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"edges": [[0, 9]]}, ValueError, r"edges\[0\] = \[0, 9\] names a node outside 0 .. 1"),
        ({"edges": [[0, -1]]}, ValueError, r"edges\[0\] = \[0, -1\]"),
        ({"edges": [[0.0, 1.0]]}, TypeError, "edges must hold integers"),
        ({"edges": [0, 1]}, ValueError, "edges must have shape"),
        ({"node_classes": [0.5, 0.0]}, TypeError, "node_classes must hold integers"),
        ({"node_clusters": [0.7, 0.2]}, TypeError, "node_clusters must hold integers"),
        ({"node_classes": [], "node_clusters": []}, ValueError, "at least one node"),
        ({"is_cut": [0]}, ValueError, "is_cut must be bools"),
        ({"partitionable": [1]}, ValueError, "partitionable must be 1 bools"),
        ({"partitionable": True}, ValueError, "partitionable must be"),
    ],
)
def test_what_is_no_labelling_is_no_answer_of_is_feasible(change, error, message):
    given = {
        "edges": [[0, 1]],
        "partitionable": [True],
        "node_classes": [0, 0],
        "node_clusters": [0, 0],
        "is_cut": [False],
    }
    assert is_feasible(**given)
    with pytest.raises(error, match=message):
        is_feasible(**(given | change))


def test_clusters_are_any_integers():
    far = np.array([2**64 - 1, 2**64 - 2], np.uint64)  # equal as floats
    assert is_feasible([[0, 1]], [True], [0, 0], far, [True])
    assert not is_feasible([[0, 1]], [True], [0, 0], far, [False])
    assert is_feasible([], [False], [0], [-7], [])
