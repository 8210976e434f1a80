"""Work-arounds inside Detectron2's engine; importing this module imports that engine."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from panoptic_common.compat.amp_trainer import AMPTrainer
from panoptic_common.compat.devices import device_type
from panoptic_common.compat.shims import shim

import detectron2.engine.defaults as defaults
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch import nn


@shim(until="Detectron2's create_ddp_model asks for the device of the model")
def allow_ddp_on_cpu() -> bool:
    """Detectron2 always passes device_ids to DistributedDataParallel, a ValueError on the CPU."""
    original = defaults.create_ddp_model
    if getattr(original, "allows_cpu", False):
        return False

    @functools.wraps(original)
    def create_ddp_model(model: nn.Module, **options: Any) -> nn.Module:
        if device_type(model) != "cuda":
            options.setdefault("device_ids", None)
        return original(model, **options)

    vars(create_ddp_model)["allows_cpu"] = True
    defaults.create_ddp_model = create_ddp_model
    return True


@shim(until="Detectron2 passes forward_sync_buffers; main does not yet")
def rename_broadcast_buffers() -> bool:
    """Torch 2.14 warns of broadcast_buffers in each process of a training; users cannot act.

    The new option sends buffers around once, at the start. They are the same everywhere by then.
    """
    original = defaults.create_ddp_model
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    if getattr(original, "renames", False) or "forward_sync_buffers" not in known:
        return False

    @functools.wraps(original)
    def create_ddp_model(model: nn.Module, **options: Any) -> nn.Module:
        if "broadcast_buffers" in options:
            options["forward_sync_buffers"] = options.pop("broadcast_buffers")
        return original(model, **options)

    vars(create_ddp_model)["renames"] = True
    defaults.create_ddp_model = create_ddp_model
    return True


@shim(until="Detectron2's AMPTrainer uses torch.amp and runs on the CPU")
def use_torch_amp() -> bool:
    """Detectron2's AMPTrainer asserts CUDA and uses the deprecated torch.cuda.amp."""
    if defaults.AMPTrainer is AMPTrainer:
        return False
    defaults.AMPTrainer = AMPTrainer
    return True


def apply_to_engine() -> None:
    """Apply the work-arounds inside ``detectron2.engine``; safe to repeat.

    To be called before a ``DefaultTrainer`` is built. `launch` does it in each process.
    """
    allow_ddp_on_cpu()
    rename_broadcast_buffers()
    use_torch_amp()
