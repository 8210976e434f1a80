"""Put what a test has made on the device that it is run on (the fixture `device`)."""

from __future__ import annotations

from typing import Any

import torch


def placed(device: str, *things: Any) -> Any:
    """Return tensors, and what has a method `to`, on a device; also within tuples and dicts.

    What requires a gradient is a leaf there, too. One thing comes back alone, several as a tuple.
    """
    found = tuple(_placed(device, thing) for thing in things)
    return found[0] if len(found) == 1 else found


def _placed(device: str, thing: Any) -> Any:
    if isinstance(thing, torch.Tensor):
        moved = thing.detach().to(device)
        return moved.requires_grad_() if thing.requires_grad else moved
    if isinstance(thing, dict):
        return {key: _placed(device, value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return type(thing)(_placed(device, value) for value in thing)
    return thing.to(device) if hasattr(thing, "to") else thing
