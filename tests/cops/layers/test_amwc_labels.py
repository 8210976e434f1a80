"""Class and edge labels of the solver, and their gradients."""

from __future__ import annotations

import numpy as np
import torch
from cops_factory import GRID_DISTANCES, grid_costs, grid_settings, grid_truth, seeded

from cops.grid_graph import grid_graph
from cops.layers.amwc_labels import AmwcLabelsLayer
from cops.targets import make_cops_targets


def test_labels_and_their_gradient_on_one_edge():
    # Both costs have labels here. dL/dy = -1 at the only edge: lambda = 4 lowers its cost from 1 to
    # -3, so it is cut: the gradient is +1/4.
    class_costs = torch.tensor([5.0, 0.0]).reshape(1, 2, 1, 1).repeat(1, 1, 1, 2).requires_grad_()
    edge_costs = torch.ones(1, 2, 1, 2, requires_grad=True)
    truth = make_cops_targets(
        np.ones((1, 2), int), [{"id": 1, "category_id": 1}], (False, True), (1,), stride=1
    )["cops_target"]
    layer = AmwcLabelsLayer(grid_settings(partitionable=(False, True), distances=(1,)))
    x, y = layer(class_costs, edge_costs, [truth], seeded())
    assert x.tolist() == [[[[0.0, 0.0]], [[1.0, 1.0]]]] and y.abs().sum() == 0
    (-y[0, 0, 0, 0]).backward(retain_graph=True)
    assert edge_costs.grad.flatten().tolist() == [0.25, 0.0, 0.0, 0.0]
    assert class_costs.grad.abs().sum() == 0
    edge_costs.grad = None
    # dL/dx = 4 at class 1 of both cells: 0 + 16 > 5, so both change to class 0.
    (4 * x[:, 1].sum()).backward()
    assert class_costs.grad.flatten().tolist() == [0.25, 0.25, -0.25, -0.25]


def test_labels_of_a_padded_batch_keep_within_their_grid():
    rng = np.random.default_rng(16)
    costs = grid_costs(rng, num=2, height=5, width=6)
    truths = [grid_truth(rng, 5, 6), grid_truth(rng, 3, 4)]
    x, y = AmwcLabelsLayer(grid_settings(8.0, 8.0))(*costs, truths, seeded())
    assert (x[0].sum(dim=0) == 1).all() and (x[1, :, :3, :4].sum(dim=0) == 1).all()
    assert x[1, :, 3:].sum() == x[1, :, :, 4:].sum() == 0
    assert (y[1][:, :3, :4][torch.tensor(~grid_graph(3, 4, GRID_DISTANCES).valid)] == 0).all()
    (x * torch.randn(x.shape, generator=seeded())).sum().backward()
    known = truths[1].pixel_weights > 0
    assert costs[0].grad[1, :, :3, :4][:, known].abs().sum() > 0
    assert costs[0].grad[1, :, :3, :4][:, ~known].abs().sum() == 0
    assert costs[0].grad[1, :, 3:].abs().sum() == 0
