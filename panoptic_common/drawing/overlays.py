"""Images of results: panoptic and semantic overlays, boxes, affinities, cuts, and sheets of them.

One class table colours and names everything. A class that it does not have (more classes in the
map than in the table) is drawn grey and named by its number; drawing never fails over that. The
same input gives the same image: colours come from the class and from the rank of a segment among
those of its class, never from chance.

All drawing takes `scale`, a whole factor by which the image is enlarged first: on an image of
384 x 192 pixels a name is legible only then.

Shape shorthand: H, W image size in pixels; K classes in the table; D boxes. Colours are RGB, and
results are (scale * H, scale * W, 3) uint8.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from panoptic_common.drawing.strokes import (
    ImageArray,
    TextStyle,
    as_image,
    blend,
    draw_outlines,
    enlarge,
    enlarge_labels,
    paint_heat,
    write_names,
)

ClassTable = Sequence[Mapping[str, Any]]

_UNKNOWN = (110, 110, 110)  # colour of classes that the table lacks
_VOID = (32, 32, 32)


def class_name(table: ClassTable, class_id: int) -> str:
    """Name of a contiguous class; "class <id>" if the table has none."""
    return str(table[class_id]["name"]) if 0 <= class_id < len(table) else f"class {class_id}"


def class_colour(table: ClassTable, class_id: int) -> tuple[int, int, int]:
    """RGB colour of a contiguous class; grey if the table has none."""
    if not 0 <= class_id < len(table):
        return _UNKNOWN
    red, green, blue = table[class_id]["color"]
    return int(red), int(green), int(blue)


def segment_colour(table: ClassTable, class_id: int, rank: int) -> tuple[int, int, int]:
    """Colour of the `rank`-th segment of its class: the class colour, then variations of it.

    Neighbouring ranks are far apart, as the golden ratio spreads them evenly however many come.
    """
    red, green, blue = (channel / 255 for channel in class_colour(table, class_id))
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if rank > 0:
        turn, lift = (rank * 0.618034) % 1.0, (rank * 0.754878) % 1.0
        hue = (hue + 0.16 * (turn - 0.5)) % 1.0
        saturation = min(1.0, max(0.25, saturation * (0.6 + 0.6 * lift)))
        value = min(1.0, max(0.35, 0.55 + 0.5 * turn))
    varied = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * varied[0]), round(255 * varied[1]), round(255 * varied[2])


# ------------------------------------------------------------------------------------ overlays


def draw_panoptic(
    image: npt.ArrayLike,
    id_map: npt.ArrayLike,
    segments_info: Sequence[Mapping[str, Any]],
    table: ClassTable,
    *,
    alpha: float = 0.6,
    names: bool = True,
    scale: int = 1,
) -> ImageArray:
    """Colour the segments of an image, outline them and write their class names.

    Args:
        image: (H, W, 3) uint8 RGB.
        id_map: (H, W) integer segment ids, 0 = void; a torch tensor on the CPU will do.
        segments_info: mappings with `id` and contiguous `category_id`, and optionally `iscrowd`.
        table: class table.
        alpha: opacity of the colours, 0..1.
        names: whether to write names; a name that would cover another is left out.
        scale: factor by which to enlarge.

    Raises:
        ValueError: if sizes disagree.
    """
    ids = np.asarray(id_map)
    canvas = enlarge(as_image(image), scale)
    ids = enlarge_labels(ids, scale, canvas)
    present, index = np.unique(ids, return_inverse=True)
    index = index.reshape(ids.shape)
    class_of = {int(segment["id"]): int(segment["category_id"]) for segment in segments_info}
    colours = np.array([_VOID if i == 0 else _UNKNOWN for i in present.tolist()], np.float32)
    rank_of_class: dict[int, int] = {}
    for position, segment_id in enumerate(present.tolist()):
        if segment_id in class_of:
            label = class_of[segment_id]
            rank = rank_of_class.get(label, 0)
            rank_of_class[label] = rank + 1
            colours[position] = segment_colour(table, label, rank)
    result = blend(canvas, colours[index], alpha)
    draw_outlines(result, index, thickness=max(1, round(scale / 2)))
    if names:
        crowd = {int(s["id"]) for s in segments_info if s.get("iscrowd")}
        captions = {
            segment_id: class_name(table, label) + (" (crowd)" if segment_id in crowd else "")
            for segment_id, label in class_of.items()
        }
        write_names(result, present, index, captions)
    return result


def draw_semantic(
    image: npt.ArrayLike,
    class_map: npt.ArrayLike,
    table: ClassTable,
    *,
    ignore_label: int = 255,
    alpha: float = 0.6,
    names: bool = True,
    scale: int = 1,
) -> ImageArray:
    """Colour each pixel by its class.

    Args:
        image: (H, W, 3) uint8 RGB.
        class_map: (H, W) contiguous classes; `ignore_label` and negative ones are void.
        table: class table.
        ignore_label: drawn as void (unless the table has so many classes).
        alpha: opacity of the colours, 0..1.
        names: whether to write the class names.
        scale: factor by which to enlarge.

    Raises:
        ValueError: if sizes disagree.
    """
    canvas = enlarge(as_image(image), scale)
    classes = enlarge_labels(np.asarray(class_map), scale, canvas)
    present, index = np.unique(classes, return_inverse=True)
    index = index.reshape(classes.shape)
    void = {ignore_label} if ignore_label >= len(table) else set()
    known = [label for label in present.tolist() if label >= 0 and label not in void]
    colours = np.array(
        [class_colour(table, i) if i in known else _VOID for i in present.tolist()], np.float32
    )
    result = blend(canvas, colours[index], alpha)
    if names:
        write_names(result, present, index, {label: class_name(table, label) for label in known})
    return result


def draw_boxes(
    image: npt.ArrayLike,
    boxes: npt.ArrayLike,
    classes: Sequence[int],
    scores: Sequence[float] | None,
    table: ClassTable,
    *,
    scale: int = 1,
) -> ImageArray:
    """Draw boxes with class names and scores, the best scored on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (D, 4) x0, y0, x1, y1 in pixels.
        classes: D *contiguous* classes 0..K-1, not thing indices.
        scores: D scores in 0..1, or None.
        table: class table.
        scale: factor by which to enlarge.

    Raises:
        ValueError: if the lengths disagree.
    """
    result = enlarge(as_image(image), scale)
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if len(corners) != len(classes) or (scores is not None and len(scores) != len(corners)):
        raise ValueError(
            f"{len(corners)} boxes with {len(classes)} classes and"
            f" {'no' if scores is None else len(scores)} scores"
        )
    order = list(range(len(corners)))
    if scores is not None:
        order.sort(key=lambda d: float(scores[d]))
    style = TextStyle.for_image(result)
    height, width = result.shape[:2]
    whole = np.rint(np.nan_to_num(corners * scale, nan=0.0)).clip(-1, [width, height] * 2)
    places = whole.astype(int).tolist()
    for d in order:
        colour, (x0, y0, x1, y1) = class_colour(table, int(classes[d])), places[d]
        cv2.rectangle(result, (x0, y0), (x1, y1), (0, 0, 0), style.thickness + 2)
        cv2.rectangle(result, (x0, y0), (x1, y1), colour, style.thickness)
    for d in order:  # after all boxes, whose lines would cross the letters
        text = class_name(table, int(classes[d]))
        if scores is not None:
            text += f" {float(scores[d]):.2f}"
        box_width, box_height = style.size(text)
        middle = (places[d][0] + box_width // 2, max(places[d][1], 0) + box_height // 2)
        style.write(result, text, middle, class_colour(table, int(classes[d])))
    return result


def draw_affinity(
    image: npt.ArrayLike,
    affinity: npt.ArrayLike,
    pixel: tuple[float, float],
    *,
    alpha: float = 0.75,
    scale: int = 1,
) -> ImageArray:
    """Paint how strongly one pixel is tied to every other, as in Fig. 6 of the Unified paper.

    The heat runs from the smallest to the largest value of this very map; only where the affinity
    is does colour cover the image, the rest stays dark grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        affinity: (h, w) real numbers of any size and scale, stretched over the image; values
            that are not finite count as the smallest.
        pixel: (x, y) of the pixel in the image, marked by a cross.
        alpha: opacity of the strongest heat, 0..1.
        scale: factor by which to enlarge.
    """
    canvas = enlarge(as_image(image), scale)
    values = np.array(affinity, dtype=np.float32)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"an affinity map is (h, w), got shape {values.shape}")
    finite = np.isfinite(values)
    low = float(values[finite].min()) if finite.any() else 0.0
    high = float(values[finite].max()) if finite.any() else 0.0
    relative = np.where(finite, values - low, 0) / max(high - low, 1e-12)
    result = paint_heat(canvas, relative, alpha)
    height, width = result.shape[:2]
    centre = (round((pixel[0] + 0.5) * scale), round((pixel[1] + 0.5) * scale))
    size = max(9, min(height, width) // 14)
    for colour, thickness in (((0, 0, 0), 4), ((80, 255, 120), 2)):
        cv2.drawMarker(result, centre, colour, cv2.MARKER_CROSS, size, thickness, cv2.LINE_AA)
        cv2.circle(result, centre, size // 2, colour, thickness, cv2.LINE_AA)
    return result


def draw_affinities(
    image: npt.ArrayLike, affinities: npt.ArrayLike, *, alpha: float = 0.85, scale: int = 1
) -> ImageArray:
    """Paint how likely each place is cut from the next one, as a network of edges sees it.

    Unlike `draw_affinity`, the heat has a fixed scale, so that images can be compared.

    Args:
        image: (H, W, 3) uint8 RGB.
        affinities: (h, w) probabilities 0..1 that the edges of one distance are cut, stretched over
            the image in squares.
        alpha: opacity of a sure cut, 0..1.
        scale: factor by which to enlarge.

    Raises:
        ValueError: no (h, w) map, or values outside 0..1.
    """
    values = _shares(affinities, "a map of affinities")
    return paint_heat(enlarge(as_image(image), scale), values, alpha, blocks=True)


def draw_cut_edges(
    image: npt.ArrayLike,
    cut_edges: npt.ArrayLike,
    *,
    colour: tuple[int, int, int] = (255, 226, 64),
    scale: int = 1,
) -> ImageArray:
    """Draw lines where a solver cut the graph of an image's grid.

    Args:
        image: (H, W, 3) uint8 RGB, shown darker.
        cut_edges: (h, w) share of the edges of each cell that are cut, 0..1, stretched over the
            image in squares; bool for all or nothing.
        colour: of a cell whose edges are all cut.
        scale: factor by which to enlarge.

    Raises:
        ValueError: no (h, w) map, or values outside 0..1.
    """
    values = _shares(cut_edges, "a map of cut edges")
    canvas = enlarge(as_image(image), scale)
    size = (canvas.shape[1], canvas.shape[0])
    share = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST))[:, :, None]
    opacity = np.where(share > 0, 0.5 + 0.5 * share, 0)  # one cut edge of two is a line, too
    mixed = 0.5 * canvas * (1 - opacity) + np.array(colour) * opacity
    return np.ascontiguousarray(mixed.round().clip(0, 255).astype(np.uint8))


def _shares(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float32]:
    """An (h, w) map of numbers 0..1, checked."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{what} is (h, w), got shape {array.shape}")
    if not (array.min() >= 0 and array.max() <= 1):  # also refuses nan
        raise ValueError(f"{what} holds numbers 0..1, got {array.min()}..{array.max()}")
    return array
