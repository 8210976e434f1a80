"""The method "auto": never above multilevel, feasible, and the move that multilevel lacks."""

from __future__ import annotations

import numpy as np
from solver_instances import judge, random_batch

from cops.solver import solve_amwc, solve_multicut


def test_never_above_multilevel_and_always_feasible():
    for seed in range(12):
        batch = random_batch(seed, 12)
        problems = list(batch.problems())
        results = [solve_amwc(*problem, method="auto") for problem in problems]
        verdict = judge(batch, results)
        assert not any(wrong.any() for wrong in verdict)
        for problem, result in zip(problems, results, strict=True):
            assert result.energy <= solve_amwc(*problem, method="multilevel").energy


def hub(leaves: int = 5):
    """A hub of class 0 between leaves of class 1, which all could be of class 2; and a lone node.

    Alone: 0. The hub joins one leaf: it saves 4 and pays 6 for class 1. All in class 2: the edges
    save 4 each, the hub pays 6, the leaves 3 each; all in class 1: the hub pays 90. The lone node
    pays 100 for any other class than 0, so that one cluster of all is not worth it.
    """
    lone = [0.0, 100.0, 100.0]
    node_costs = np.array([[0.0, 90.0, 6.0]] + [[50.0, 0.0, 3.0]] * leaves + [lone])
    edges = np.stack([np.zeros(leaves, int), np.arange(1, leaves + 1)], axis=1)
    return node_costs, edges, np.full(leaves, 4.0), [True, True, True]


def test_a_hub_and_its_leaves_change_their_class_together():
    """Each leaf brings 4 - 3 = 1; with nine, that is more than the 6 of the hub."""
    problem = hub(9)
    cut = 9 * 4.0
    assert solve_amwc(*problem, method="multilevel").energy == cut
    result = solve_amwc(*problem, method="auto")
    assert result.energy == 6.0 + 9 * 3.0 and result.node_classes.tolist() == [2] * 10 + [0]
    # With five it is not worth it: 5 * 4 < 6 + 5 * 3.
    assert solve_amwc(*hub(5), method="auto").energy == 20.0


def test_multicut_and_a_start():
    edges, costs = [[0, 1], [1, 2], [0, 2]], [2.0, -1.0, -3.0]
    found = solve_multicut(edges, costs, method="auto", start=[0, 1, 1])
    assert found.labels.tolist() == [0, 0, 1] and found.energy == -4.0
    never = [[0.0, np.inf], [np.inf, 1.0]]
    assert solve_amwc(never, [[0, 1]], [100.0], [True, True], method="auto").energy == 101.0
