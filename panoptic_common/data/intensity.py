"""Bring images of many microscopes to one look: grey, stretched, bright things on a dark ground.

Fluorescence images use a few of 256 levels, often the lowest 30, while stained tissue is dark on a
bright ground. A network that sees few images learns each look anew. These steps depend on the
image alone, so training and testing apply the same ones, before any other augmentation.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform

# ITU-R BT.601 luma, in the order red, green, blue: how bright a colour looks.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class NormaliseIntensity(T.Augmentation):
    """Grey, stretch and invert an image, each if asked for, in this order.

    Args:
        grey: replace the colour by its luma (ITU-R BT.601), in all three channels.
        percentiles: (low, high) percentiles of all values that become 0 and 255; () keeps values.
        dark_background: invert images of which more than half is brighter than 127.
        image_format: "BGR" or "RGB", the order of the channels of the images.

    Raises:
        ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        grey: bool = False,
        percentiles: Sequence[float] = (),
        dark_background: bool = False,
        image_format: str = "BGR",
    ) -> None:
        super().__init__()
        check_format(image_format)
        values = tuple(float(value) for value in percentiles)
        if values and not (len(values) == 2 and 0 <= values[0] < values[1] <= 100):
            raise ValueError(
                f"INPUT.INTENSITY.PERCENTILES is {values}: give 0 <= low < high <= 100, or ()"
            )
        self.grey, self.percentiles = bool(grey), values
        self.dark_background = bool(dark_background)
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the change that this (H, W, 3) uint8 image needs."""
        counts = np.bincount(self._seen(image).reshape(-1), minlength=256)
        table = np.arange(256, dtype=np.float64)
        if self.percentiles:
            low, high = (_percentile(counts, share) for share in self.percentiles)
            # A flat image has nothing to stretch.
            table = (table - low) * 255.0 / (high - low) if high > low else table
            table = table.clip(0, 255)
        if self.dark_background and table[_percentile(counts, 50)] > 127:
            table = 255 - table
        rounded = (table + 0.5).astype(np.uint8)
        return IntensityTransform(rounded, self.grey, self.image_format)

    def _seen(self, image: np.ndarray) -> np.ndarray:
        return luma(image, self.image_format) if self.grey else image


class IntensityTransform(Transform):
    """One change of all values by a table; coordinates and label maps stay.

    Args:
        table: (256,) uint8, the new value of each old one.
        grey: whether the values are those of the luma.
        image_format: "BGR" or "RGB".
    """

    def __init__(self, table: np.ndarray, grey: bool, image_format: str = "BGR") -> None:
        super().__init__()
        check_format(image_format)
        self.table, self.grey, self.image_format = table, grey, image_format

    def apply_image(self, img: np.ndarray, *_: object) -> np.ndarray:
        """Change an (H, W, 3) uint8 image; returns a new one."""
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
            raise ValueError(f"intensities need (H, W, 3) uint8, got {img.shape} {img.dtype}")
        if not self.grey:
            return self.table[img]
        values = self.table[luma(img, self.image_format)]
        return np.repeat(values[:, :, None], 3, axis=2)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the coordinates as they are."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the label map as it is."""
        return segmentation

    def inverse(self) -> Transform:
        """Return a transform that leaves geometry alone; the values cannot be restored."""
        return NoOpTransform()


def luma(image: np.ndarray, image_format: str) -> np.ndarray:
    """Compute the (H, W) uint8 luma of an (H, W, 3) uint8 image, rounded.

    Grey images keep their values exactly: the three weights sum to 1.
    """
    weights = LUMA[::-1] if image_format == "BGR" else LUMA
    return (image.astype(np.float32) @ np.ascontiguousarray(weights) + 0.5).astype(np.uint8)


def _percentile(counts: np.ndarray, percent: float) -> int:
    """Find the least value with at least a share of all counts up to it; never an empty one."""
    cumulated = counts.cumsum()
    wanted = max(percent / 100 * cumulated[-1], 1)
    return int(np.searchsorted(cumulated, wanted))


def check_format(image_format: str) -> None:
    """Refuse a channel order other than "BGR" and "RGB"."""
    if image_format not in ("BGR", "RGB"):
        raise ValueError(f"INPUT.FORMAT is {image_format!r}: use BGR or RGB")
