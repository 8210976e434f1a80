"""Masks of what people draw: polygons, rectangles, circles, ellipses and run lengths.

Coordinates are in pixels, x to the right and y downwards; the pixel at the top left covers 0 to 1.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from panoptic_common.values import is_integer, is_whole

BoolMap = npt.NDArray[np.bool_]
Size = tuple[int, int]


def as_points(values: Any) -> npt.NDArray[np.float64]:
    """Read (N, 2) points x, y from pairs of numbers, or from a flat list x, y, x, y, ...

    Raises:
        ValueError: they are no points, or not finite.
    """
    try:
        if not _holds_numbers(values):  # numpy would take texts, and true for 1
            raise TypeError
        given = np.asarray(values, dtype=np.float64)
        if given.ndim > 1 and given.shape[1:] != (2,):  # of triples it would make other pairs
            raise TypeError
        points = given.reshape(-1, 2)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("its points are no pairs of numbers x, y") from None
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    return points


def _holds_numbers(values: Any) -> bool:
    """Tell whether lists, nested or flat, hold numbers alone."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "iuf"
    if isinstance(values, (list, tuple)):
        return all(
            _holds_numbers(value)
            if isinstance(value, (list, tuple, np.ndarray))
            else is_integer(value) or isinstance(value, float)
            for value in values
        )
    return False


def polygon_mask(polygons: Sequence[Any], size: Size) -> BoolMap:
    """Fill polygons; what lies in several of them is inside.

    Args:
        polygons: each (N, 2) points, or the flat list x, y, x, y, ... that COCO has.
        size: (H, W).

    Raises:
        ValueError: fewer than three points, or one further from the image than its own size.
    """
    # Imported here: most of this room needs no pycocotools.
    from pycocotools import mask as rle

    flat = []
    for polygon in polygons:
        points = as_points(polygon)
        if len(points) < 3:
            raise ValueError(f"a polygon of {len(points)} points has no area")
        # Huge coordinates would take as much memory as their outlines are long.
        width, height = size[1], size[0]
        if (points < [-width, -height]).any() or (points > [2 * width, 2 * height]).any():
            raise ValueError("a polygon reaches far beyond the image: are its coordinates pixels?")
        flat.append(points.ravel().tolist())
    if not flat:
        return np.zeros(size, np.bool_)
    return np.asarray(rle.decode(rle.merge(rle.frPyObjects(flat, *size)))).astype(np.bool_)


def box_mask(corners: Any, size: Size, turn: float = 0.0) -> BoolMap:
    """Fill a box.

    Args:
        corners: two opposite corners x, y.
        size: (H, W).
        turn: clockwise about its middle, in degrees.

    Raises:
        ValueError: as `polygon_mask`, or if there are not two corners.
    """
    points = as_points(corners)
    if len(points) != 2:
        raise ValueError(f"a box has two corners, not {len(points)}")
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return polygon_mask([_turned([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], turn)], size)


def ellipse_mask(centre: Any, radii: Any, size: Size, turn: float = 0.0) -> BoolMap:
    """Fill an ellipse.

    Args:
        centre: x, y.
        radii: along x and along y, before it is turned.
        size: (H, W).
        turn: clockwise about its centre, in degrees.

    Raises:
        ValueError: as `polygon_mask`.
    """
    angles = np.arange(120) * (2 * np.pi / 120)
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=1) * as_points(radii) + as_points(centre)
    return polygon_mask([_turned(rim, turn)], size)


def _turned(points: Any, degrees: float) -> npt.NDArray[np.float64]:
    """Turn points about their mean, clockwise as y points down."""
    values = as_points(points)
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    middle = values.mean(axis=0)
    turned: npt.NDArray[np.float64] = (values - middle) @ [[cosine, sine], [-sine, cosine]] + middle
    return turned


def runs_mask(counts: Sequence[int], size: Size, *, by_columns: bool) -> BoolMap:
    """Expand run lengths, of which the first is of background.

    Args:
        counts: lengths of runs of background and of the mask by turns.
        size: (H, W).
        by_columns: whether they run down the columns, as COCO's, or along the rows, as CVAT's.

    Raises:
        ValueError: they are no whole numbers, or do not cover H W pixels.
    """
    if not isinstance(counts, (list, tuple)) or not all(map(is_whole, counts)):
        raise ValueError("its run lengths are no whole numbers")
    pixels = size[0] * size[1]
    # Each is looked at before their sum, which could wrap around to the right number.
    if not all(0 <= count <= pixels for count in counts) or sum(map(int, counts)) != pixels:
        raise ValueError(f"its run lengths do not cover {size[1]} x {size[0]} pixels")
    lengths = np.asarray(counts, dtype=np.int64)
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size, order="F" if by_columns else "C")


def coco_mask(segmentation: Any, size: Size) -> BoolMap:
    """Read the `segmentation` of a COCO instance: polygons, run lengths, or compressed ones.

    Raises:
        ValueError: it is none of these, or not of this size.
    """
    if isinstance(segmentation, list):
        return polygon_mask(segmentation, size)
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
        raise ValueError("its segmentation is neither polygons nor run lengths")
    stated = segmentation["size"]
    if not isinstance(stated, (list, tuple)) or not all(map(is_whole, stated)):
        raise ValueError(f"the size of its run lengths is {stated!r}, not [height, width]")
    if tuple(stated) != tuple(size):
        raise ValueError(f"its run lengths are of {stated} pixels (height, width), not {size}")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = _decompress(counts)
    return runs_mask(counts, size, by_columns=True)


def _decompress(text: str) -> list[int]:
    """Read COCO's compressed run lengths: 5 bits per character, differences from the third on.

    pycocotools reads them in C, and beyond the end of its buffer if they do not fit the size.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its compressed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
