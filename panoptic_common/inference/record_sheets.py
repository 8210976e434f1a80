"""Sheets of a data set's images: the truth beside what one or several models make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from panoptic_common.coco.segment_ids import read_id_map, update_segments
from panoptic_common.drawing.overlays import draw_panoptic
from panoptic_common.drawing.sheets import contact_sheet, legend
from panoptic_common.drawing.strokes import ImageArray, legible_scale
from panoptic_common.inference.media import read_image
from panoptic_common.inference.panels import BOXES, PANOPTIC, SEMANTIC, Panel, View
from panoptic_common.inference.predictor import Predictor
from panoptic_common.systems import system_panels


@dataclass(frozen=True)
class Column:
    """A column of a sheet.

    Attributes:
        panel: what it shows.
        title: "" for that of the panel.
        model: which of the models it shows, counted from the first, or from the last by -1.
    """

    panel: Panel
    title: str = ""
    model: int = -1


DEFAULT_COLUMNS = (Column(SEMANTIC), Column(BOXES), Column(PANOPTIC))


def demo_columns(predictor: Predictor) -> Sequence[Column]:
    """Return the columns by which a model's system wants to be shown."""
    module = system_panels(predictor.meta_architecture, predictor.systems)
    return getattr(module, "DEMO_COLUMNS", DEFAULT_COLUMNS)


def draw_record_sheet(
    predictors: Sequence[Predictor],
    records: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
) -> ImageArray:
    """Draw a row per image: the image, the truth, then the columns.

    Args:
        predictors: of the models, all with the classes of the data set.
        records: dicts of `load_panoptic`.
        columns: what is shown of which model. A panel of one pixel shows the `central_pixel`.

    Returns:
        (H, W, 3) uint8 RGB, with a legend of the classes below.

    Raises:
        ValueError: a model does not have what a column shows.
    """
    for column in columns:
        if not column.panel.available(predictors[column.model].model):
            raise ValueError(f"the model has no {column.panel.title}: leave out that column")
    table = predictors[-1].class_table
    rows = []
    for record in records:
        image = read_image(record["file_name"])
        truth, segments = (
            read_id_map(record["pan_seg_file_name"], image.shape[:2]),
            record["segments_info"],
        )
        scale, pixel = legible_scale(image), central_pixel(truth, update_segments(truth, segments))
        views = [
            View(image, predictor(image), predictor, scale=scale, pixel=pixel)
            for predictor in predictors
        ]
        drawn = [column.panel.draw(views[column.model]) for column in columns]
        rows.append([image, draw_panoptic(image, truth, segments, table, scale=scale), *drawn])
    titles = ["image", "truth", *(column.title or column.panel.title for column in columns)]
    sheet = contact_sheet(rows, titles)
    return np.concatenate([sheet, legend(table, sheet.shape[1])])


def central_pixel(
    id_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]]
) -> tuple[int, int]:
    """Find the pixel deepest inside the largest single thing (without one: the largest segment).

    Args:
        id_map: (H, W) segment ids.
        segments_info: at least "id", "isthing", "iscrowd" and "area".

    Returns:
        x, y; the middle of an image without segments.
    """
    if not segments_info:
        return id_map.shape[1] // 2, id_map.shape[0] // 2
    best = max(segments_info, key=lambda s: (s["isthing"] and not s["iscrowd"], s["area"]))
    inside = (id_map == best["id"]).astype(np.uint8)
    # A frame of zeros: the border of the image counts as a border of the segment.
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)
