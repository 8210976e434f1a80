"""The order in which a network's weights and features lie in memory."""

from __future__ import annotations

from panoptic_common.compat.devices import device_type

import torch
from torch import nn


def lay_out(model: nn.Module) -> nn.Module:
    """Order weights channels last where convolutions are faster so, in place.

    On a CPU that takes a tenth off a training in single precision, and more in bfloat16
    (docs/benchmark.md). Values are the same but for rounding. Elsewhere nothing changes.

    Args:
        model: on its device.

    Returns:
        The model.
    """
    if device_type(model) == "cpu":
        model.to(memory_format=torch.channels_last)
    return model
