"""Images that are in memory already: arrays and Pillow's, to the 8-bit RGB that a file would give.

What cannot be told apart is refused, not guessed. A float image is one of fractions of white. An
array of three channels is RGB unless the caller says "BGR", as OpenCV reads files.

Shape shorthand: H, W image size in pixels; C channels, 1 (grey), 3 or 4 (RGBA).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.coco.image_reading import RGBImage, check_pixels, read_image, upright_rgb

ORDERS = ("RGB", "BGR")
CHANNELS = (1, 3, 4)


def as_rgb(image: Any, order: str = "RGB") -> RGBImage:
    """Turn a file's path, an image of Pillow or an array into 8-bit RGB, upright.

    Args:
        image: a path; an image of Pillow; or an array (H, W) or (H, W, C) of uint8, of uint16, of
            other integers in 0..255, or of floats in 0..1. Alpha is blended over white.
        order: "RGB" or "BGR", of the colours of an array.

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: it is none of these.
        ValueError: an unknown order, a shape or values that no image has, masked pixels, or a
            damaged file.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}: use one of {ORDERS}")
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, Image.Image):
        check_pixels("the image", (image.height, image.width))
        return upright_rgb(image)
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image, order)
    raise TypeError(
        f"a {type(image).__name__} is no image: give a path, an image of Pillow or an array"
    )


def _array_to_rgb(array: npt.NDArray[Any], order: str) -> RGBImage:
    """Convert an (H, W) or (H, W, C) array by the rules of `as_rgb`."""
    if np.ma.is_masked(array):
        raise ValueError(
            "a masked array with masked pixels is no image: give them a value by .filled(...)"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS:
        hint = "; move the channels to the end" if array.ndim == 3 else ""
        raise ValueError(
            f"an array of shape {array.shape} is no image: its shape must be (height, width) or "
            f"(height, width, channels) with 1, 3 or 4 channels{hint}"
        )
    if 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape} has no pixel")
    check_pixels("the array", (array.shape[0], array.shape[1]))
    pixels = _to_bytes(array)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if order == "BGR":
        pixels = np.concatenate([pixels[:, :, 2::-1], pixels[:, :, 3:]], axis=2)
    if pixels.shape[2] == 4:
        return upright_rgb(Image.fromarray(np.ascontiguousarray(pixels)))
    return np.array(pixels, order="C")


def _to_bytes(array: npt.NDArray[Any]) -> RGBImage:
    """Bring values to 0..255.

    Raises:
        TypeError: bools, complex numbers and whatever else is no brightness.
        ValueError: values out of range.
    """
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind not in "iuf":
        raise TypeError(f"an array of {array.dtype} is no image: use uint8, or floats in 0..1")
    least, greatest = float(array.min()), float(array.max())
    if kind == "f":
        if not 0 <= least <= greatest <= 1:  # also if one is not a number
            raise ValueError(
                f"floats from {least:g} to {greatest:g} are no image: they must lie in 0..1; "
                "convert values of 0..255 to uint8"
            )
        return (array * 255.0).round().astype(np.uint8)
    if array.dtype == np.uint16 and greatest > 255:
        return ((array.astype(np.int64) + 128) // 257).astype(np.uint8)
    if least < 0 or greatest > 255:
        raise ValueError(
            f"{array.dtype} values from {least:g} to {greatest:g} are no image: they must lie in "
            "0..255, or be uint16"
        )
    return array.astype(np.uint8)
