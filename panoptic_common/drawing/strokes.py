"""The strokes that overlays and sheets are made of: blending, outlines, letters, enlargement.

Shape shorthand: H, W image size in pixels. Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (245, 245, 245)


class TextStyle(NamedTuple):
    """Size of letters and lines."""

    font_scale: float
    thickness: int

    @classmethod
    def for_image(cls, image: ImageArray) -> TextStyle:
        """Choose letters about a fortieth of the shorter side high, but legible."""
        short = min(image.shape[:2])
        return cls(min(1.2, max(0.35, short / 1000)), 1 if short < 700 else 2)

    def size(self, text: str) -> tuple[int, int]:
        """Return (width, height) in pixels of a text with its margin."""
        (width, height), baseline = cv2.getTextSize(text, _FONT, self.font_scale, self.thickness)
        return width + 6, height + baseline + 4

    def box(
        self, text: str, centre: tuple[int, int], image: ImageArray
    ) -> tuple[int, int, int, int]:
        """Return (x0, y0, x1, y1) of the text around `centre`, moved into the image if it fits."""
        width, height = self.size(text)
        x0 = max(0, min(centre[0] - width // 2, image.shape[1] - width))
        y0 = max(0, min(centre[1] - height // 2, image.shape[0] - height))
        return x0, y0, x0 + width, y0 + height

    def write(
        self,
        image: ImageArray,
        text: str,
        centre: tuple[int, int],
        colour: tuple[int, int, int] | None = None,
    ) -> None:
        """Write on a plate of `colour` (on no plate without one), in black or white by contrast."""
        x0, y0, x1, y1 = self.box(text, centre, image)
        ink = _INK
        if colour is not None:
            cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), colour, cv2.FILLED)
            luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
            ink = (10, 10, 10) if luminance > 140 else _INK
        baseline = cv2.getTextSize(text, _FONT, self.font_scale, self.thickness)[1]
        origin = (x0 + 3, y1 - baseline - 2)
        cv2.putText(image, text, origin, _FONT, self.font_scale, ink, self.thickness, cv2.LINE_AA)


def write_names(
    image: ImageArray,
    present: npt.NDArray[Any],
    index: npt.NDArray[Any],
    captions: Mapping[int, str],
) -> None:
    """Write each segment's caption at its innermost point, large segments first, no overlaps."""
    style = TextStyle.for_image(image)
    areas = np.bincount(index.ravel(), minlength=len(present))
    taken: list[tuple[int, int, int, int]] = []
    for position in np.argsort(-areas, kind="stable").tolist():
        caption = captions.get(int(present[position]))
        if caption is None:
            continue
        width, height = style.size(caption)
        if areas[position] < 0.35 * width * height:  # a name much larger than its segment
            continue
        box = style.box(caption, _innermost(index == position), image)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        plate = image[box[1] : box[3], box[0] : box[2]]
        plate[:] = (0.35 * plate).astype(np.uint8)  # darkened, so that white is legible
        style.write(image, caption, ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2))


def _innermost(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return (x, y) of the pixel of a mask that is farthest from its outline."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    distance = cv2.distanceTransform(np.pad(crop, 1).astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return left + int(x) - 1, top + int(y) - 1


def draw_outlines(image: ImageArray, labels: npt.NDArray[Any], thickness: int) -> None:
    """Draw light lines where labels change."""
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    if thickness > 1:
        edge = cv2.dilate(edge, np.ones((thickness, thickness), np.uint8)).astype(np.uint8)
    line = edge.astype(bool)
    image[line] = (0.25 * image[line] + 0.75 * 255).astype(np.uint8)


def blend(image: ImageArray, colours: npt.NDArray[Any], alpha: float) -> ImageArray:
    """Mix an image with `colours` (H, W, 3), of which `alpha` is the share, 0..1."""
    mixed = image * np.float32(1 - alpha) + colours * np.float32(alpha)
    return np.ascontiguousarray(mixed.round().clip(0, 255).astype(np.uint8))


def paint_heat(
    image: ImageArray, values: npt.NDArray[Any], alpha: float, *, blocks: bool = False
) -> ImageArray:
    """Paint heat over a darkened grey copy of an image; the colder, the more of it shows.

    Args:
        image: (H, W, 3).
        values: (h, w) real numbers, cut to 0..1 and stretched over the image.
        alpha: opacity of the strongest heat, 0..1.
        blocks: stretch into even squares instead of smoothly.
    """
    size = (image.shape[1], image.shape[0])
    method = cv2.INTER_NEAREST if blocks else cv2.INTER_LINEAR
    heat = cv2.resize(values.astype(np.float32), size, interpolation=method)
    heat = np.asarray(heat, np.float32).clip(0, 1)
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) * 0.55
    opacity = alpha * heat[:, :, None] ** 0.7  # faint values stay visible
    mixed = grey * (1 - opacity) + colours[:, :, ::-1] * opacity
    return np.ascontiguousarray(mixed.round().clip(0, 255).astype(np.uint8))


def as_image(image: npt.ArrayLike) -> ImageArray:
    """Check that an array is an image, and copy it.

    Raises:
        ValueError: it is not (H, W, 3) uint8, or is empty.
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise ValueError(f"an image is (H, W, 3) uint8 RGB, got {array.shape} {array.dtype}")
    return np.array(array, order="C")  # a copy: drawing must not change the input


def enlarge(image: ImageArray, scale: int) -> ImageArray:
    """Enlarge an image smoothly by a whole factor.

    Raises:
        ValueError: `scale` is no whole number from 1.
    """
    if scale < 1 or int(scale) != scale:
        raise ValueError(f"scale must be a whole number from 1, got {scale}")
    if scale == 1:
        return image
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)


def legible_scale(image: ImageArray, width: int = 512) -> int:
    """Return the whole factor that brings an image to about `width` pixels, at least 1.

    Names can be read from about 512 pixels on.
    """
    return max(1, round(width / image.shape[1]))


def enlarge_labels(
    labels: npt.NDArray[Any], scale: int, canvas: ImageArray
) -> npt.NDArray[np.int64]:
    """Repeat each pixel of an (H, W) map `scale` times in both directions.

    Raises:
        ValueError: its size is then not that of the canvas.
    """
    if labels.ndim != 2 or tuple(scale * n for n in labels.shape) != canvas.shape[:2]:
        height, width = (n // scale for n in canvas.shape[:2])
        raise ValueError(f"the map is {labels.shape}, the image ({height}, {width})")
    return labels.astype(np.int64).repeat(scale, axis=0).repeat(scale, axis=1)


def fit_width(image: ImageArray, width: int) -> ImageArray:
    """Scale an image to a width."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = width < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)
