"""Contact sheets of a data set's images: the truth beside what models make of them.

Both take `Predictor`s, so any checkpoint of this project can be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

import cv2
import numpy as np

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.drawing.overlays import (
    draw_affinities,
    draw_affinity,
    draw_boxes,
    draw_cut_edges,
    draw_panoptic,
    draw_semantic,
)
from panoptic_common.drawing.sheets import contact_sheet, legend
from panoptic_common.inference.media import read_image
from panoptic_common.inference.predictor import Predictor

LEAST_WIDTH = 512  # narrower images are enlarged, so that names can be read
LEAST_SCORE = 0.5  # of the boxes that are drawn


def affinity_sheet(predictor: Predictor, records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A row for each record: image, truth, semantic, boxes, panoptic, affinity of one pixel.

    Args:
        predictor: of a model with a dense instance affinity.
        records: dicts of `load_panoptic`.

    Returns:
        (H, W, 3) uint8 RGB, with a legend of the classes below.
    """
    table = predictor.class_table
    titles = ("image", "truth", "semantic", "boxes", "panoptic", "affinity of the marked pixel")
    rows = []
    for record in records:
        image, truth, scale = _read(record)
        found = predictor(image)
        kept = found.scores >= LEAST_SCORE
        pixel = central_pixel(truth, record["segments_info"])
        rows.append(
            [
                image,
                draw_panoptic(image, truth, record["segments_info"], table, scale=scale),
                draw_semantic(image, found.semantic, table, scale=scale),
                draw_boxes(
                    image,
                    found.boxes[kept],
                    found.classes[kept].tolist(),
                    found.scores[kept].tolist(),
                    table,
                    scale=scale,
                ),
                draw_panoptic(image, found.id_map, found.segments_info, table, scale=scale),
                draw_affinity(image, predictor.affinity(image, *pixel), pixel, scale=scale),
            ]
        )
    return _with_legend(contact_sheet(rows, titles), table)


def solver_sheet(
    baseline: Predictor, full: Predictor, records: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """A row for each record: what goes into the solver, what comes out, before and after training
    through it.

    The class argmax, the affinities (the probability that neighbours are parted) and the cut edges
    are those of `full`.

    Args:
        baseline: of a model as pre-training left it.
        full: of the same model, trained through the solver.
        records: dicts of `load_panoptic`.

    Returns:
        (H, W, 3) uint8 RGB, with a legend of the classes below.

    Raises:
        ValueError: the model cuts no graph.
    """
    table = full.class_table
    titles = ("image", "truth", "class argmax", "affinities", "cut edges", "baseline", "full")
    rows = []
    for record in records:
        image, truth, scale = _read(record)
        before, after = baseline(image), full(image)
        if after.affinity_map is None or after.cut_edges is None:
            raise ValueError("this sheet is for models that cut a graph, such as COPS")
        rows.append(
            [
                image,
                draw_panoptic(image, truth, record["segments_info"], table, scale=scale),
                draw_semantic(image, after.semantic, table, scale=scale),
                draw_affinities(image, after.affinity_map, scale=scale),
                draw_cut_edges(image, after.cut_edges, scale=scale),
                draw_panoptic(image, before.id_map, before.segments_info, table, scale=scale),
                draw_panoptic(image, after.id_map, after.segments_info, table, scale=scale),
            ]
        )
    return _with_legend(contact_sheet(rows, titles), table)


def central_pixel(
    id_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]]
) -> tuple[int, int]:
    """The pixel deepest inside the largest single thing (without one: the largest segment).

    Args:
        id_map: (H, W) segment ids.
        segments_info: at least "id", "isthing", "iscrowd" and "area".

    Returns:
        x, y.
    """
    if not segments_info:
        return id_map.shape[1] // 2, id_map.shape[0] // 2
    best = max(segments_info, key=lambda s: (s["isthing"] and not s["iscrowd"], s["area"]))
    inside = (id_map == best["id"]).astype(np.uint8)
    # A frame of zeros: the border of the image counts as a border of the segment.
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def _read(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, int]:
    """Image, true id map, and the factor by which to enlarge."""
    image = read_image(record["file_name"])
    truth = read_id_map(record["pan_seg_file_name"])
    return image, truth, max(1, round(LEAST_WIDTH / image.shape[1]))


def _with_legend(sheet: np.ndarray, table: Sequence[dict]) -> np.ndarray:
    return np.concatenate([sheet, legend(table, sheet.shape[1])])
