"""The ResNet below both branches of COPS (Abbas and Swoboda, NeurIPS 2021, 3.1), of any depth.

The paper takes Panoptic-DeepLab's ResNet-50 (Detectron2 calls it R-52, for the two layers more in
its stem). It differs from a plain ResNet in three ways, each a key of MODEL.RESNETS:

- STEM_TYPE "deeplab": three 3x3 convolutions instead of one 7x7;
- RES5_DILATION 2: res5 stays at the stride of res4, 16, and looks twice as far instead;
- RES5_MULTI_GRID [1, 2, 4]: the blocks of res5 multiply that dilation.

Without them it is Detectron2's ResNet. Detectron2 has this network in one of its projects, which
many installations lack, and neither builder makes networks below 50 layers with a dilation or with
another width than 64. The parts are Detectron2's, so parameters have its names and the files of its
model zoo load.

Shapes: N images of (H, W) pixels; C channels of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class DeepLabStem(CNNBlockBase):
    """Three 3x3 convolutions and a pooling, stride 4 in all; the first two have half the width."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        """Args:
        in_channels: of the image.
        out_channels: C, an even number.
        norm: as in Detectron2's `get_norm`.
        """
        super().__init__(in_channels, out_channels, 4)
        half = out_channels // 2
        widths = (in_channels, half, half, out_channels)
        for index, stride in enumerate((2, 1, 1)):
            conv = Conv2d(
                widths[index],
                widths[index + 1],
                kernel_size=3,
                stride=stride,
                padding=1,
                bias=False,
                norm=get_norm(norm, widths[index + 1]),
                activation=F.relu,
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"conv{index + 1}", conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) -> (N, C, H / 4, W / 4), rounded up."""
        x = self.conv3(self.conv2(self.conv1(x)))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class DilatedBasicBlock(BasicBlock):
    """Detectron2's block of ResNet-18 and 34, which has no dilation of its own."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, norm: str, dilation: int
    ) -> None:
        """Args:
        in_channels, out_channels: widths.
        stride: of the first convolution.
        norm: as in Detectron2's `get_norm`.
        dilation: of both 3x3 convolutions.
        """
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        for conv in (self.conv1, self.conv2):
            conv.dilation = conv.padding = (dilation, dilation)


@BACKBONE_REGISTRY.register()
def build_cops_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet of 18, 34, 50, 101 or 152 layers and of any width.

    Args:
        cfg: reads MODEL.RESNETS and MODEL.BACKBONE.FREEZE_AT.
        input_shape: channels of the image.

    Raises:
        ValueError: a key of MODEL.RESNETS has a value that cannot be built.
    """
    node = cfg.MODEL.RESNETS
    _check(node)
    stem = {"basic": BasicStem, "deeplab": DeepLabStem}[node.STEM_TYPE](
        input_shape.channels, node.STEM_OUT_CHANNELS, node.NORM
    )
    num_stages = max({"res3": 2, "res4": 3, "res5": 4}.get(name, 1) for name in node.OUT_FEATURES)
    stages = []
    in_channels = node.STEM_OUT_CHANNELS
    for index in range(num_stages):
        out_channels = node.RES2_OUT_CHANNELS * 2**index
        stages.append(ResNet.make_stage(**_stage(node, index, in_channels, out_channels)))
        in_channels = out_channels
    network = ResNet(stem, stages, out_features=list(node.OUT_FEATURES))
    return network.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


def _stage(node: CfgNode, index: int, in_channels: int, out_channels: int) -> dict[str, Any]:
    """Arguments of `ResNet.make_stage` for res2 (index 0) to res5 (index 3)."""
    num_blocks = _BLOCKS[node.DEPTH][index]
    dilations = _res5_dilations(node) if index == 3 else [1] * num_blocks
    # res2 follows the pooling of the stem, and a dilated res5 keeps the stride of res4.
    stays = index == 0 or (index == 3 and node.RES5_DILATION > 1)
    arguments = {
        "num_blocks": num_blocks,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "norm": node.NORM,
        "stride_per_block": [1 if stays else 2] + [1] * (num_blocks - 1),
        "dilation_per_block": dilations,
    }
    if node.DEPTH < 50:
        return {"block_class": DilatedBasicBlock, **arguments}
    return {
        "block_class": BottleneckBlock,
        "bottleneck_channels": node.NUM_GROUPS * node.WIDTH_PER_GROUP * 2**index,
        "num_groups": node.NUM_GROUPS,
        "stride_in_1x1": node.STRIDE_IN_1X1,
        **arguments,
    }


def _res5_dilations(node: CfgNode) -> list[int]:
    """One dilation a block of res5; an empty RES5_MULTI_GRID gives all blocks the same."""
    num_blocks = _BLOCKS[node.DEPTH][3]
    factors: Sequence[int] = node.RES5_MULTI_GRID or [1] * num_blocks
    if len(factors) != num_blocks:
        raise ValueError(
            f"MODEL.RESNETS.RES5_MULTI_GRID {list(factors)} has {len(factors)} factors, but res5 "
            f"of a ResNet-{node.DEPTH} has {num_blocks} blocks: give {num_blocks} factors, or []"
        )
    return [node.RES5_DILATION * factor for factor in factors]


def _check(node: CfgNode) -> None:
    """Raise for values of MODEL.RESNETS that would fail later, or be ignored."""
    choices = (
        ("STEM_TYPE", ("basic", "deeplab")),
        ("DEPTH", tuple(_BLOCKS)),
        ("RES5_DILATION", (1, 2)),
    )
    for key, values in choices:
        if node[key] not in values:
            raise ValueError(f"MODEL.RESNETS.{key} is {node[key]!r}: use one of {values}")
    if not node.OUT_FEATURES:
        raise ValueError("MODEL.RESNETS.OUT_FEATURES is empty: name at least one of res2 to res5")
    if any(node.DEFORM_ON_PER_STAGE):
        raise ValueError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: build_cops_resnet_backbone has no deformable "
            "convolutions; set all four to False"
        )
    if node.DEPTH < 50 and node.NUM_GROUPS != 1:
        raise ValueError(
            f"MODEL.RESNETS.NUM_GROUPS is {node.NUM_GROUPS}: a ResNet-{node.DEPTH} has no "
            "bottlenecks that could be grouped; use 1"
        )
    if node.STEM_TYPE == "deeplab" and node.STEM_OUT_CHANNELS % 2:
        raise ValueError(
            f"MODEL.RESNETS.STEM_OUT_CHANNELS is {node.STEM_OUT_CHANNELS}: the first two layers of "
            "the deeplab stem have half of it; use an even number"
        )
