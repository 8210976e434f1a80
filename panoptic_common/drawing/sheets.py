"""Sheets of images under column titles, and legends of class colours.

Shape shorthand: H, W image size in pixels; K classes in the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from panoptic_common.drawing.overlays import ClassTable, class_colour, class_name
from panoptic_common.drawing.strokes import ImageArray, TextStyle, as_image, fit_width

_PAPER = (24, 26, 30)


def legend(table: ClassTable, width: int, classes: Sequence[int] | None = None) -> ImageArray:
    """Draw a strip of colour swatches with class names.

    Args:
        table: class table.
        width: of the strip in pixels, at least 40; it grows downwards.
        classes: contiguous classes to show; by default all of the table.

    Returns:
        (24 * rows, width, 3) uint8 RGB.

    Raises:
        ValueError: the width is too small.
    """
    if width < 40:
        raise ValueError(f"a legend needs a width of at least 40 pixels, got {width}")
    shown = list(range(len(table))) if classes is None else sorted({int(c) for c in classes})
    style, row, swatch, gap = TextStyle(0.45, 1), 24, 14, 8
    places: list[tuple[int, int]] = []
    x, y = gap, 0
    for label in shown:
        needed = swatch + gap + style.size(class_name(table, label))[0] + gap
        if x > gap and x + needed > width:
            x, y = gap, y + row
        places.append((x, y))
        x += needed
    strip: ImageArray = np.full((y + row, width, 3), _PAPER, np.uint8)
    for label, (left, top) in zip(shown, places, strict=True):
        corner = (left, top + (row - swatch) // 2)
        opposite = (left + swatch, corner[1] + swatch)
        cv2.rectangle(strip, corner, opposite, class_colour(table, label), cv2.FILLED)
        text = class_name(table, label)
        middle = (left + swatch + gap // 2 + style.size(text)[0] // 2, top + row // 2)
        style.write(strip, text, middle)
    return strip


def contact_sheet(
    rows: Sequence[Sequence[ImageArray | None]],
    titles: Sequence[str],
    *,
    panel_width: int = 384,
    footer: ImageArray | None = None,
    gap: int = 6,
) -> ImageArray:
    """Tile images under column titles.

    Args:
        rows: each with one (H, W, 3) RGB image, or None for an empty place, per title; images
            may differ in size, and keep their aspect.
        titles: of the columns.
        panel_width: to which images are scaled, in pixels.
        footer: an image below the sheet, such as a `legend`; cut or padded to its width.
        gap: space between images in pixels.

    Returns:
        The sheet, uint8 RGB, len(titles) * (panel_width + gap) + gap pixels wide.

    Raises:
        ValueError: if a row does not have one image per title, or there is no title.
    """
    if not titles or any(len(row) != len(titles) for row in rows):
        lengths = [len(row) for row in rows]
        raise ValueError(f"every row needs {len(titles)} >= 1 images, got {lengths}")
    width = gap + len(titles) * (panel_width + gap)
    style, head = TextStyle(0.55, 1), 30
    header: ImageArray = np.full((head, width, 3), _PAPER, np.uint8)
    for column, title in enumerate(titles):
        middle = gap + column * (panel_width + gap) + panel_width // 2
        style.write(header, str(title), (middle, head // 2 + 2))
    bands = [header]
    for row in rows:
        panels = [
            None if panel is None else fit_width(as_image(panel), panel_width) for panel in row
        ]
        height = max((len(panel) for panel in panels if panel is not None), default=0)
        band: ImageArray = np.full((height + gap, width, 3), _PAPER, np.uint8)
        for column, panel in enumerate(panels):
            if panel is not None:
                left = gap + column * (panel_width + gap)
                band[: len(panel), left : left + panel_width] = panel
        bands.append(band)
    if footer is not None:
        band = np.full((len(footer) + gap, width, 3), _PAPER, np.uint8)
        shown = footer[:, :width]
        band[: len(footer), : shown.shape[1]] = shown
        bands.append(band)
    return np.concatenate(bands)
