"""Automatic mixed precision by ``torch.amp``, on CUDA and on the CPU.

Detectron2's class of the same name asserts CUDA and builds on ``torch.cuda.amp``, which torch has
deprecated. `panoptic_common.compat.engine.apply_to_engine` puts this one in its place, so that
``SOLVER.AMP.ENABLED`` selects it in ``DefaultTrainer``.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from panoptic_common.compat.devices import device_type

import torch
from detectron2.engine.train_loop import SimpleTrainer
from torch import nn

logger = logging.getLogger(__name__)


class AMPTrainer(SimpleTrainer):
    """Trainer with automatic mixed precision by ``torch.amp``, on CUDA and on the CPU.

    Takes the place of Detectron2's class of the same name inside ``DefaultTrainer``. The
    optimizer's own ``step`` may clip gradients (Detectron2 wraps it so). The scaler divides
    the gradients by its scale before it calls ``step``, hence the clipping sees true values.

    Args:
        model: returns a dict of losses in training mode; may be wrapped in DDP.
        data_loader: an iterable of batches.
        optimizer: updates the parameters of ``model``.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.device_type = device_type(model)
        on_cuda = self.device_type == "cuda"
        # The CPU has no fast float16.
        self.precision = torch.float16 if on_cuda else torch.bfloat16
        # bfloat16 has the exponent range of float32, so only float16 needs loss scaling. A
        # disabled scaler passes everything through.
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=on_cuda)

    def run_step(self) -> None:
        """Run one iteration: forward under autocast, backward, step."""
        if not self.model.training:
            raise RuntimeError("the model was switched to evaluation mode during training")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        with torch.autocast(self.device_type, dtype=self.precision):
            losses = self.model(data)
            if isinstance(losses, torch.Tensor):
                losses = {"total_loss": losses}
            total = sum(losses.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        if hasattr(self, "after_backward"):  # a hook point of Detectron2 main
            self.after_backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Add the loss scale to the state, without which a resumed run would differ."""
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the loss scale; a run that was saved without one starts a fresh one."""
        super().load_state_dict(state_dict)
        if not self.grad_scaler.is_enabled():
            return
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        else:
            logger.warning("The checkpoint was saved without loss scaling: a fresh scale.")
