"""Truth of one image in the forms that the Unified system's losses need.

Shapes: H, W pixels of the augmented image; S segments that are neither void nor crowd;
K classes in all, thing classes counted 0 .. N_th - 1 in table order (Detectron2's ROI heads).

Everything follows from the panoptic id map, so semantic maps and instances cannot disagree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import panoptic_common.compat

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances

IGNORE_CLASS = 255
NO_SEGMENT = -1


@dataclass
class PanopticTarget:
    """The segments of one image, for the panoptic matching loss.

    Attributes:
        segment_map: (H, W) int32, index of each pixel's segment; -1 where void or crowd.
        classes: (S,) int64, contiguous class of each segment.
        boxes: (S, 4) float32, tight boxes in pixels, XYXY; the far edges are exclusive.
    """

    segment_map: torch.Tensor
    classes: torch.Tensor
    boxes: torch.Tensor

    def to(self, device: torch.device | str) -> PanopticTarget:
        """Return the same target on `device`."""
        return PanopticTarget(
            self.segment_map.to(device), self.classes.to(device), self.boxes.to(device)
        )


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


def make_unified_targets(
    id_map: np.ndarray, segments_info: Sequence[dict], is_thing: Sequence[bool]
) -> dict:
    """Make the semantic map, instances and panoptic target of one image.

    A crowd segment keeps its class in the semantic map but is no instance and no segment. Which of
    its objects a detection means is unknown, so its pixels are ignored by the panoptic loss.

    Args:
        id_map: (H, W) panoptic ids, 0 = void.
        segments_info: dicts with "id", "category_id" (contiguous) and "iscrowd".
        is_thing: K flags, one per contiguous class.

    Returns:
        {"sem_seg": (H, W) int64 with 255 = ignore, "instances": Detectron2 Instances with gt_boxes,
        gt_classes (thing index), gt_masks, "panoptic_target": PanopticTarget}.

    Raises:
        ValueError: a segment's class is not in the table.
    """
    thing_index = np.cumsum(np.asarray(is_thing, dtype=np.int64)) - 1
    for segment in segments_info:
        if not 0 <= segment["category_id"] < len(is_thing):
            raise ValueError(
                f"segment {segment['id']} has class {segment['category_id']}, "
                f"but the table holds {len(is_thing)} classes"
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
    kept_classes = classes[kept]
    # A segment that the crop removed has an empty box; it must not become an instance.
    visible = boxes[:, 2] > boxes[:, 0]
    things = np.flatnonzero(visible & np.asarray(is_thing, dtype=bool)[kept_classes])

    instances = Instances(id_map.shape)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[things]))
    instances.gt_classes = torch.from_numpy(thing_index[kept_classes[things]])
    masks = segment_map[None] == things[:, None, None]
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    target = PanopticTarget(
        torch.from_numpy(segment_map.astype(np.int32)),
        torch.from_numpy(kept_classes),
        torch.from_numpy(boxes),
    )
    return {
        "sem_seg": torch.from_numpy(np.ascontiguousarray(sem_seg)),
        "instances": instances,
        "panoptic_target": target,
    }


class _TargetFunction:
    """`make_unified_targets` with the thing flags bound; a class, so that it can be pickled."""

    def __init__(self, is_thing: Sequence[bool]) -> None:
        self.is_thing = tuple(is_thing)

    def __call__(self, id_map: np.ndarray, segments_info: Sequence[dict]) -> dict:
        return make_unified_targets(id_map, segments_info, self.is_thing)


def build_target_function(cfg: CfgNode) -> Callable[[np.ndarray, Sequence[dict]], dict]:
    """Build the target function that the dataset mapper calls.

    Args:
        cfg: a config completed from the class table (MODEL.PANOPTIC.IS_THING filled).
    """
    if not cfg.MODEL.PANOPTIC.IS_THING:
        raise ValueError("MODEL.PANOPTIC.IS_THING is empty: load the config by load_config(file)")
    return _TargetFunction(cfg.MODEL.PANOPTIC.IS_THING)
