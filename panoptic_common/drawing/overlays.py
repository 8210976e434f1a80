"""Overlays of results: panoptic and semantic maps, and boxes with names.

One class table colours and names everything. A class that it does not have (more classes in the
map than in the table) is drawn grey and named by its number. Drawing never fails over that. The
same input gives the same image. Colours come from the class and from the rank of a segment among
those of its class, never from chance.

All drawing takes `scale`, a whole factor by which the image is enlarged first. On an image of
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
    write_names,
)

ClassTable = Sequence[Mapping[str, Any]]

_UNKNOWN = (110, 110, 110)  # colour of classes that the table lacks
_VOID = (32, 32, 32)


def class_name(table: ClassTable, class_id: int) -> str:
    """Return the name of a contiguous class; "class <id>" if the table has none."""
    return str(table[class_id]["name"]) if 0 <= class_id < len(table) else f"class {class_id}"


def class_colour(table: ClassTable, class_id: int) -> tuple[int, int, int]:
    """Return the RGB colour of a contiguous class; grey if the table has none."""
    if not 0 <= class_id < len(table):
        return _UNKNOWN
    red, green, blue = table[class_id]["color"]
    return int(red), int(green), int(blue)


def segment_colour(table: ClassTable, class_id: int, rank: int) -> tuple[int, int, int]:
    """Return the colour of the `rank`-th segment of its class: the class's own, then variations.

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
    names: bool = True,
    scale: int = 1,
) -> ImageArray:
    """Draw boxes with class names and scores, the best scored on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (D, 4) x0, y0, x1, y1 in pixels.
        classes: D *contiguous* classes 0..K-1, not thing indices.
        scores: D scores in 0..1, or None.
        table: class table.
        names: whether to write class names and scores.
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
    for d in order if names else ():  # after all boxes, whose lines would cross the letters
        text = class_name(table, int(classes[d]))
        if scores is not None:
            text += f" {float(scores[d]):.2f}"
        box_width, box_height = style.size(text)
        middle = (places[d][0] + box_width // 2, max(places[d][1], 0) + box_height // 2)
        style.write(result, text, middle, class_colour(table, int(classes[d])))
    return result
