"""How much room the checkpoints of a run take, looked at before the run begins."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable

import torch

from panoptic_common.engine.endings import RunRefused

logger = logging.getLogger(__name__)

_OTHER_FILES = 2**20  # bytes for logs, metrics and config


def checkpoint_bytes(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, averaged: bool = False
) -> int:
    """Estimate the size of a checkpoint in bytes, also before the optimizer has any state.

    Args:
        model: that trains.
        optimizer: SGD keeps one value per parameter with momentum and none without; Adam and its
            like keep two.
        averaged: whether an average of the weights is stored beside them.
    """
    if isinstance(optimizer, torch.optim.SGD):
        kept = int(any(group["momentum"] for group in optimizer.param_groups))
    else:
        kept = 2
    trained = (value for group in optimizer.param_groups for value in group["params"])
    return (1 + averaged) * _bytes(model.state_dict().values()) + kept * _bytes(trained)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)


def require_space(folder: str, size: int, number: int) -> None:
    """Refuse a run whose first checkpoint does not fit, and warn if only the last ones do not.

    Args:
        folder: OUTPUT_DIR; exists.
        size: bytes of a checkpoint.
        number: of checkpoints that the run will leave.

    Raises:
        RunRefused: there is no room for one.
    """
    free = shutil.disk_usage(folder).free
    text = f"a checkpoint takes {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
    if free < size + _OTHER_FILES:
        raise RunRefused(
            f"the disk of OUTPUT_DIR {folder} is too full: {text}; free some, or name another "
            "folder"
        )
    # A file is written beside the one that it replaces.
    if free < (number + 1) * size + _OTHER_FILES:
        logger.warning(
            "The disk of OUTPUT_DIR %s may not suffice: %s; this run keeps %d "
            "(SOLVER.CHECKPOINT_KEEP, SOLVER.CHECKPOINT_PERIOD).",
            folder,
            text,
            number,
        )
