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

from panoptic_common.runtime.intensity import change_values, check_format, value_table


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
        table = value_table(
            image,
            grey=self.grey,
            percentiles=self.percentiles,
            dark_background=self.dark_background,
            image_format=self.image_format,
        )
        return IntensityTransform(table, self.grey, self.image_format)


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
        return change_values(img, self.table, grey=self.grey, image_format=self.image_format)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the coordinates as they are."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the label map as it is."""
        return segmentation

    def inverse(self) -> Transform:
        """Return a transform that leaves geometry alone; the values cannot be restored."""
        return NoOpTransform()
