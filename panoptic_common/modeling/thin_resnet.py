"""ResNet-18 and 34 of any width, for small data sets and for training on a CPU.

Detectron2's builder knows these depths with 64 channels in res2 only. The parts are Detectron2's,
so parameters have its names.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet


def build_resnet_of_any_width(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build the ResNet that MODEL.RESNETS describes.

    Args:
        cfg: reads MODEL.RESNETS and MODEL.BACKBONE.FREEZE_AT.
        input_shape: channels of the image.
    """
    thin = cfg.MODEL.RESNETS.DEPTH in (18, 34) and cfg.MODEL.RESNETS.RES2_OUT_CHANNELS != 64
    return (_build_thin_resnet if thin else build_resnet_backbone)(cfg, input_shape)


def _build_thin_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet-18 or 34; the width of a stage is twice that of the one before."""
    node = cfg.MODEL.RESNETS
    stem = BasicStem(input_shape.channels, node.STEM_OUT_CHANNELS, norm=node.NORM)
    stages = []
    in_channels, out_channels = node.STEM_OUT_CHANNELS, node.RES2_OUT_CHANNELS
    for number, num_blocks in enumerate({18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[node.DEPTH]):
        first_stride = 1 if number == 0 else 2
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[first_stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=node.NORM,
            )
        )
        in_channels, out_channels = out_channels, 2 * out_channels
    network = ResNet(stem, stages, out_features=node.OUT_FEATURES)
    return network.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
