"""The semantic output of a model as a map of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# Of an output: what the channels of "sem_seg" stand for, where channel k is not class k.
CHANNELS = "sem_seg_classes"
SOME_THING = -1  # a channel for all things together


def semantic_map(output: Mapping[str, Any]) -> torch.Tensor:
    """Find the best class of each pixel.

    Args:
        output: of a model for one image. "sem_seg" is (C, H, W) scores. "sem_seg_classes", if
            there, lists the contiguous class of each of the C channels, or `SOME_THING`.

    Returns:
        (H, W) int64 contiguous classes; `SOME_THING` where it is a thing of unknown class.
    """
    channels = torch.as_tensor(output["sem_seg"]).detach().argmax(dim=0)
    if CHANNELS not in output:
        return channels
    return torch.as_tensor(output[CHANNELS], device=channels.device)[channels]
