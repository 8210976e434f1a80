"""The device on which a model lies, or is to lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def device_type(model: nn.Module) -> str:
    """Return "cpu", "cuda", ...: the device of the first parameter ("cpu" without any)."""
    return next((parameter.device.type for parameter in model.parameters()), "cpu")


def require_device(name: str) -> None:
    """Check that torch can compute on a device, without touching a GPU's memory.

    Args:
        name: such as "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: it cannot; the message is one sentence.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device {name!r} is none that torch knows: use cpu, or cuda for a GPU"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"device {name}: torch sees {count or 'no'} GPU: use cpu")
        return
    try:
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name} cannot be used on this machine: use cpu") from error
