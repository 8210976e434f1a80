"""Seeds in the order of a stable sort, without those that cost infinity."""

from __future__ import annotations

import numpy as np
import pytest

from cops.solver.multilevel.ordering import ascending


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [True, False])
def test_places_are_those_of_a_stable_sort(seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    size = int(generator.integers(0, 300))
    costs = generator.integers(-4, 4, size) * 0.5 if ties else generator.normal(size=size)
    costs = np.where(generator.random(size) < 0.4, np.inf, costs)
    costs = np.where(generator.random(size) < 0.1, -0.0, costs)  # equal to 0.0
    expected = np.argsort(costs, kind="stable")
    assert np.array_equal(ascending(costs), expected[np.isfinite(costs[expected])])


def test_none_and_all_equal() -> None:
    assert len(ascending(np.empty(0))) == 0
    assert len(ascending(np.full(5, np.inf))) == 0
    assert np.array_equal(ascending(np.zeros(40)), np.arange(40))
