"""Grey, stretch and invert images: the arithmetic of `panoptic_common.data.intensity`.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]

# ITU-R BT.601 luma, in the order red, green, blue: how bright a colour looks.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def value_table(
    image: ByteArray,
    *,
    grey: bool,
    percentiles: Sequence[float],
    dark_background: bool,
    image_format: str,
) -> ByteArray:
    """Find the new value of each of 256 old ones for one image.

    Args:
        image: (H, W, 3).
        grey: whether the values are those of the luma.
        percentiles: (low, high) percentiles of all values that become 0 and 255; () keeps values.
        dark_background: invert an image of which more than half is brighter than 127.
        image_format: "BGR" or "RGB".

    Returns:
        (256,) uint8.
    """
    seen = luma(image, image_format) if grey else image
    counts = np.bincount(seen.reshape(-1), minlength=256)
    table = np.arange(256, dtype=np.float64)
    if percentiles:
        low, high = (_percentile(counts, share) for share in percentiles)
        # A flat image has nothing to stretch.
        table = (table - low) * 255.0 / (high - low) if high > low else table
        table = table.clip(0, 255)
    if dark_background and table[_percentile(counts, 50)] > 127:
        table = 255 - table
    return (table + 0.5).astype(np.uint8)


def change_values(
    image: ByteArray, table: ByteArray, *, grey: bool, image_format: str
) -> ByteArray:
    """Change all values of an image by a table.

    Args:
        image: (H, W, 3).
        table: (256,) of `value_table`.
        grey: whether the values are those of the luma.
        image_format: "BGR" or "RGB".

    Returns:
        A new (H, W, 3).

    Raises:
        ValueError: an image of another form.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"intensities need (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if not grey:
        return table[image]
    values = table[luma(image, image_format)]
    return np.repeat(values[:, :, None], 3, axis=2)


def luma(image: ByteArray, image_format: str) -> ByteArray:
    """Compute the (H, W) uint8 luma of an (H, W, 3) uint8 image, rounded.

    Grey images keep their values exactly: the three weights sum to 1.
    """
    weights = LUMA[::-1] if image_format == "BGR" else LUMA
    return (image.astype(np.float32) @ np.ascontiguousarray(weights) + 0.5).astype(np.uint8)


def _percentile(counts: npt.NDArray[Any], percent: float) -> int:
    """Find the least value with at least a share of all counts up to it; never an empty one."""
    cumulated = counts.cumsum()
    wanted = max(percent / 100 * cumulated[-1], 1)
    return int(np.searchsorted(cumulated, wanted))


def check_format(image_format: str) -> None:
    """Refuse a channel order other than "BGR" and "RGB"."""
    if image_format not in ("BGR", "RGB"):
        raise ValueError(f"INPUT.FORMAT is {image_format!r}: use BGR or RGB")
