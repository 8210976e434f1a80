"""Images with errors marked: what was missed, invented, merged, split or drawn wrongly, and where.

What the kinds are called and which segment has which is for the caller to say; here they are
colours. The same input gives the same image.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from panoptic_common.drawing.strokes import ImageArray, as_image, enlarge, enlarge_labels

Colour = tuple[int, int, int]

_OUTLINE = (150, 150, 150)
_FILL, _INEXACT = 0.45, 0.7


def draw_errors(
    image: npt.ArrayLike,
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    *,
    true_colours: Mapping[int, Colour],
    predicted_colours: Mapping[int, Colour],
    pairs: Mapping[int, int],
    inexact: Colour,
    scale: int = 1,
) -> ImageArray:
    """Mark the errors of a prediction on a dark grey copy of the image.

    True segments with a colour are filled with it; predicted ones are drawn as lines, and filled
    where no true one is. Where a matched pair differs, the pixels have the colour `inexact`. All
    other true segments have thin grey lines.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) ids of the true segments, 0 = void.
        prediction: (H, W) ids of the predicted segments, 0 = void.
        true_colours: RGB colour of each true segment that is an error, by id.
        predicted_colours: the same of predicted segments.
        pairs: the predicted id of each true segment that is matched.
        inexact: colour of pixels that one segment of a matched pair has and the other has not.
        scale: factor by which to enlarge.

    Returns:
        (scale * H, scale * W, 3) uint8 RGB.

    Raises:
        ValueError: if sizes disagree.
    """
    canvas = enlarge(as_image(image), scale)
    true_ids = enlarge_labels(np.asarray(truth), scale, canvas)
    predicted_ids = enlarge_labels(np.asarray(prediction), scale, canvas)
    grey = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    result = (0.6 * grey).astype(np.uint8)
    true_fill, is_missed = _colours_of(true_ids, true_colours)
    predicted_fill, is_extra = _colours_of(predicted_ids, predicted_colours)
    differs = _differences(true_ids, predicted_ids, pairs) & ~is_missed & ~is_extra
    _blend(result, differs, np.asarray(inexact), _INEXACT)
    _blend(result, is_extra & ~is_missed, predicted_fill, _FILL)
    _blend(result, is_missed, true_fill, _FILL)
    line = max(1, scale)
    known = np.isin(true_ids, [*true_colours, *pairs])
    _blend(result, _rims(true_ids, 1) & known, np.asarray(_OUTLINE), 0.6)
    _blend(result, _rims(true_ids, line) & is_missed, true_fill, 1)
    _blend(result, _rims(predicted_ids, line + 1) & is_extra, predicted_fill, 1)
    return result


def _colours_of(
    ids: npt.NDArray[np.int64], colours: Mapping[int, Colour]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return each pixel's colour (H, W, 3), and where there is one (H, W)."""
    present, index = np.unique(ids, return_inverse=True)
    marked = np.array([i in colours for i in present.tolist()], bool)
    table = np.array([colours.get(i, (0, 0, 0)) for i in present.tolist()], np.float32)
    index = index.reshape(ids.shape)
    return table[index], marked[index]


def _differences(
    truth: npt.NDArray[np.int64], prediction: npt.NDArray[np.int64], pairs: Mapping[int, int]
) -> npt.NDArray[np.bool_]:
    """Mark pixels of a matched segment that its partner lacks; a prediction over void is none."""

    def partners(ids: npt.NDArray[np.int64], partner: Mapping[int, int]) -> npt.NDArray[np.int64]:
        present, index = np.unique(ids, return_inverse=True)
        table = np.array([partner.get(i, -1) for i in present.tolist()], np.int64)
        return table[index.reshape(ids.shape)]

    of_truth = partners(truth, pairs)
    of_prediction = partners(prediction, {p: t for t, p in pairs.items()})
    lacking = (of_truth >= 0) & (of_truth != prediction)
    extra = (of_prediction >= 0) & (of_prediction != truth) & (truth != 0)
    return np.asarray(lacking | extra)


def _rims(ids: npt.NDArray[np.int64], thickness: int) -> npt.NDArray[np.bool_]:
    """Mark the pixels of each segment that lie less than `thickness` from another one."""
    edge = np.zeros(ids.shape, np.uint8)
    for axis in (0, 1):
        here, there = (np.moveaxis(a, axis, 0) for a in (edge, ids))
        differs = there[1:] != there[:-1]
        here[1:] |= differs
        here[:-1] |= differs
    if thickness > 1:
        size = 2 * thickness - 1
        edge = cv2.dilate(edge, np.ones((size, size), np.uint8)).astype(np.uint8)
    return edge.astype(bool)


def _blend(
    image: ImageArray, where: npt.NDArray[np.bool_], colour: npt.NDArray[Any], opacity: float
) -> None:
    """Lay a colour, or (H, W, 3) colours, over the pixels `where`, in place."""
    chosen = colour[where] if colour.ndim == 3 else colour
    image[where] = ((1 - opacity) * image[where] + opacity * chosen).round().astype(np.uint8)
