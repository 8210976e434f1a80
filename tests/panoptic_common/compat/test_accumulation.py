"""Batches in parts: the gradient of the whole where losses are means over images, else the mean."""

from __future__ import annotations

from panoptic_common.compat.amp_trainer import AMPTrainer

import cops_factory
import model_factory
import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.functional import mse_loss


class MeanOverImages(nn.Module):
    """Squared error of a linear layer, the mean over the images, and a second loss beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)

    def forward(self, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        result = self.linear(torch.stack(batch))
        return {"loss": mse_loss(result, torch.ones_like(result)), "loss_norm": result.abs().mean()}


def images(count: int = 4) -> list[torch.Tensor]:
    return list(torch.randn(count, 3, generator=torch.Generator().manual_seed(1)))


def one_step(model: nn.Module, batch: list, parts: int, rate: float = 0.0, **changes):
    """Take one step of a batch; returns the trainer, the storage and the gradients."""
    optimizer = changes.pop("optimizer", torch.optim.SGD)(model.parameters(), lr=rate)
    trainer = AMPTrainer(model, [batch] * 2, optimizer, mixed=False, parts=parts, **changes)
    trainer.iter = 0
    torch.manual_seed(5)
    with EventStorage(0) as storage:
        trainer.run_step()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return trainer, storage, gradients


@pytest.mark.parametrize("parts", [2, 4])
def test_two_halves_have_the_gradient_of_the_whole(parts):
    """mean(L_1 .. L_4) = (mean(L_1, L_2) + mean(L_3, L_4)) / 2, hence so are the gradients."""
    _, whole_storage, whole = one_step(MeanOverImages(), images(), 1)
    _, storage, gradients = one_step(MeanOverImages(), images(), parts)
    torch.testing.assert_close(gradients, whole, rtol=1e-6, atol=1e-7)
    for name in ("loss", "loss_norm", "total_loss"):
        assert storage.latest()[name][0] == pytest.approx(whole_storage.latest()[name][0], rel=1e-6)


def test_the_optimizer_steps_once_and_clips_the_whole_gradient():
    """With a limit below its norm, the step has the length rate x limit, whatever the parts."""

    class Clipped(torch.optim.SGD):
        def step(self, closure=None):
            nn.utils.clip_grad_norm_([p for g in self.param_groups for p in g["params"]], 0.01)
            return super().step(closure)

    for parts in (1, 2):
        model = MeanOverImages()
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        one_step(model, images(), parts, rate=0.5, optimizer=Clipped)
        moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
        assert float(moved.norm()) == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_loss_scaling_cancels_out_over_the_parts():
    """The scaler multiplies the loss of each part by 2^16 and divides their sum by it."""
    model, twin = MeanOverImages(), MeanOverImages()
    one_step(twin, images(), 1, rate=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = AMPTrainer(model, [images()] * 2, optimizer, mixed=False, parts=2)
    trainer.grad_scaler = torch.amp.GradScaler("cpu")
    trainer.iter = 0
    with EventStorage(0):
        trainer.run_step()
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()))


def test_mixed_precision_takes_parts_too():
    """Each part runs in bfloat16, which has 8 bits: the gradients agree to a percent or so."""
    model = MeanOverImages()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = AMPTrainer(model, [images()] * 2, optimizer, parts=2)
    trainer.iter = 0
    with EventStorage(0):
        trainer.run_step()
    _, _, whole = one_step(MeanOverImages(), images(), 1)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(gradients, whole, rtol=0.05, atol=0.02)


# With both losses: the surrogate alone is that of the whole batch (test_batch_sums.py).
MIXED = {
    cops_factory.C + "TRAINING": "surrogate",
    cops_factory.C + "BACKWARD.SAMPLES": 1,
    cops_factory.C + "MIX": 0.5,
}


@pytest.mark.parametrize(
    ("factory", "changes"),
    [(model_factory, {}), (cops_factory, {}), (cops_factory, MIXED)],
    ids=["unified", "cops", "cops, both losses"],
)
def test_the_systems_take_the_mean_of_the_parts(factory, changes):
    """Where a loss is no mean over images, the gradient is the mean of those of the parts."""
    batch = [factory.make_image(0), factory.make_image(1)]

    def model():
        return factory.tiny_model(changes).train()

    _, _, found = one_step(model(), batch, 2)
    halved = model()
    total: dict[str, torch.Tensor] = {}
    torch.manual_seed(5)  # the draws of both parts follow one another
    for image in batch:
        with EventStorage(0):
            losses = halved([image])
        sum(losses.values()).backward()
    for name, parameter in halved.named_parameters():
        if parameter.grad is not None:
            total[name] = parameter.grad / 2
    assert found.keys() == total.keys()
    torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_the_only_one_is_shown_by_its_name():
    class OneLoss(MeanOverImages):
        def forward(self, batch):
            return {"loss_panoptic_quality": super().forward(batch)["loss"]}

    _, storage, _ = one_step(OneLoss(), images(), 1)
    latest = storage.latest()
    assert latest["loss_panoptic_quality"] == latest["total_loss"]


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="4 images cannot be cut into 3 equal parts"):
        one_step(MeanOverImages(), images(), 3)
