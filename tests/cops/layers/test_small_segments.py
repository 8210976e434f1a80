"""Segments of few cells without a mask: what the layer leaves out, and what it still learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cops_factory import GRID_THINGS, grid_settings, grid_truth, seeded

from cops.layers.amwc import AmwcLayer
from cops.targets import make_cops_targets


def noisy_costs(seed: int):
    """Costs of 16 x 16 cells whose solution has many segments of one or two cells."""
    rng = np.random.default_rng(seed)
    class_costs = torch.tensor(rng.normal(size=(1, 3, 16, 16)), dtype=torch.float32)
    edge_costs = torch.tensor(rng.normal(-0.5, 1, (1, 4, 16, 16)), dtype=torch.float32)
    return class_costs.requires_grad_(), edge_costs.requires_grad_(), grid_truth(rng, 16, 16)


def test_small_things_have_no_mask():
    class_costs, edge_costs, truth = noisy_costs(0)
    (every,) = AmwcLayer(grid_settings())(class_costs, edge_costs, [truth], seeded())
    (few,) = AmwcLayer(grid_settings(least_cells=3))(class_costs, edge_costs, [truth], seeded())
    cells = every.masks[: every.num_predicted].sum(dim=(1, 2))
    is_thing = torch.tensor(GRID_THINGS)[every.classes[: every.num_predicted]]
    kept = (cells >= 3) | ~is_thing
    assert 0 < int(kept.sum()) < every.num_predicted / 2
    assert few.num_predicted == int(kept.sum())
    assert torch.equal(few.masks[: few.num_predicted], every.masks[: every.num_predicted][kept])
    assert torch.equal(few.classes[: few.num_predicted], every.classes[: every.num_predicted][kept])
    # Each true segment still has one mask, which may be an empty one.
    matched = few.match[few.match >= 0]
    assert sorted(matched.tolist()) == list(range(len(truth.classes)))


@pytest.mark.parametrize("method", ["greedy", "multilevel"])
def test_without_a_gradient_small_things_keep_their_class(method):
    class_costs, edge_costs, truth = noisy_costs(1)
    settings = grid_settings(least_cells=3, method=method, zero="solved")
    layer = AmwcLayer(settings)
    (prediction,) = layer(class_costs, edge_costs, [truth], seeded())
    (0 * prediction.masks.sum()).backward()
    assert class_costs.grad.abs().sum() == 0 and edge_costs.grad.abs().sum() == 0


def test_small_things_react_to_a_loss_on_others():
    # Cells 0 and 1 are a thing, cell 2 another one that has no mask. The loss wants the first mask
    # at cell 2 as well: there it is cheaper by lambda = 4 than the rest, the edge is joined.
    class_costs = torch.tensor([5.0, 0.0]).reshape(1, 2, 1, 1).repeat(1, 1, 1, 3).requires_grad_()
    edge_costs = torch.tensor([2.0, -1.0, 0.0, 0.0, 0.0, 0.0]).reshape(1, 2, 1, 3).requires_grad_()
    segments = [{"id": 1, "category_id": 1}]
    truth = make_cops_targets(np.array([[1, 1, 1]]), segments, (False, True), (1,), stride=1)
    settings = grid_settings(partitionable=(False, True), distances=(1,), least_cells=2)
    (prediction,) = AmwcLayer(settings)(class_costs, edge_costs, [truth["cops_target"]], seeded())
    assert prediction.num_predicted == 1 and prediction.masks.tolist() == [[[1.0, 1.0, 0.0]]]
    (-prediction.masks[0, 0, 2]).backward()
    assert edge_costs.grad.flatten().tolist() == [0.0, -0.25, 0.0, 0.0, 0.0, 0.0]
    assert class_costs.grad.abs().sum() == 0
