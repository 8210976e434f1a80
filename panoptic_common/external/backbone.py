"""A ResNet-FPN of any depth and width, for comparisons at the size of a small data set."""

from __future__ import annotations

import panoptic_common.compat

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from panoptic_common.modeling.thin_resnet import build_resnet_of_any_width


@BACKBONE_REGISTRY.register()
def build_thin_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's ResNet-FPN; unlike its own builder, also thinner than 64 channels.

    Args:
        cfg: reads MODEL.RESNETS and MODEL.FPN.
        input_shape: channels of the image.
    """
    return FPN(
        bottom_up=build_resnet_of_any_width(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
