"""Settings, changes of solutions, their average over lambdas, and what is logged."""

from __future__ import annotations

import numpy as np
import pytest
from cops_factory import grid_settings

from cops.layers.perturbation import (
    LayerStatistics,
    PerturbedSolution,
    average_changes,
    is_worse,
    solution_change,
)
from cops.solver import Result


def test_bad_settings_are_refused():
    for bounds in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="lambda_range"):
            grid_settings(*bounds)
    with pytest.raises(ValueError, match="num_samples"):
        grid_settings(samples=0)
    with pytest.raises(ValueError, match="warm_start"):
        grid_settings(warm_start=True)
    with pytest.raises(ValueError, match="zero is 'none'"):
        grid_settings(zero="none")


def before() -> Result:
    return Result(
        np.array([0, 0, 1], np.int32), np.array([0, 0, 1], np.int32), np.array([False, True]), 0.0
    )


def after(classes: list[int], cut: list[bool]) -> PerturbedSolution:
    return PerturbedSolution(np.array(classes), np.array(cut), False)


def test_worse_than_unchanged_by_hand():
    # Labels 0, 0, 1 and the cut edge pay 1 + 2 + 3 - 4 = 2.
    node_costs = np.array([[1.0, 9.0], [2.0, 9.0], [9.0, 3.0]], np.float32)
    edge_costs = np.array([5.0, -4.0], np.float32)
    for energy, worse in ((2.0, False), (2.1, True), (1.0, False)):
        solved = before()._replace(energy=energy)
        labels, cut = before().node_clusters, before().is_cut
        assert is_worse(solved, node_costs, edge_costs, labels, cut) == worse


def test_average_by_hand():
    known = np.ones(3, bool), np.ones(2, bool)
    changes = [
        solution_change(before(), after([0, 1, 1], [True, False]), *known),
        solution_change(before(), after([0, 0, 1], [False, True]), *known),
    ]
    result = average_changes(before(), changes, np.array([2.0, 8.0]), 2)
    # (x_p - x) / 2, halved by the mean over two lambdas of which the second changes nothing.
    assert result.node_costs.tolist() == [[0, 0], [-0.25, 0.25], [0, 0]]
    assert result.edge_costs.tolist() == [0.25, -0.25]
    assert result.reacted.tolist() == [True, False]
    assert result.class_l1.tolist() == [1.0, 0.0] and result.edge_l1.tolist() == [1.0, 0.0]


def test_what_the_truth_does_not_know_does_not_change():
    known = np.array([True, False, True]), np.array([False, True])
    change = solution_change(before(), after([1, 1, 1], [True, True]), *known)
    assert change.nodes.tolist() == [0] and change.new_classes.tolist() == [1]
    assert change.edges.tolist() == []


def test_summary_of_statistics():
    statistics = LayerStatistics(1.0, 2.0)
    assert statistics.summary() == {"seconds_amwc": 1.0, "seconds_mwc": 2.0}
    statistics.lambdas = np.array([[1.0, 10.0], [2.0, 20.0]])
    statistics.reacted = np.array([[False, True], [False, False]])
    statistics.worse = np.array([[True, False], [True, True]])
    statistics.residual = 0.125
    statistics.class_l1 = statistics.edge_l1 = np.array([[0.0, 4.0], [0.0, 0.0]])
    figures = statistics.summary()
    assert figures["unreacted"] == 0.75
    assert figures["worse_than_unchanged"] == 0.75
    assert figures["worse_than_unchanged_large_lambda"] == 0.5
    assert figures["residual_at_zero"] == 0.125
    assert figures["unreacted_small_lambda"] == 1.0  # lambdas 1 and 2
    assert figures["unreacted_large_lambda"] == 0.5
    assert figures["class_gradient_l1"] == pytest.approx(1.0)
