"""Maps of numbers over an image: heat around one pixel, probabilities, and lines where cells part.

The maps may be coarser than the image, as those of a network's grid are, and are stretched over it.
What `overlays` says about colours and `scale` holds here, too.

Shape shorthand: H, W image size in pixels; h, w size of a map. Results are
(scale * H, scale * W, 3) uint8 RGB.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from panoptic_common.drawing.strokes import ImageArray, as_image, enlarge, paint_heat

_MARK = (80, 255, 120)
_LINE = (255, 226, 64)


def draw_heat(
    image: npt.ArrayLike,
    values: npt.ArrayLike,
    pixel: tuple[float, float],
    *,
    alpha: float = 0.75,
    scale: int = 1,
) -> ImageArray:
    """Paint how strongly one pixel is tied to every other.

    The heat runs from the smallest to the largest value of this very map. Only where the values are
    high does colour cover the image; the rest stays dark grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        values: (h, w) real numbers of any scale, stretched over the image; those that are not
            finite count as the smallest.
        pixel: (x, y) of the pixel in the image, marked by a cross.
        alpha: opacity of the strongest heat, 0..1.
        scale: factor by which to enlarge.

    Raises:
        ValueError: `values` is no (h, w) map.
    """
    canvas = enlarge(as_image(image), scale)
    heat = np.array(values, dtype=np.float32)
    if heat.ndim != 2 or heat.size == 0:
        raise ValueError(f"a map of heat is (h, w), got shape {heat.shape}")
    finite = np.isfinite(heat)
    low = float(heat[finite].min()) if finite.any() else 0.0
    high = float(heat[finite].max()) if finite.any() else 0.0
    relative = np.where(finite, heat - low, 0) / max(high - low, 1e-12)
    result = paint_heat(canvas, relative, alpha)
    _mark_pixel(result, _on_canvas(pixel, scale))
    return result


def _mark_pixel(image: ImageArray, centre: tuple[int, int]) -> None:
    """Draw a cross in a circle, light on a dark rim so that it shows on any heat."""
    size = max(9, min(image.shape[:2]) // 14)
    for colour, thickness in (((0, 0, 0), 4), (_MARK, 2)):
        cv2.drawMarker(image, centre, colour, cv2.MARKER_CROSS, size, thickness, cv2.LINE_AA)
        cv2.circle(image, centre, size // 2, colour, thickness, cv2.LINE_AA)


def draw_probabilities(
    image: npt.ArrayLike, probabilities: npt.ArrayLike, *, alpha: float = 0.85, scale: int = 1
) -> ImageArray:
    """Paint a probability per cell.

    Unlike in `draw_heat`, the heat has a fixed scale, so that images can be compared.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (h, w) numbers 0..1, stretched over the image in squares.
        alpha: opacity of a probability of 1, 0..1.
        scale: factor by which to enlarge.

    Raises:
        ValueError: no (h, w) map, or values outside 0..1.
    """
    values = _shares(probabilities, "a map of probabilities")
    return paint_heat(enlarge(as_image(image), scale), values, alpha, blocks=True)


def draw_lines(
    image: npt.ArrayLike,
    shares: npt.ArrayLike,
    *,
    colour: tuple[int, int, int] = _LINE,
    scale: int = 1,
) -> ImageArray:
    """Draw lines through the cells that a map marks, over a darker image.

    Args:
        image: (H, W, 3) uint8 RGB.
        shares: (h, w) how much of a line runs through each cell, 0..1, stretched over the image in
            squares; bool for all or nothing.
        colour: of a cell whose share is 1.
        scale: factor by which to enlarge.

    Raises:
        ValueError: no (h, w) map, or values outside 0..1.
    """
    values = _shares(shares, "a map of lines")
    canvas = enlarge(as_image(image), scale)
    size = (canvas.shape[1], canvas.shape[0])
    share = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST))[:, :, None]
    opacity = np.where(share > 0, 0.5 + 0.5 * share, 0)  # half a line is a line, too
    mixed = 0.5 * canvas * (1 - opacity) + np.array(colour) * opacity
    return np.ascontiguousarray(mixed.round().clip(0, 255).astype(np.uint8))


def draw_links(
    image: npt.ArrayLike,
    centre: tuple[float, float],
    ends: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    is_cut: npt.ArrayLike,
    *,
    scale: int = 1,
) -> ImageArray:
    """Draw what ties one place to others: a line to each, and a mark at its end.

    The colour of a mark runs from blue (surely joined) over white to red (surely cut). A filled
    disc is an edge that was joined, a ring with a cross one that was cut.

    Args:
        image: (H, W, 3) uint8 RGB.
        centre: (x, y) of the place, in pixels of the image.
        ends: (N, 2) the same of the others.
        probabilities: (N,) of a cut, 0..1.
        is_cut: (N,) bool, whether it was cut.
        scale: factor by which to enlarge.

    Raises:
        ValueError: the lengths disagree, or probabilities outside 0..1.
    """
    places = np.asarray(ends, dtype=np.float64).reshape(-1, 2)
    cut_shares = np.asarray(probabilities, dtype=np.float64)
    flags = np.asarray(is_cut, dtype=bool)
    if not len(places) == len(cut_shares) == len(flags):
        raise ValueError(
            f"{len(places)} ends with {len(cut_shares)} probabilities and {len(flags)} cuts"
        )
    if len(cut_shares) and not (cut_shares.min() >= 0 and cut_shares.max() <= 1):
        raise ValueError(f"probabilities from {cut_shares.min()} to {cut_shares.max()}: use 0..1")
    grey = enlarge(as_image(image), scale).astype(np.float32).mean(axis=2, keepdims=True)
    canvas: ImageArray = np.ascontiguousarray((0.6 * grey).repeat(3, axis=2).astype(np.uint8))
    start = _on_canvas(centre, scale)
    marks = [_on_canvas((x, y), scale) for x, y in places.tolist()]
    for mark in marks:
        cv2.line(canvas, start, mark, (150, 150, 150), 1, cv2.LINE_AA)
    radius = max(3, min(canvas.shape[:2]) // 80)
    # The far ones first: near ones lie closer together and stay on top.
    for k in sorted(range(len(marks)), key=lambda k: -float(np.hypot(*(places[k] - centre)))):
        colour = _cut_colour(float(cut_shares[k]))
        cv2.circle(canvas, marks[k], radius + 1, (0, 0, 0), cv2.FILLED, cv2.LINE_AA)
        if flags[k]:
            cv2.circle(canvas, marks[k], radius, colour, 1, cv2.LINE_AA)
            size = 2 * radius - 2
            cv2.drawMarker(canvas, marks[k], colour, cv2.MARKER_TILTED_CROSS, size, 1, cv2.LINE_AA)
        else:
            cv2.circle(canvas, marks[k], radius, colour, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(canvas, start, radius, _MARK, 2, cv2.LINE_AA)
    return canvas


def _on_canvas(place: tuple[float, float], scale: int) -> tuple[int, int]:
    """Return where the middle of a pixel lies on an enlarged image."""
    return round((place[0] + 0.5) * scale), round((place[1] + 0.5) * scale)


def _cut_colour(probability: float) -> tuple[int, int, int]:
    """Return blue for 0, white for 0.5, red for 1, and what lies between."""
    ends = ((64, 120, 255), (245, 245, 245), (255, 64, 48))
    low, part = (0, 2 * probability) if probability < 0.5 else (1, 2 * probability - 1)
    mixed = [a + (b - a) * part for a, b in zip(ends[low], ends[low + 1], strict=True)]
    return round(mixed[0]), round(mixed[1]), round(mixed[2])


def _shares(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float32]:
    """Return an (h, w) map of numbers 0..1, checked."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{what} is (h, w), got shape {array.shape}")
    if not (array.min() >= 0 and array.max() <= 1):  # also refuses nan
        raise ValueError(f"{what} holds numbers 0..1, got {array.min()}..{array.max()}")
    return array
