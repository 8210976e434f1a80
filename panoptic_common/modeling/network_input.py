"""From the mapper's images to what a network takes: normalised, of one size, on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import ImageList


def normalised_batch(
    batched_inputs: Sequence[dict],
    pixel_mean: torch.Tensor,
    pixel_std: torch.Tensor,
    divisibility: int,
) -> ImageList:
    """Normalise images and pad them with 0, the mean, at the right and at the bottom.

    Args:
        batched_inputs: N dicts with "image" (C, H_i, W_i), values 0 to 255.
        pixel_mean: (C, 1, 1), on the network's device.
        pixel_std: (C, 1, 1), likewise.
        divisibility: the padded sides are multiples of it; 0 and 1 pad to the largest sides only.

    Returns:
        (N, C, H, W) float32 on the device of `pixel_mean`, and the sizes before padding.
    """
    images = [x["image"].to(pixel_mean.device).float() for x in batched_inputs]
    images = [(image - pixel_mean) / pixel_std for image in images]
    return ImageList.from_tensors(images, divisibility)
