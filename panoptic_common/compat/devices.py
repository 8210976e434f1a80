"""The device on which a model lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def device_type(model: nn.Module) -> str:
    """Return "cuda", "cpu", ...: the device of the first parameter ("cpu" without any)."""
    return next((parameter.device.type for parameter in model.parameters()), "cpu")
