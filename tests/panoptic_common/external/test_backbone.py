"""The thin ResNet-FPN is Detectron2's where Detectron2 has one."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone

from panoptic_common.external.backbone import build_thin_resnet_fpn_backbone


@pytest.mark.parametrize("width", [64, 8])
def test_against_detectron2s(width):
    """At 64 channels all parameters and outputs agree; below, the names and the depth do."""
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    theirs = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3)).eval()
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = width
    ours = build_thin_resnet_fpn_backbone(cfg, ShapeSpec(channels=3)).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.bottom_up.output_shape()["res5"].channels == 8 * width
    assert {k: v.stride for k, v in ours.output_shape().items()} == {
        k: v.stride for k, v in theirs.output_shape().items()
    }
    if width == 64:
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(1, 3, 64, 96)
        for name, value in ours(x).items():
            torch.testing.assert_close(value, theirs(x)[name], rtol=0, atol=0)
