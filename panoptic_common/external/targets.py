"""What Detectron2's panoptic meta-architectures are trained on: a semantic map and instances.

A model that learns from something else (centres, for example) brings a dataset mapper of its own,
which INPUT.MAPPER names.

Shapes: H, W pixels of the augmented image; K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import panoptic_common.compat

import numpy as np
import torch
from detectron2.config import CfgNode

from panoptic_common.data.segment_truth import IGNORE_CLASS, find_segments, thing_instances
from panoptic_common.external.numbering import Numbering


class TargetFunction:
    """Makes the targets of an image; a class, so that it can be pickled."""

    def __init__(self, numbering: Numbering, ignore_value: int = IGNORE_CLASS) -> None:
        """Keep how the model counts.

        Args:
            numbering: of the model.
            ignore_value: of void pixels in the semantic map.
        """
        self.numbering = numbering
        self.ignore_value = ignore_value

    def __call__(self, id_map: np.ndarray, segments_info: Sequence[dict]) -> dict[str, Any]:
        """Make the targets of one image.

        Args:
            id_map: (H, W) panoptic ids, 0 = void.
            segments_info: dicts with "id", "category_id" (contiguous) and "iscrowd".

        Returns:
            {"sem_seg": (H, W) int64 in the numbers of the model, "instances": Detectron2 Instances
            with gt_boxes, gt_classes and gt_masks}. A crowd segment keeps its class in the
            semantic map, but is no instance.

        Raises:
            ValueError: a segment's class is not in the table.
        """
        truth = find_segments(id_map, segments_info, len(self.numbering.is_thing))
        table = np.full(IGNORE_CLASS + 1, self.ignore_value, dtype=np.int64)
        numbers = self.numbering.semantic_numbers()
        table[: len(numbers)] = numbers
        return {
            "sem_seg": torch.from_numpy(table[truth.sem_seg]),
            "instances": thing_instances(truth, self.numbering.thing_numbers()),
        }


def build_target_function(cfg: CfgNode) -> Callable[[np.ndarray, Sequence[dict]], dict[str, Any]]:
    """Build the target function that the dataset mapper calls.

    Args:
        cfg: a config completed from the class table; reads MODEL.PANOPTIC and
            MODEL.SEM_SEG_HEAD.IGNORE_VALUE.
    """
    node = cfg.MODEL.PANOPTIC
    numbering = Numbering(node.NUMBERING, node.IS_THING)
    return TargetFunction(numbering, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
