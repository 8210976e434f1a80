"""The balance of edge costs: the search on known functions, and a bias that it finds again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cops_factory import IS_THING, perfect_maps

from cops.modeling import calibration
from cops.modeling.calibration import (
    DECAYS,
    FACTORS,
    GROWTH,
    MOST_STEPS,
    OFFSETS,
    SHIFTS,
    Balance,
    CalibrationImage,
    CalibrationSet,
    apply_balance,
    find_balance,
)
from cops.modeling.cost_scale import CostScale
from cops.modeling.inference import InferenceOptions
from cops.targets import make_cops_targets


def test_the_search_finds_the_top_of_a_hill_and_tries_nothing_twice() -> None:
    calls: list[Balance] = []

    def quality(balance: Balance) -> float:
        calls.append(balance)
        common = abs(balance.offset - 1.7) + abs(balance.factor - 1.0)
        return -common - abs(balance.decay - 0.6) - abs(balance.shift + 0.9)

    best, tried = find_balance(quality)
    # Offsets: 1.5 is nearest; factors: 1 stays; half steps: 1.75; then 0.5 and -1 are nearest.
    assert best == Balance(1.0, 1.75, 0.5, -1.0)
    assert len(calls) == len(set(calls)) == len(tried)
    # No step from there leads higher.
    assert len(calls) <= len(OFFSETS) + len(FACTORS) + 2 * len(DECAYS) + len(SHIFTS) + 3 + 14


def test_a_decay_is_tried_again_once_the_shortest_edges_have_their_shift() -> None:
    def quality(balance: Balance) -> float:
        if not balance.decay or not balance.shift:
            return 1.0 if balance.decay == 1.0 else 0.0
        return 2.0 - abs(balance.decay - 0.75)

    assert find_balance(quality)[0].decay == 0.75


def test_the_offset_grows_with_the_factor() -> None:
    best, tried = find_balance(
        lambda b: min(b.factor, 2.0) if b.offset == b.factor and not b.decay else 0.0
    )
    assert best == Balance(2.0, 2.0) and Balance(0.5, 0.5) in tried


def test_steps_that_help_only_together_are_taken_together() -> None:
    """Decay and factor make up for each other: either of them alone leaves a narrow ridge."""

    def quality(balance: Balance) -> float:
        steps = math.log(balance.factor, GROWTH)
        return -abs(balance.decay - 1.5) - 5 * abs(steps - balance.decay / 0.25 - 0.1)

    best, tried = find_balance(quality)
    assert best.decay == 1.5 and best.factor == pytest.approx(2 * GROWTH**4)
    assert quality(Balance(1.0, decay=1.5)) < quality(Balance())
    assert len(tried) < 31 + 14 * (4 + 1)


def test_the_climb_ends_where_there_is_no_top() -> None:
    best, tried = find_balance(lambda balance: balance.factor)
    assert best.factor == pytest.approx(4.0 * GROWTH**MOST_STEPS) and len(tried) < 150


def test_equal_qualities_change_nothing() -> None:
    assert find_balance(lambda balance: 0.3)[0] == Balance()


def test_a_balance_in_the_scales_is_that_balance_on_the_costs() -> None:
    torch.manual_seed(0)
    scale = CostScale(num_distances=3)
    with torch.no_grad():
        scale.edge_scale.copy_(torch.tensor([1.0, -2.0, 0.5]))  # |s| counts
        scale.edge_offset.copy_(torch.tensor([0.1, 0.2, -0.3]))
    logits = torch.randn(2, 6, 4, 5)
    before = scale.edge_costs(logits)
    expected = 1.4 * before + 0.75
    # Distances 2, 4 and 8: weights 1, 1/2 and 1/4 for a decay of 1, and a constant for the first.
    expected[:, 2:4] /= 2
    expected[:, 4:] /= 4
    expected[:, :2] -= 0.3
    apply_balance(scale, Balance(1.4, 0.75, 1.0, -0.3), (2, 4, 8))
    torch.testing.assert_close(scale.edge_costs(logits), expected)
    same = scale.edge_costs(logits)
    apply_balance(scale, Balance(), (2, 4, 8))
    assert torch.equal(scale.edge_costs(logits), same)


def _biased_set(bias: float) -> CalibrationSet:
    """Perfect maps whose edges have been pushed towards cutting, with noise."""
    id_map = np.full((32, 48), 1, np.int32)
    segments = [{"id": 1, "category_id": 0}]
    for number, left in enumerate(range(4, 44, 8), start=2):
        id_map[8:24, left : left + 8] = number
        segments.append({"id": number, "category_id": 1})
    target = make_cops_targets(id_map, segments, IS_THING, (1, 2))["cops_target"]
    class_logits, edge_logits = perfect_maps(target, 5)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(edge_logits.shape, generator=generator)
    edge_costs = -edge_logits / 5 + noise - bias  # plus and minus 2 before the bias
    image = CalibrationImage(class_logits, -class_logits, edge_costs, (32, 48), id_map, segments)
    options = InferenceOptions(thing_area_limit=0, stuff_area_limit=0)
    return CalibrationSet(
        [image], distances=(1, 2), is_thing=IS_THING, options=options, grid_stride=4
    )


def test_a_bias_towards_cutting_is_found_and_put_right() -> None:
    biased = _biased_set(3.0)
    best, tried = find_balance(biased.quality)
    assert best.offset >= 1.5
    assert tried[best] > tried[Balance()] + 0.3
    assert tried[best] == pytest.approx(1.0, abs=0.05)
    # The search takes the set's own options as its start.
    assert _biased_set(0.0).quality(Balance()) == pytest.approx(1.0, abs=0.05)


def test_the_set_solves_the_costs_that_a_balanced_model_has() -> None:
    """Else the balance that is found would not be that of the new checkpoint."""
    seen = []

    class Seen(CalibrationSet):
        def quality(self, balance: Balance) -> float:
            with pytest.MonkeyPatch.context() as patch:
                solved = calibration.SolvedImage
                patch.setattr(
                    calibration, "SolvedImage", lambda *a, **k: seen.append(a[2]) or solved(*a, **k)
                )
                return super().quality(balance)

    biased = _biased_set(1.0)
    balance = Balance(0.5, 0.7, 0.75, -0.4)
    costs = biased.images[0].edge_costs
    scale = CostScale(num_distances=2)
    apply_balance(scale, balance, (1, 2))
    everything = Seen(
        biased.images, distances=(1, 2), is_thing=IS_THING, options=biased.options, grid_stride=4
    )
    everything.quality(balance)
    # Logits are minus the costs of a scale that has learned nothing.
    torch.testing.assert_close(seen[0], scale.edge_costs(-costs[None])[0])


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="images is empty"):
        CalibrationSet(
            [], distances=(1,), is_thing=IS_THING, options=InferenceOptions(), grid_stride=4
        )
