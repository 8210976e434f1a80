"""The ResNet below both branches of COPS (Abbas and Swoboda, NeurIPS 2021, 3.1), of any depth.

The paper takes Panoptic-DeepLab's ResNet-50 (Detectron2 calls it R-52, for the two layers more in
its stem). It differs from a plain ResNet in three ways, each a key of MODEL.RESNETS:

- STEM_TYPE "deeplab": three 3x3 convolutions instead of one 7x7;
- RES5_DILATION 2: res5 stays at the stride of res4, 16, and looks twice as far instead;
- RES5_MULTI_GRID [1, 2, 4]: the blocks of res5 multiply that dilation.

Without them it is Detectron2's ResNet. Detectron2 has this network in one of its projects, which
many installations lack. Neither builder makes networks below 50 layers with a dilation or with
another width than 64. The parts are Detectron2's, so parameters have its names and the files of its
model zoo load.

Shapes: N images of (H, W) pixels; C channels of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import nn

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class DeepLabStem(CNNBlockBase):
    """Three 3x3 convolutions and a pooling, stride 4 in all; the first two have half the width.

    Args:
        in_channels: of the image.
        out_channels: C, an even number.
        norm: as in Detectron2's `get_norm`.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
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
        """Turn (N, C_in, H, W) into (N, C, H / 4, W / 4), rounded up."""
        return _pool(self.convolve(x))

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (N, C_in, H, W) into (N, C, H / 2, W / 2), what is pooled afterwards."""
        return self.conv3(self.conv2(self.conv1(x)))


class PlainStem(BasicStem):
    """Detectron2's 7x7 convolution and pooling, of which the convolution can be used alone."""

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (N, C_in, H, W) into (N, C, H / 2, W / 2), what is pooled afterwards."""
        return F.relu_(self.conv1(x))


def _pool(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class FineResNet(ResNet):
    """A ResNet that also gives "res1", its stem's features at stride 2, before their pooling.

    It has the layers, names and values of the same ResNet without that output.

    Args:
        stem: a stem with a method `convolve`.
        stages: as in Detectron2's ResNet.
        out_features: without "res1", which is always given.
    """

    def __init__(
        self, stem: CNNBlockBase, stages: Sequence[Sequence[nn.Module]], out_features: list[str]
    ) -> None:
        super().__init__(stem, stages, out_features=out_features)
        self._out_features = ["res1", *out_features]
        self._out_feature_strides["res1"] = stem.stride // 2
        self._out_feature_channels["res1"] = stem.out_channels

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn (N, C_in, H, W) into the features by name, "res1" among them."""
        x = self.stem.convolve(x)
        outputs = {"res1": x}
        x = _pool(x)
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = stage(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


class DilatedBasicBlock(BasicBlock):
    """Detectron2's block of ResNet-18 and 34, which has no dilation of its own.

    Args:
        in_channels: width before the block.
        out_channels: width after it.
        stride: of the first convolution.
        norm: as in Detectron2's `get_norm`.
        dilation: of both 3x3 convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, norm: str, dilation: int
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        for conv in (self.conv1, self.conv2):
            conv.dilation = conv.padding = (dilation, dilation)


@BACKBONE_REGISTRY.register()
def build_cops_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet of 18, 34, 50, 101 or 152 layers and of any width.

    Args:
        cfg: reads MODEL.RESNETS and MODEL.BACKBONE.FREEZE_AT.
        input_shape: channels of the image.

    Raises:
        ValueError: a key of MODEL.RESNETS has a value that cannot be built.
    """
    node = cfg.MODEL.RESNETS
    if any(node.DEFORM_ON_PER_STAGE):
        raise ValueError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: build_cops_resnet_backbone has no deformable "
            "convolutions; set all four to False"
        )
    network = cops_resnet(
        input_shape.channels,
        depth=node.DEPTH,
        norm=node.NORM,
        out_features=node.OUT_FEATURES,
        stem_type=node.STEM_TYPE,
        stem_out_channels=node.STEM_OUT_CHANNELS,
        res2_out_channels=node.RES2_OUT_CHANNELS,
        num_groups=node.NUM_GROUPS,
        width_per_group=node.WIDTH_PER_GROUP,
        stride_in_1x1=node.STRIDE_IN_1X1,
        res5_dilation=node.RES5_DILATION,
        res5_multi_grid=node.RES5_MULTI_GRID,
    )
    return network.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


