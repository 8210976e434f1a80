"""DeepLabV3+ decoder: from a ResNet's features to features at the stride of the finest of them.

COPS has two, one for classes and one for affinities (Abbas and Swoboda, NeurIPS 2021, 3.1), as
Panoptic-DeepLab has them (Cheng et al., CVPR 2020). The coarsest features pass through atrous
spatial pyramid pooling (ASPP; Chen et al., ECCV 2018). Then they are, step by step, upsampled,
concatenated with the next finer features, and fused. All convolutions but the 1x1 are
depthwise-separable. Written here since Detectron2 has its own only in a project, which many
installations lack. Also, its ASPP refuses maps that its pooling window does not divide.

Shapes: N images; features of (h, w) cells, the finest at stride 4, the coarsest (h', w') at stride
16 or 32; C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d, ShapeSpec, get_norm
from torch import nn

Norm = str | Callable[[int], nn.Module]

_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN")


def normalization(name: str) -> Norm:
    """Translate a name into what Detectron2's layers take as `norm`.

    Its group norm has 32 groups and so needs a multiple of 32 channels. Here each group has at
    least 4 channels, which from 128 channels on is the same (32 groups) and lets thin networks be.

    Args:
        name: "BN", "SyncBN", "FrozenBN", "GN", or "" for none.

    Raises:
        ValueError: another name.
    """
    if name not in _NORMS:
        raise ValueError(f"norm is {name!r}: use one of {_NORMS}")
    return _group_norm if name == "GN" else name


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = [g for g in range(1, 33) if channels % g == 0 and channels // g >= 4]
    return nn.GroupNorm(max(groups, default=1), channels)


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, norm: Norm, groups: int = 1
) -> Conv2d:
    """Build a convolution that keeps the size of the map, with norm (or else a bias) and ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        groups=groups,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_xavier_fill(conv)
    return conv


class SeparableConv2d(DepthwiseSeparableConv2d):
    """Detectron2's, whose depthwise part a CPU trains in single precision.

    Its backward pass in bfloat16 and channels-last order is slower there (docs/benchmark.md).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (N, C_in, h, w) into (N, C, h, w)."""
        if not (self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            x = self.depthwise(x.float())
        return self.pointwise(x)


def separable_convolution(
    in_channels: int, out_channels: int, kernel_size: int, norm: Norm, dilation: int = 1
) -> SeparableConv2d:
    """Build a depthwise and a 1x1 convolution, each with norm and ReLU; keeps the map's size."""
    return SeparableConv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        norm1=norm,
        activation1=F.relu,
        norm2=norm,
        activation2=F.relu,
    )


class AtrousPyramid(nn.Module):
    """ASPP: a 1x1 convolution, dilated 3x3 convolutions and a pooling side by side, then fused.

    Args:
        in_channels: of the coarsest features.
        out_channels: of each part and of the result.
        dilations: of the 3x3 convolutions.
        pool_window: (rows, columns) of cells that the pooling averages around each cell; a
            window larger than the map is cut to it. None: the mean of the whole map.
        dropout: share of the result that is dropped in training.
        norm: see `normalization`; the pooling has none (in training its map has one cell).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        pool_window: tuple[int, int] | None,
        dropout: float,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([convolution(in_channels, out_channels, 1, norm)])
        for dilation in dilations:
            self.branches.append(
                separable_convolution(in_channels, out_channels, 3, norm, dilation)
            )
        self.pooled = convolution(in_channels, out_channels, 1, norm="")
        self.project = convolution((len(dilations) + 2) * out_channels, out_channels, 1, norm)
        self.pool_window = pool_window
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (N, C_in, h', w') into (N, C, h', w')."""
        parts = [branch(x) for branch in self.branches]
        pooled = self.pooled(self._pool(x))
        parts.append(F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False))
        return F.dropout(self.project(torch.cat(parts, dim=1)), self.dropout, self.training)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        """Means over the window at each place where it fits into the map."""
        if self.pool_window is None:
            return x.mean(dim=(2, 3), keepdim=True)
        rows, columns = self.pool_window
        if not torch.onnx.is_in_onnx_export():  # a graph has one window; smaller maps are refused
            rows, columns = min(rows, x.shape[2]), min(columns, x.shape[3])
        # Rows, then columns: a window of 32 x 64 takes 96 additions instead of 2048.
        return F.avg_pool2d(F.avg_pool2d(x, (rows, 1), stride=1), (1, columns), stride=1)


