"""Which detections the semantic head bears out, and what becomes of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, Instances

from panoptic_common.modeling.resampling import resample
from unified_panoptic.modeling.dynamic_potential import DynamicPotential
from unified_panoptic.modeling.inference import InferenceOptions, PredictedImage
from unified_panoptic.modeling.panoptic_submodule import PanopticSubmodule
from unified_panoptic.modeling.postprocess import supported_detections


def test_a_detection_stays_if_the_semantic_head_sees_its_class_under_its_mask():
    """Two classes on 8 x 8 cells: V of class 0 is 0.9 on the left half and 0.2 on the right."""
    semantic = torch.full((2, 8, 8), 0.9)
    semantic[0, :, 4:] = 0.2
    semantic[1] = 1 - semantic[0]
    boxes = torch.tensor([[0, 0, 4, 8], [2, 0, 6, 8], [4, 0, 8, 8], [0, 0, 8, 8], [9, 9, 10, 10.0]])
    masks = torch.ones(5, 28, 28)
    masks[3, :, 14:] = 0  # of the whole image its left half
    nothing = torch.zeros_like(masks)

    def keep(class_id: int, least: float, masks: torch.Tensor = masks) -> list[int]:
        classes = torch.full((len(masks),), class_id)
        return supported_detections(semantic, boxes[: len(masks)], classes, masks, least).tolist()

    # The means of class 0 are 0.9, 0.55, 0.2 and 0.9; the last box lies outside.
    assert keep(0, 0.0) == keep(0, 0.15) == [0, 1, 2, 3, 4]
    assert keep(0, 0.5) == [0, 1, 3, 4] and keep(0, 0.6) == [0, 3, 4]
    assert keep(1, 0.5) == [2, 4] and keep(1, 0.4) == [1, 2, 4]
    assert keep(0, 1.0, nothing) == [0, 1, 2, 3, 4]  # empty masks
    assert keep(0, 0.5, masks[:0]) == []


@pytest.mark.parametrize("method", ["argmax", "heuristic"])
def test_what_the_semantic_head_contradicts_is_no_segment(method):
    """One box of class 1 with a sure mask, where V sees stuff: with a least support it is gone."""
    semantic = torch.zeros(2, 8, 8)
    semantic[0] = 0.8
    semantic[1] = 0.2
    found = Instances((32, 32))
    found.pred_boxes = Boxes(torch.tensor([[8.0, 8, 24, 24]]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    found.pred_masks = torch.ones(1, 1, 28, 28)
    submodule = PanopticSubmodule(
        potential=DynamicPotential(stuff_ids=[0], variant="C"),
        thing_ids=[1],
        loss_weight=1.0,
        logit_scale=1.0,
        matcher="hungarian",
        match_iou=0.5,
    )
    enlarged = resample(semantic, (32, 32), (32, 32), 4)
    predicted = PredictedImage(
        submodule, semantic, enlarged, found, None, is_thing=[False, True], input_size=(32, 32)
    )
    options = InferenceOptions(method=method, stuff_area_limit=0)
    assert [s["category_id"] for s in predicted.panoptic(options)[1]] == [1, 0]
    strict = replace(options, support_thresh=0.3)
    assert [s["category_id"] for s in predicted.panoptic(strict)[1]] == [0]
