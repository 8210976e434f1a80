"""A factor of the loss multiplies gradients, and changes nothing else about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cops_factory import grid_costs, grid_settings, grid_truth, make_image, seeded, tiny_model
from detectron2.utils.events import EventStorage
from split_batches import THROUGH_THE_SOLVER

from cops.layers.amwc import AmwcLayer
from cops.losses.loss_scale import LossScale
from cops.losses.panoptic_quality import PanopticQualityLoss


def test_what_is_inside_sees_no_factor():
    seen = []
    leaf, scale = torch.ones(3, requires_grad=True), LossScale()
    (inside,) = scale.enter((leaf,))
    inside.register_hook(lambda gradient: seen.append(gradient.clone()))
    loss = scale.leave((torch.tensor([1.0, 2.0, 3.0]) * inside).sum())
    (8 * loss).backward()
    assert seen[0].tolist() == [1.0, 2.0, 3.0] and leaf.grad.tolist() == [8.0, 16.0, 24.0]


def test_a_factor_of_zero_leaves_nothing():
    leaf, scale = torch.ones(3, requires_grad=True), LossScale()
    (0 * scale.leave(scale.enter((leaf,))[0].sum())).backward()
    assert leaf.grad.tolist() == [0.0, 0.0, 0.0]


def test_a_loss_that_never_leaves_is_an_error():
    leaf = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leave"):
        LossScale().enter((leaf,))[0].sum().backward()


@pytest.mark.parametrize("factor", [65536.0, 0.25])
def test_the_solver_is_perturbed_as_without_a_factor(factor):
    """Without the pair the gradient at the costs is that of another perturbation."""
    rng = np.random.default_rng(3)
    truth, costs = grid_truth(rng, 6, 8), grid_costs(rng, 1, 6, 8)
    layer = AmwcLayer(grid_settings(40.0, 40.0))
    loss_of = PanopticQualityLoss([0.0, 0.0, 0.0], weight=1.0, linear_share=0.5)

    def gradients(factor: float, guarded: bool) -> list[torch.Tensor]:
        leaves = [c.detach().clone().requires_grad_() for c in costs]
        scale = LossScale()
        inside = scale.enter(leaves) if guarded else leaves
        loss, _ = loss_of(layer(*inside, [truth], seeded(0)), [truth])
        (factor * (scale.leave(loss) if guarded else loss)).backward()
        return [leaf.grad / factor for leaf in leaves]

    plain = gradients(1.0, guarded=False)
    assert max(float(g.abs().max()) for g in plain) > 0
    for own, expected in zip(gradients(factor, guarded=True), plain, strict=True):
        assert torch.equal(own, expected)
    unguarded = gradients(factor, guarded=False)
    assert any(not torch.equal(*pair) for pair in zip(unguarded, plain, strict=True))


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_a_network_with_a_gradient_scaler(mix):
    """What the optimizer sees after unscaling is what it sees without mixed precision."""
    images = [make_image(seed) for seed in range(2)]
    found = []
    for enabled in (False, True):
        model = tiny_model({**THROUGH_THE_SOLVER, "MODEL.COPS.MIX": mix}).train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, enabled=enabled)
        torch.manual_seed(0)
        with EventStorage():
            scaler.scale(sum(model(images).values())).backward()
        scaler.unscale_(optimizer)
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    plain, scaled = found
    assert plain.keys() == scaled.keys() and any(g.abs().max() > 0 for g in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(scaled[name], gradient, rtol=1e-5, atol=1e-9)
