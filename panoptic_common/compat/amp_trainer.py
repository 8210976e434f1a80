"""The training step: automatic mixed precision by ``torch.amp``, and batches taken in parts.

Detectron2's ``AMPTrainer`` asserts CUDA and builds on ``torch.cuda.amp``, which torch has
deprecated. `panoptic_common.compat.engine.apply_to_engine` puts this one in its place, so that
``SOLVER.AMP.ENABLED`` selects it in ``DefaultTrainer``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from panoptic_common.compat.devices import device_type

import torch
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

logger = logging.getLogger(__name__)


class AMPTrainer(SimpleTrainer):
    """Trainer with automatic mixed precision by ``torch.amp``, on CUDA and on the CPU.

    Takes the place of Detectron2's class of the same name inside ``DefaultTrainer``. The
    optimizer's own ``step`` may clip gradients (Detectron2 wraps it so). The scaler divides
    the gradients by its scale before it calls ``step``, hence the clipping sees true values.

    With `parts` above 1 the images of a step go through the network in so many equal parts, one
    after another, and the optimizer steps once. The gradient is that of the mean of the parts'
    losses. This is what so many processes would give, and takes the memory of one part. A model
    with a method `prepare_parts` is given all parts first, for losses that are no means.

    Args:
        model: returns a dict of losses in training mode; may be wrapped in DDP.
        data_loader: an iterable of batches.
        optimizer: updates the parameters of ``model``.
        mixed: whether the network runs in mixed precision.
        parts: of a batch, which is a list of images then.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        mixed: bool = True,
        parts: int = 1,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.device_type = device_type(model)
        on_cuda = self.device_type == "cuda"
        self.mixed = mixed
        self.parts = parts
        # The CPU has no fast float16.
        self.precision = torch.float16 if on_cuda else torch.bfloat16
        # bfloat16 has the exponent range of float32, so only float16 needs loss scaling. A
        # disabled scaler passes everything through.
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=mixed and on_cuda)

    def run_step(self) -> None:
        """Run one iteration: forward and backward of each part, step."""
        if not self.model.training:
            raise RuntimeError("the model was switched to evaluation mode during training")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        parts = [data] if self.parts == 1 else _split(data, self.parts)
        losses = []
        for number, (part, context) in enumerate(zip(parts, self._contexts(parts), strict=True), 1):
            with self._gradients_stay_here(number < len(parts)), context:
                losses.append(self._forward_and_backward(part))
        if hasattr(self, "after_backward"):  # a hook point of Detectron2 main
            self.after_backward()
        self._write_metrics(_mean(losses), data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _contexts(self, parts: list[Any]) -> list[AbstractContextManager[Any]]:
        """Return what each part is trained in: what the model asks for, or nothing."""
        model = self.model
        model = model.module if isinstance(model, DistributedDataParallel) else model
        if len(parts) == 1 or not hasattr(model, "prepare_parts"):
            return [contextlib.nullcontext() for _ in parts]
        with torch.autocast(self.device_type, dtype=self.precision, enabled=self.mixed):
            return model.prepare_parts(parts)

    def _forward_and_backward(self, data: Any) -> dict[str, torch.Tensor]:
        """Add the gradient of a part's share of the loss; returns the losses of that part."""
        with torch.autocast(self.device_type, dtype=self.precision, enabled=self.mixed):
            losses = self.model(data)
            if isinstance(losses, torch.Tensor):
                losses = {"total_loss": losses}
            total = sum(losses.values())
        if self.parts > 1:
            total = total / self.parts
        self.grad_scaler.scale(total).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _gradients_stay_here(self, more_to_come: bool) -> AbstractContextManager[Any]:
        """Let processes exchange gradients only after the last part of a batch."""
        if more_to_come and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _write_metrics(
        self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = ""
    ) -> None:
        """Write what Detectron2 does, and the name of a loss that is the only one."""
        with _without_divergence(logging.getLogger(SimpleTrainer.__module__)):
            super()._write_metrics(loss_dict, data_time, prefix)
        if len(loss_dict) == 1 and comm.is_main_process():
            (name,) = loss_dict
            storage = get_event_storage()
            storage.put_scalar(name, storage.latest()[f"{prefix}total_loss"][0])

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


@contextlib.contextmanager
def _without_divergence(log: logging.Logger) -> Iterator[None]:
    """Keep the traceback of a loss that is no number out of a log; the error itself goes on.

    Detectron2 main logs it before it raises it, and training may go on from an older checkpoint.
    """

    def keep(record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        return kind is None or not issubclass(kind, FloatingPointError)

    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


def _split(batch: list[Any], parts: int) -> list[list[Any]]:
    """Cut a batch into parts of equal size, in order."""
    size, rest = divmod(len(batch), parts)
    if rest or not size:
        raise ValueError(f"a batch of {len(batch)} images cannot be cut into {parts} equal parts")
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def _mean(losses: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of each loss over the parts, all of which have the same losses."""
    if len(losses) == 1:
        return losses[0]
    return {name: torch.stack([part[name] for part in losses]).mean() for name in losses[0]}