def cops_resnet(
    in_channels: int,
    *,
    depth: int,
    norm: str,
    out_features: Sequence[str],
    stem_type: str,
    stem_out_channels: int,
    res2_out_channels: int,
    num_groups: int,
    width_per_group: int,
    stride_in_1x1: bool,
    res5_dilation: int,
    res5_multi_grid: Sequence[int],
) -> ResNet:
    """Build a ResNet; each argument is the key of MODEL.RESNETS of that name.

    Args:
        in_channels: of the image.
        depth: 18, 34, 50, 101 or 152.
        norm: as in Detectron2's `get_norm`.
        out_features: of "res1" (the stem before its pooling) to "res5". Stages above the last of
            them are not built; one above "res1" must be among them.
        stem_type: "basic" or "deeplab".
        stem_out_channels: C of the stem; an even number for "deeplab".
        res2_out_channels: C of res2; each later stage has twice the width of the one before.
        num_groups: of the 3x3 convolutions of bottlenecks; 1 for 18 and 34 layers.
        width_per_group: width of a group in res2; 50 layers and more.
        stride_in_1x1: whether bottlenecks stride in their first convolution.
        res5_dilation: 1 or 2.
        res5_multi_grid: one factor of that dilation per block of res5; empty: all 1.

    Raises:
        ValueError: a value that cannot be built, or that would be ignored.
    """
    _check(depth, out_features, stem_type, stem_out_channels, num_groups, res5_dilation)
    stem_class = {"basic": PlainStem, "deeplab": DeepLabStem}[stem_type]
    stem = stem_class(in_channels, stem_out_channels, norm)
    num_stages = max({"res3": 2, "res4": 3, "res5": 4}.get(name, 1) for name in out_features)
    stages = []
    width = stem_out_channels
    for index, num_blocks in enumerate(_BLOCKS[depth][:num_stages]):
        is_res5 = index == 3
        # res2 follows the pooling of the stem, and a dilated res5 keeps the stride of res4.
        stays = index == 0 or (is_res5 and res5_dilation > 1)
        block: dict[str, Any] = {"block_class": DilatedBasicBlock}
        if depth >= 50:
            block = {
                "block_class": BottleneckBlock,
                "bottleneck_channels": num_groups * width_per_group * 2**index,
                "num_groups": num_groups,
                "stride_in_1x1": stride_in_1x1,
            }
        dilations = [1] * num_blocks
        if is_res5:
            dilations = _dilations(num_blocks, res5_dilation, res5_multi_grid, depth)
        stages.append(
            ResNet.make_stage(
                num_blocks=num_blocks,
                in_channels=width,
                out_channels=res2_out_channels * 2**index,
                norm=norm,
                stride_per_block=[1 if stays else 2] + [1] * (num_blocks - 1),
                dilation_per_block=dilations,
                **block,
            )
        )
        width = res2_out_channels * 2**index
    if "res1" in out_features:
        return FineResNet(stem, stages, [name for name in out_features if name != "res1"])
    return ResNet(stem, stages, out_features=list(out_features))


def _check(
    depth: int,
    out_features: Sequence[str],
    stem_type: str,
    stem_out_channels: int,
    num_groups: int,
    res5_dilation: int,
) -> None:
    """Raise for values that would fail later, or be ignored."""
    choices = (
        ("stem_type", stem_type, ("basic", "deeplab")),
        ("depth", depth, tuple(_BLOCKS)),
        ("res5_dilation", res5_dilation, (1, 2)),
    )
    for name, value, known in choices:
        if value not in known:
            raise ValueError(f"{name} is {value!r}: use one of {known}")
    if not out_features:
        raise ValueError("out_features is empty: name at least one of res2 to res5")
    if set(out_features) == {"res1"}:
        raise ValueError("out_features is res1 alone: name at least one of res2 to res5 too")
    if depth < 50 and num_groups != 1:
        raise ValueError(
            f"num_groups is {num_groups}: a ResNet-{depth} has no bottlenecks that could be "
            "grouped; use 1"
        )
    if stem_type == "deeplab" and stem_out_channels % 2:
        raise ValueError(
            f"stem_out_channels is {stem_out_channels}: the first two layers of the deeplab stem "
            "have half of it; use an even number"
        )


def _dilations(num_blocks: int, dilation: int, factors: Sequence[int], depth: int) -> list[int]:
    """Multiply the dilation of res5 by the factor of each block; no factors are all 1."""
    factors = factors or [1] * num_blocks
    if len(factors) != num_blocks:
        raise ValueError(
            f"res5_multi_grid {list(factors)} has {len(factors)} factors, but res5 of a "
            f"ResNet-{depth} has {num_blocks} blocks: give {num_blocks} factors, or []"
        )
    return [dilation * factor for factor in factors]
