"""Eq. 8 and 9 by hand, by differences, and through the solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from placing import placed

from cops.layers.amwc_labels import AmwcLabelsLayer
from cops.layers.perturbation import SolverSettings
from cops.losses.separate import SeparateLosses, class_label_loss, edge_label_loss
from cops.targets import make_cops_targets


def one_hot(classes, num_classes=3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), num_classes).movedim(-1, 1).float()


def test_class_loss_by_hand():
    # Cells: right (weight 1), wrong (weight 3), ignored. |x - x_g| is 0 and 2: 2 * 3 / (1 + 3).
    loss = class_label_loss(
        one_hot([[[0, 1, 2]]]), torch.tensor([[[0, 2, 255]]]), torch.tensor([[[1.0, 3.0, 0.0]]])
    )
    assert float(loss) == pytest.approx(1.5)


def test_edge_loss_by_hand():
    # Distance 1: 2 shared, 1 wrongly cut with weight 4, 1 missed: F1 = 2 / (2 + (4 + 1) / 2).
    # Distance 2: 1 missed of 1: F1 = 0. The mean of 1 - F1 over both.
    y = torch.tensor([[[[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    truth = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]]]])
    weights = torch.ones_like(y)
    weights[0, 1, 0, 0] = 4
    loss = edge_label_loss(y, truth, weights)
    assert float(loss) == pytest.approx((1 - 2 / 4.5 + 1) / 2)


def test_a_distance_with_nothing_to_find_is_left_out():
    y = torch.zeros(1, 4, 2, 2)
    truth = torch.zeros(1, 4, 2, 2)
    y[0, 0], truth[0, 0] = 1, 1
    y[0, 1, 0, 0] = 1
    weights = torch.ones_like(y)
    # 4 shared, 1 too many, at distance 1; nothing at distance 2.
    assert float(edge_label_loss(y, truth, weights)) == pytest.approx(1 - 4 / 4.5)


def test_nothing_at_all_is_zero_and_part_of_the_graph():
    x = torch.rand(1, 3, 2, 2, requires_grad=True)
    y = torch.rand(1, 4, 2, 2, requires_grad=True)
    ignored = torch.full((1, 2, 2), 255)
    loss = class_label_loss(x, ignored, torch.zeros(1, 2, 2))
    loss = loss + edge_label_loss(y, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    loss.backward()
    assert float(loss.detach()) == 0 and x.grad.abs().sum() == 0 and y.grad.abs().sum() == 0


def test_gradients_by_differences(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 2, 3, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    y = torch.rand(2, 4, 2, 3, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 3, (2, 2, 3), generator=generator)
    cut = (torch.rand(2, 4, 2, 3, generator=generator) < 0.5).double()
    cells, edges = torch.rand(2, 2, 3, generator=generator), torch.rand(2, 4, 2, 3)
    x, y, classes, cut, cells, edges = placed(device, x, y, classes, cut, cells, edges)
    assert torch.autograd.gradcheck(
        lambda x: class_label_loss(x, classes, cells), x.requires_grad_()
    )
    assert torch.autograd.gradcheck(lambda y: edge_label_loss(y, cut, edges), y.requires_grad_())


def test_a_class_outside_the_table_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.2"):
        class_label_loss(one_hot([[[0]]]), torch.tensor([[[3]]]), torch.ones(1, 1, 1))


def test_descent_through_the_solver_finds_the_truth(device):
    """Two things side by side on stuff, from costs that say nothing of either."""
    is_thing, distances = (False, True), (1, 2)
    id_map = np.zeros((6, 8), int) + 1
    id_map[1:5, 1:4], id_map[1:5, 4:7] = 2, 3
    segments = [{"id": i, "category_id": int(i > 1)} for i in (1, 2, 3)]
    truth = make_cops_targets(id_map, segments, is_thing, distances, stride=1)["cops_target"]
    smaller = make_cops_targets(id_map[:5], segments, is_thing, distances, stride=1)["cops_target"]
    generator = torch.Generator().manual_seed(0)
    class_costs = torch.randn(2, 2, 6, 8, generator=generator).requires_grad_()
    edge_costs = torch.randn(2, 4, 6, 8, generator=generator).requires_grad_()
    settings = SolverSettings(
        is_thing, distances, num_samples=1, lambda_range=(100.0, 100.0), num_threads=1
    )
    layer, losses = AmwcLabelsLayer(settings), SeparateLosses(weight=1000.0)
    class_costs, edge_costs = placed(device, class_costs, edge_costs)
    truth, smaller = placed(device, truth, smaller)
    optimizer = torch.optim.Adam([class_costs, edge_costs], lr=0.3)
    history = []
    for _ in range(40):
        labels = layer(class_costs, edge_costs, [truth, smaller], generator)
        parts = losses(*labels, [truth, smaller])
        assert set(parts) == {"loss_class_labels", "loss_edge_labels"}
        total = sum(parts.values())
        history.append(float(total.detach()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert history[0] > 500 and history[-1] == pytest.approx(0, abs=1e-3)
