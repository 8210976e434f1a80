"""From an image to a network's input, with the numbers of the data mapper and without torch.

A preparation is a dict, so that it can be stored as JSON:

    image_format     "BGR" or "RGB", the order that the network expects
    shortest, longest    as INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST; shortest 0 keeps the size
    scale            as INPUT.TEST_SCALE; 0 resizes by the shortest edge
    intensity        grey, percentiles, dark_background; as INPUT.INTENSITY
    pixel_mean       per channel; what is padded has it
    divisibility     the padded sides are multiples of it
    smallest         least padded height and width

Shapes: H, W pixels of the image; (H_in, W_in) those after resizing, (H_pad, W_pad) after padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.runtime.forms import NOT_NEGATIVE, NUMBER, TEXT, TRUTH, Form, form_problem
from panoptic_common.runtime.intensity import change_values, check_format, value_table

_FORM: Form = {
    "image_format": TEXT,
    "shortest": NOT_NEGATIVE,
    "longest": NOT_NEGATIVE,
    "scale": NOT_NEGATIVE,
    "intensity": {"grey": TRUTH, "percentiles": [NUMBER], "dark_background": TRUTH},
    "pixel_mean": [NUMBER],
    "divisibility": NOT_NEGATIVE,
    "smallest": [NOT_NEGATIVE],
}


def check_preparation(preparation: Mapping[str, Any]) -> None:
    """Refuse a preparation that lacks something.

    Raises:
        KeyError, TypeError, ValueError: saying what.
    """
    if problem := form_problem(preparation, _FORM, "preparation"):
        raise ValueError(problem)
    check_format(preparation["image_format"])
    if len(preparation["pixel_mean"]) != 3 or len(preparation["smallest"]) != 2:
        raise ValueError("pixel_mean has 3 numbers, smallest 2")
    if len(preparation["intensity"]["percentiles"]) not in (0, 2):
        raise ValueError("percentiles are 2 numbers, or none")
    if preparation["longest"] == 0:
        raise ValueError("longest is 0")


def prepare_image(
    image: npt.NDArray[np.uint8], preparation: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """Make the network's input of an image.

    Args:
        image: (H, W, 3) RGB.
        preparation: see the head of this file.

    Returns:
        (1, 3, H_pad, W_pad) values 0 to 255, and (H_in, W_in).
    """
    image_format = preparation["image_format"]
    ordered = image if image_format == "RGB" else image[:, :, ::-1]
    ordered = np.ascontiguousarray(ordered)
    intensity = preparation["intensity"]
    if intensity["grey"] or intensity["percentiles"] or intensity["dark_background"]:
        table = value_table(ordered, **intensity, image_format=image_format)
        ordered = change_values(ordered, table, grey=intensity["grey"], image_format=image_format)
    size = resized_size((ordered.shape[0], ordered.shape[1]), preparation)
    if size != ordered.shape[:2]:
        # As Detectron2 resizes; bilinear in Pillow means a filter that is wider for smaller sizes.
        resized = Image.fromarray(ordered).resize(size[::-1], Image.Resampling.BILINEAR)
        ordered = np.asarray(resized)
    return _padded(ordered, preparation), size


def resized_size(size: tuple[int, int], preparation: Mapping[str, Any]) -> tuple[int, int]:
    """Return (H_in, W_in) of an image of (H, W), with the rounding of the augmentations."""
    height, width = size
    longest = preparation["longest"]
    if preparation["scale"]:
        factor = min(preparation["scale"], longest / max(size))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    shortest = preparation["shortest"]
    if shortest == 0:
        return size
    factor = shortest / min(size)
    new = (shortest, factor * width) if height < width else (factor * height, shortest)
    if max(new) > longest:
        factor = longest / max(new)
        new = new[0] * factor, new[1] * factor
    return int(new[0] + 0.5), int(new[1] + 0.5)


def _padded(
    image: npt.NDArray[np.uint8], preparation: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    step = max(int(preparation["divisibility"]), 1)
    sides = [
        -(-max(side, least) // step) * step
        for side, least in zip(image.shape[:2], preparation["smallest"], strict=True)
    ]
    # The network subtracts the mean, which makes the padding 0 as in training.
    padded = np.empty((1, 3, *sides), dtype=np.float32)
    padded[:] = np.asarray(preparation["pixel_mean"], dtype=np.float32)[:, None, None]
    padded[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return padded
