"""From a panoptic map to what detectors and semantic heads are trained on.

Everything follows from the id map, so semantic maps and instances cannot disagree with it.

Shapes: H, W pixels of the augmented image; S segments that are neither void nor crowd; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

IGNORE_CLASS = 255
NO_SEGMENT = -1


@dataclass(frozen=True, eq=False)
class SegmentTruth:
    """The segments of one image.

    A crowd segment keeps its class in the semantic map but is no segment: which of its objects a
    detection means is unknown.

    Attributes:
        sem_seg: (H, W) int64 contiguous classes, 255 = void.
        segment_map: (H, W) int64, index of each pixel's segment; -1 where void or crowd.
        classes: (S,) int64, contiguous class of each segment.
        boxes: (S, 4) float32, tight boxes in pixels, XYXY; the far edges are exclusive. Zeros for a
            segment without a pixel.
    """

    sem_seg: np.ndarray
    segment_map: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray


def find_segments(
    id_map: np.ndarray, segments_info: Sequence[dict], num_classes: int
) -> SegmentTruth:
    """Find the segments of an image.

    Args:
        id_map: (H, W) panoptic ids, 0 = void.
        segments_info: dicts with "id", "category_id" (contiguous) and "iscrowd".
        num_classes: K.

    Raises:
        ValueError: a segment's class is not in the table.
    """
    for segment in segments_info:
        if not 0 <= segment["category_id"] < num_classes:
            raise ValueError(
                f"segment {segment['id']} has class {segment['category_id']}, "
                f"but the table holds {num_classes} classes"
            )
    ids = np.array([s["id"] for s in segments_info], dtype=np.int64)
    classes = np.array([s["category_id"] for s in segments_info], dtype=np.int64)
    kept = np.array([not s.get("iscrowd", 0) for s in segments_info], dtype=bool)

    # One look-up table from sorted ids serves the class map and the segment map.
    order = np.argsort(ids)
    if len(ids):
        position = np.clip(np.searchsorted(ids[order], id_map), 0, len(ids) - 1)
        known = ids[order][position] == id_map
        row = order[position]
        sem_seg = np.where(known, classes[row], IGNORE_CLASS)
        number = np.where(kept, np.cumsum(kept) - 1, NO_SEGMENT)
        segment_map = np.where(known, number[row], NO_SEGMENT)
    else:
        sem_seg = np.full(id_map.shape, IGNORE_CLASS, dtype=np.int64)
        segment_map = np.full(id_map.shape, NO_SEGMENT, dtype=np.int64)
    boxes = tight_boxes(segment_map, int(kept.sum()))
    return SegmentTruth(sem_seg, segment_map, classes[kept], boxes)


def tight_boxes(segment_map: np.ndarray, num_segments: int) -> np.ndarray:
    """Find the tight boxes of all segments of a map in one pass over its pixels.

    Args:
        segment_map: (H, W) integers; values outside 0 .. num_segments - 1 belong to no segment.
        num_segments: S.

    Returns:
        (S, 4) float32, XYXY with exclusive far edges; zeros for a segment without a pixel.
    """
    height, width = segment_map.shape
    rows, columns = np.nonzero((segment_map >= 0) & (segment_map < num_segments))
    index = segment_map[rows, columns]
    low = np.full((num_segments, 2), max(height, width), dtype=np.int64)
    high = np.zeros((num_segments, 2), dtype=np.int64)
    np.minimum.at(low[:, 0], index, columns)
    np.minimum.at(low[:, 1], index, rows)
    np.maximum.at(high[:, 0], index, columns + 1)
    np.maximum.at(high[:, 1], index, rows + 1)
    boxes = np.concatenate([low, high], axis=1)
    boxes[high[:, 0] == 0] = 0
    return boxes.astype(np.float32)


def thing_instances(truth: SegmentTruth, thing_numbers: Sequence[int]) -> Instances:
    """Make the instances that a detector is trained on.

    Args:
        truth: of the image.
        thing_numbers: K numbers: how the detector calls each class; -1 for a class that it does
            not detect.

    Returns:
        Detectron2 Instances with gt_boxes, gt_classes and gt_masks.
    """
    numbers = np.asarray(thing_numbers, dtype=np.int64)
    # A segment that the crop removed has an empty box; it must not become an instance.
    visible = truth.boxes[:, 2] > truth.boxes[:, 0]
    things = np.flatnonzero(visible & (numbers >= 0)[truth.classes])
    instances = Instances(truth.segment_map.shape)
    instances.gt_boxes = Boxes(torch.from_numpy(truth.boxes[things]))
    instances.gt_classes = torch.from_numpy(numbers[truth.classes[things]])
    masks = truth.segment_map[None] == things[:, None, None]
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances
