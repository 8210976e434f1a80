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

from panoptic_common.data.segment_truth import find_segments, thing_instances


@dataclass(eq=False)
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
    truth = find_segments(id_map, segments_info, len(is_thing))
    flags = np.asarray(is_thing, dtype=bool)
    return {
        "sem_seg": torch.from_numpy(np.ascontiguousarray(truth.sem_seg)),
        "instances": thing_instances(truth, np.where(flags, np.cumsum(flags) - 1, -1).tolist()),
        "panoptic_target": PanopticTarget(
            torch.from_numpy(truth.segment_map.astype(np.int32)),
            torch.from_numpy(truth.classes),
            torch.from_numpy(truth.boxes),
        ),
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
