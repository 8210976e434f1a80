"""Algorithm 1's parts: the lifted labels, the perturbation, and the average over lambdas."""

from __future__ import annotations

import numpy as np
import pytest

from cops.layers.lifting import lift_classes, perturb
from cops.layers.perturbation import LayerStatistics, average_changes, solution_change
from cops.solver import Result


def test_every_class_has_a_label():
    assert lift_classes(np.array([2, 0, 2]), 4).tolist() == [2, 0, 2, 1, 3]
    assert lift_classes(np.array([], dtype=np.int64), 2).tolist() == [0, 1]


def test_only_the_masks_are_perturbed():
    lifted = np.arange(8, dtype=np.float32).reshape(2, 4)
    gradient = np.array([[1.0, -2.0], [0.5, 0.0]], dtype=np.float32)
    costs = perturb(lifted, gradient, 10.0)
    assert costs.tolist() == [[10.0, -19.0, 2.0, 3.0], [9.0, 5.0, 6.0, 7.0]]
    assert costs.flags.c_contiguous and costs.dtype == np.float32
    assert lifted[0].tolist() == [0.0, 1.0, 2.0, 3.0]  # used again for the next lambda


def before() -> Result:
    return Result(
        np.array([0, 0, 1], np.int32), np.array([0, 0, 1], np.int32), np.array([False, True]), 0.0
    )


def test_average_by_hand():
    known = np.ones(3, bool), np.ones(2, bool)
    changes = [
        solution_change(before(), np.array([0, 1, 1]), np.array([True, False]), *known),
        solution_change(before(), np.array([0, 0, 1]), np.array([False, True]), *known),
    ]
    result = average_changes(before(), changes, np.array([2.0, 8.0]), 2)
    # (x_p - x) / 2, halved by the mean over two lambdas of which the second changes nothing.
    assert result.node_costs.tolist() == [[0, 0], [-0.25, 0.25], [0, 0]]
    assert result.edge_costs.tolist() == [0.25, -0.25]
    assert result.reacted.tolist() == [True, False]
    assert result.class_l1.tolist() == [1.0, 0.0] and result.edge_l1.tolist() == [1.0, 0.0]


def test_what_the_truth_does_not_know_does_not_change():
    known = np.array([True, False, True]), np.array([False, True])
    change = solution_change(before(), np.array([1, 1, 1]), np.array([True, True]), *known)
    assert change.nodes.tolist() == [0] and change.new_classes.tolist() == [1]
    assert change.edges.tolist() == []


def test_summary_of_statistics():
    statistics = LayerStatistics(1.0, 2.0)
    assert statistics.summary() == {"seconds_amwc": 1.0, "seconds_mwc": 2.0}
    statistics.lambdas = np.array([[1.0, 10.0], [2.0, 20.0]])
    statistics.reacted = np.array([[False, True], [False, False]])
    statistics.class_l1 = statistics.edge_l1 = np.array([[0.0, 4.0], [0.0, 0.0]])
    figures = statistics.summary()
    assert figures["unreacted"] == 0.75
    assert figures["unreacted_small_lambda"] == 1.0  # lambdas 1 and 2
    assert figures["unreacted_large_lambda"] == 0.5
    assert figures["class_gradient_l1"] == pytest.approx(1.0)
