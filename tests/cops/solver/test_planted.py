"""Planted problems: reproducible, of the shape asked for, as hard as said, and solved feasibly."""

from __future__ import annotations

import numpy as np
import pytest

from cops.grid_graph import grid_graph
from cops.solver import check_problem, is_feasible, solve_amwc
from cops.solver.planted import VARIANTS, grid_edges, planted_problem

SIZE = {"height": 24, "width": 40, "num_classes": 6, "distances": (1, 4, 16), "num_things": 6}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("noise", [0.0, 3.0, 6.0])
def test_every_variant_is_a_problem_and_is_solved(variant, noise):
    problem = planted_problem(1, **SIZE, noise=noise, variant=variant)
    for array, checked in zip(problem, check_problem(*problem), strict=True):
        assert np.shares_memory(array, checked)
    result = solve_amwc(*problem)
    assert is_feasible(problem.edges, problem.partitionable, *result[:3])
    # Not above the two trivial labellings.
    total = problem.node_costs.sum(axis=0, dtype=np.float64).min()
    assert result.energy <= total + 1e-3


def test_the_same_seed_gives_the_same_problem():
    for ours, again in zip(planted_problem(5, **SIZE), planted_problem(5, **SIZE), strict=True):
        np.testing.assert_array_equal(ours, again)
    other = planted_problem(6, **SIZE)
    assert not np.array_equal(other.node_costs, planted_problem(5, **SIZE).node_costs)


def test_without_noise_the_layout_is_recovered():
    problem = planted_problem(2, **SIZE, noise=0.0)
    result = solve_amwc(*problem)
    np.testing.assert_array_equal(result.node_classes, problem.node_costs.argmin(axis=1))
    np.testing.assert_array_equal(result.is_cut, problem.edge_costs < 0)


def test_variants_are_what_they_are_called():
    signs = planted_problem(3, **SIZE, noise=3.0, variant="signs")
    assert set(np.unique(signs.edge_costs)) <= {-1.0, 0.0, 1.0}
    rounded = planted_problem(3, **SIZE, noise=3.0, variant="rounded")
    np.testing.assert_array_equal(rounded.node_costs, np.round(rounded.node_costs))
    zeroed = planted_problem(3, **SIZE, noise=3.0, variant="zeroed")
    assert 0.05 < (zeroed.edge_costs == 0).mean() < 0.15
    assert 0.05 < (zeroed.node_costs == 0).all(axis=1).mean() < 0.15
    with pytest.raises(ValueError, match="variant must be one of"):
        planted_problem(3, **SIZE, variant="pink")


def test_noise_is_smooth_unless_white():
    def roughness(variant: str) -> float:
        noise = planted_problem(4, **SIZE, noise=3.0, variant=variant).node_costs
        noise = noise - planted_problem(4, **SIZE, noise=0.0, variant=variant).node_costs
        steps = np.diff(noise[:, 0].reshape(24, 40), axis=1)
        return float((steps**2).mean() / (2.0 * noise[:, 0].var()))

    assert roughness("white") == pytest.approx(1.0, abs=0.15)  # neighbours are independent
    assert roughness("smooth") < 0.2


def test_edges_are_those_of_a_grid_graph():
    ours = {tuple(sorted(pair)) for pair in grid_edges(7, 9, (1, 3, 8)).tolist()}
    graph = grid_graph(7, 9, (1, 3, 8))
    assert ours == {tuple(sorted(pair)) for pair in graph.edges.tolist()}
    assert len(ours) == graph.num_edges