class DeepLabDecoder(nn.Module):
    """The decoder of one branch.

    Args:
        input_shape: channels and stride of each feature map of the backbone.
        in_features: the maps to use, by ascending stride; the last goes into the ASPP.
        project_channels: width that each of the others is brought to before its fusion.
        channels: C, width after each fusion.
        aspp_channels: width of the ASPP.
        aspp_dilations: see `AtrousPyramid`.
        aspp_dropout: see `AtrousPyramid`.
        aspp_pool_size: window of the ASPP's pooling, (height, width) in pixels of the image,
            multiples of the last map's stride; (0, 0) pools the whole map.
        norm: see `normalization`.

    Raises:
        ValueError: the maps, their order, or the numbers given for them do not fit.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        in_features: Sequence[str],
        project_channels: Sequence[int],
        channels: int,
        aspp_channels: int,
        aspp_dilations: Sequence[int],
        aspp_dropout: float,
        aspp_pool_size: tuple[int, int],
        norm: str,
    ) -> None:
        super().__init__()
        shapes = _shapes_of(input_shape, in_features)
        finer = in_features[:-1]
        if len(project_channels) != len(finer):
            raise ValueError(
                f"project_channels {tuple(project_channels)} needs one number for each of "
                f"{tuple(finer)}, which are in_features but the last"
            )
        layers = normalization(norm)
        self.in_features = tuple(in_features)
        self.aspp = AtrousPyramid(
            in_channels=shapes[-1].channels,
            out_channels=aspp_channels,
            dilations=aspp_dilations,
            pool_window=_window_in_cells(aspp_pool_size, shapes[-1].stride),
            dropout=aspp_dropout,
            norm=layers,
        )
        self.project, self.fuse = nn.ModuleDict(), nn.ModuleDict()
        width = aspp_channels
        for name, shape, projected in reversed(
            list(zip(finer, shapes[:-1], project_channels, strict=True))
        ):
            self.project[name] = convolution(shape.channels, projected, 1, layers)
            self.fuse[name] = separable_convolution(projected + width, channels, 5, layers)
            width = channels
        self.out_channels = width
        self.stride = shapes[0].stride

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec], branch: str
    ) -> dict[str, Any]:
        """Read the section of a branch.

        Args:
            cfg: a config with the keys of COPS.
            input_shape: of the backbone's maps, all of which are used.
            branch: "SEMANTIC" or "AFFINITY", the section of MODEL.COPS.
        """
        node = cfg.MODEL.COPS[branch]
        return {
            "input_shape": input_shape,
            "in_features": sorted(input_shape, key=lambda name: (input_shape[name].stride, name)),
            "project_channels": tuple(node.PROJECT_CHANNELS),
            "channels": node.DECODER_CHANNELS,
            "aspp_channels": node.ASPP_CHANNELS,
            "aspp_dilations": tuple(node.ASPP_DILATIONS),
            "aspp_dropout": node.ASPP_DROPOUT,
            "aspp_pool_size": tuple(node.ASPP_POOL_SIZE),
            "norm": node.NORM,
        }

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Turn maps of the backbone into (N, C, h, w) at the stride of the finest."""
        x = self.aspp(features[self.in_features[-1]])
        for name in reversed(self.in_features[:-1]):
            finer = self.project[name](features[name])
            x = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)
            x = self.fuse[name](torch.cat((finer, x), dim=1))
        return x


def head_convolutions(in_channels: int, channels: int, norm: str) -> nn.Sequential:
    """Build the two 3x3 convolutions between a decoder and its classifiers."""
    layers = normalization(norm)
    return nn.Sequential(
        convolution(in_channels, channels, 3, layers), convolution(channels, channels, 3, layers)
    )


def _shapes_of(input_shape: Mapping[str, ShapeSpec], names: Sequence[str]) -> list[ShapeSpec]:
    if not names or any(name not in input_shape for name in names):
        raise ValueError(
            f"in_features {tuple(names)} must name maps of the backbone, which gives "
            f"{tuple(input_shape)}"
        )
    shapes = [input_shape[name] for name in names]
    strides = [shape.stride for shape in shapes]
    if strides != sorted(strides):
        raise ValueError(f"in_features {tuple(names)} have strides {strides}: order them ascending")
    return shapes


def _window_in_cells(size: Sequence[int], stride: int) -> tuple[int, int] | None:
    """(height, width) in pixels -> cells of the map with that stride; (0, 0) -> None."""
    if tuple(size) == (0, 0):
        return None
    if len(size) != 2 or any(side <= 0 or side % stride for side in size):
        raise ValueError(
            f"aspp_pool_size {tuple(size)} must be two multiples of {stride}, the stride of the "
            "last of in_features, or (0, 0) to pool the whole image"
        )
    return size[0] // stride, size[1] // stride
