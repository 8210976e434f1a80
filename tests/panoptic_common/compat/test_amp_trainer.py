"""Mixed precision: which type it computes in, and that scaling the loss changes no update."""

from __future__ import annotations

import logging
from collections.abc import Callable

from panoptic_common.compat.amp_trainer import AMPTrainer
from panoptic_common.compat.engine import apply_to_engine

import pytest
import torch
from detectron2.engine.train_loop import SimpleTrainer
from torch import nn


class TinyModel(nn.Module):
    """Loss = w * x, so that the gradient of w is x; remembers the type it computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        self.computed_in: torch.dtype | None = None

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        result = self.linear(batch)
        self.computed_in = result.dtype
        return {"loss": result.float().sum()}


def run_amp_step(
    value: float,
    make_optimizer: Callable[[list], torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None = None,
):
    """Runs one step on the input ``value``; returns the trainer and the change of the weight."""
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    model = TinyModel()
    trainer = AMPTrainer(
        model, [torch.tensor([[value]])] * 2, make_optimizer(list(model.parameters()))
    )
    if scaler is not None:
        trainer.grad_scaler = scaler
    before = model.linear.weight.item()
    trainer.iter = 0
    with EventStorage(0):
        trainer.run_step()
    return trainer, model.linear.weight.item() - before


def sgd(parameters: list) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


def test_amp_on_the_cpu_computes_in_bfloat16_and_steps() -> None:
    trainer, change = run_amp_step(4.0, sgd)
    assert trainer.model.computed_in is torch.bfloat16
    assert not trainer.grad_scaler.is_enabled()
    assert change == pytest.approx(-0.5 * 4.0)  # -lr * gradient
    assert "grad_scaler" not in trainer.state_dict()


def clipped_sgd(parameters: list) -> torch.optim.Optimizer:
    """The optimizer that Detectron2 builds with clipping of each gradient's norm to 1."""
    from detectron2.config import get_cfg
    from detectron2.solver.build import maybe_add_gradient_clipping

    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(parameters, lr=0.5)


@pytest.mark.parametrize(("value", "gradient"), [(4.0, 1.0), (0.25, 0.25)])
def test_clipping_sees_the_gradients_without_the_loss_scale(value: float, gradient: float) -> None:
    """With scaled gradients 0.25 would count as 256 and be clipped to 1 as well."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    _, change = run_amp_step(value, clipped_sgd, scaler=scaler)
    assert change == pytest.approx(-0.5 * gradient, rel=1e-5)


def test_overflow_skips_the_step_and_the_scale_survives_a_resume() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    trainer, change = run_amp_step(2.0**100, sgd, scaler=scaler)  # 2^140 is beyond float32
    assert change == 0.0
    assert trainer.grad_scaler.get_scale() == 2.0**39

    other = AMPTrainer(TinyModel(), [], sgd([nn.Parameter(torch.zeros(1, 1))]))
    other.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    other.load_state_dict(trainer.state_dict())
    assert other.grad_scaler.get_scale() == 2.0**39


def test_state_without_loss_scale_loads() -> None:
    trainer, _ = run_amp_step(1.0, sgd)
    state = trainer.state_dict()
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer.load_state_dict(state)
    assert trainer.grad_scaler.get_scale() == 2.0


def test_default_trainer_takes_this_amp_trainer() -> None:
    import detectron2.engine.defaults as defaults

    apply_to_engine()
    assert defaults.AMPTrainer is AMPTrainer


def test_a_loss_that_is_no_number_is_raised_and_no_traceback_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Detectron2 main logs it and raises it; the training may go on from an older checkpoint."""
    log = logging.getLogger("detectron2.engine.train_loop")
    error: Exception = FloatingPointError("Loss became infinite or NaN")

    def write(*_: object) -> None:
        try:
            raise error
        except Exception:
            log.exception("Exception in writing metrics: ")
            raise

    monkeypatch.setattr(SimpleTrainer, "_write_metrics", write)
    with pytest.raises(FloatingPointError):
        run_amp_step(1.0, sgd)
    assert not caplog.records
    error = OSError("the disk is full")  # another error is logged as ever
    with pytest.raises(OSError):
        run_amp_step(1.0, sgd)
    assert len(caplog.records) == 1 and not log.filters


def test_amp_refuses_a_model_in_evaluation_mode() -> None:
    trainer, _ = run_amp_step(1.0, sgd)
    trainer.model.eval()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        trainer.run_step()
