"""Confusion matrices as images: rows are the truth, columns the prediction.

Shape shorthand: K classes. Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from panoptic_common.drawing.strokes import ImageArray, TextStyle

_PAPER, _LINE = (24, 26, 30), (255, 226, 64)
_MARGIN = 8
_LEGIBLE = 24  # pixels along a cell that two digits need


def draw_confusion(
    shares: npt.ArrayLike,
    names: Sequence[str],
    split: int = 0,
    cell: int | None = None,
) -> ImageArray:
    """Draw a matrix of shares as heat, with the names of its rows, and of its columns on end.

    Args:
        shares: (K, K) numbers 0..1, row by row; nan for a class that does not occur (left dark).
        names: of the K classes.
        split: a line parts the first `split` classes from the others; 0 and K draw none.
        cell: pixels along a cell; None: 36 for up to 24 classes, else 18. From 24 on, each cell
            also has its percentage in digits.

    Returns:
        A square image.

    Raises:
        ValueError: no square matrix with one name per row, or values outside 0..1.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.ndim != 2 or values.shape != (len(names), len(names)) or not names:
        raise ValueError(f"{len(names)} names for a matrix of shape {values.shape}")
    known = np.isfinite(values)
    if known.any() and not (values[known].min() >= 0 and values[known].max() <= 1):
        raise ValueError(
            f"shares are numbers 0..1, got {values[known].min()}..{values[known].max()}"
        )
    side = cell or (36 if len(names) <= 24 else 18)
    style = TextStyle(0.4, 1)
    room = max(style.size(name)[0] for name in names) + _MARGIN
    length = side * len(names)
    image: ImageArray = np.full((room + length + _MARGIN,) * 2 + (3,), _PAPER, np.uint8)
    heat = np.where(known, values, 0) ** 0.5  # small confusions stay visible
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    colours = np.where(known[:, :, None], colours[:, :, ::-1], np.array(_PAPER)).astype(np.uint8)
    image[room : room + length, room : room + length] = colours.repeat(side, 0).repeat(side, 1)
    beside = _names_beside_rows((length, room), names, side, style, at_right=True)
    image[room : room + length, :room] = beside
    above = _names_beside_rows((length, room), names, side, style, at_right=False)
    image[:room, room : room + length] = np.rot90(above)  # they read upwards
    if side >= _LEGIBLE:
        for row, column in zip(*np.nonzero(known), strict=True):
            centre = (room + side * int(column) + side // 2, room + side * int(row) + side // 2)
            red, green, blue = (int(c) for c in colours[row, column])
            style.write(image, f"{100 * values[row, column]:.0f}", centre, (red, green, blue))
    if 0 < split < len(names):
        place = room + side * split
        cv2.line(image, (room, place), (room + length, place), _LINE, 2)
        cv2.line(image, (place, room), (place, room + length), _LINE, 2)
    return image


def _names_beside_rows(
    size: tuple[int, int], names: Sequence[str], side: int, style: TextStyle, at_right: bool
) -> ImageArray:
    """Write a name beside each row of `side` pixels, at one edge of a strip of (H, W) pixels."""
    strip: ImageArray = np.full((*size, 3), _PAPER, np.uint8)
    for row, name in enumerate(names):
        half = style.size(name)[0] // 2 + 2
        style.write(strip, name, (size[1] - half if at_right else half, side * row + side // 2))
    return strip
