"""Semantic submodule (Li, Qi, Torr, CVPR 2020, section 3.2, appendix A.1, Fig. H).

Every FPN level P2 to P5 passes through one subnet of deformable convolutions whose weights the
levels share. The results are brought to stride 4, concatenated and classified over all classes,
things included. The part before the classifier, `FeatureDecoder`, also feeds the instance affinity.

Shapes: N images; K = N_st + N_th classes; H, W pixels of the padded input; h = H / 4, w = W / 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from panoptic_common.data.segment_truth import IGNORE_CLASS
from unified_panoptic.losses.lovasz import lovasz_softmax
from unified_panoptic.modeling.deformable import DeformableConv3x3
from unified_panoptic.modeling.grid import CENTRE, STRIDE, LossPixel


def _conv_block(in_channels: int, out_channels: int, deformable: bool, norm: str) -> nn.Module:
    if deformable:
        conv: nn.Module = DeformableConv3x3(in_channels, out_channels, bias=not norm)
    else:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    layers = [conv]
    if norm == "GN":
        # 32 groups at 128 channels and more, as Wu and He use. A group has at least 4 channels, so
        # that a thin network's groups are more than single channels.
        layers.append(nn.GroupNorm(min(32, max(out_channels // 4, 1)), out_channels))
    elif norm:
        raise ValueError(f"norm is {norm!r}: use 'GN' or ''")
    layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class FeatureDecoder(nn.Module):
    """The feature decoder of Fig. H: one shared subnet for all levels, then concatenation."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        in_features: Sequence[str],
        num_convs: int,
        hidden_channels: int,
        channels: int,
        deformable: bool,
        norm: str,
    ) -> None:
        """Build the subnet.

        Args:
            in_channels: channels of every FPN level.
            in_features: names of the levels, finest first.
            num_convs: convolutions in the subnet, at least 1.
            hidden_channels: width up to the last but one convolution.
            channels: width of the last two convolutions.
            deformable: deformable or plain convolutions.
            norm: "GN" or "".

        Raises:
            ValueError: no convolution, or an unknown norm.
        """
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"num_convs is {num_convs}: use at least 1")
        widths = [in_channels] + [hidden_channels] * (num_convs - 2) + [channels, channels]
        widths = widths[: num_convs + 1] if num_convs > 1 else [in_channels, channels]
        self.in_features = tuple(in_features)
        self.subnet = nn.Sequential(
            *(
                _conv_block(width_in, width_out, deformable, norm)
                for width_in, width_out in zip(widths[:-1], widths[1:], strict=True)
            )
        )
        self.out_channels = channels * len(self.in_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read MODEL.UNIFIED.DECODER."""
        node = cfg.MODEL.UNIFIED.DECODER
        channels = {input_shape[name].channels for name in node.IN_FEATURES}
        if len(channels) != 1:
            raise ValueError(f"the levels {node.IN_FEATURES} differ in channels: {channels}")
        return {
            "in_channels": channels.pop(),
            "in_features": node.IN_FEATURES,
            "num_convs": node.NUM_CONVS,
            "hidden_channels": node.HIDDEN_CHANNELS,
            "channels": node.CHANNELS,
            "deformable": node.DEFORMABLE,
            "norm": node.NORM,
        }

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Decode the FPN levels: (N, channels * levels, h, w) at the finest level's stride."""
        decoded = [self.subnet(features[name]) for name in self.in_features]
        size = decoded[0].shape[-2:]
        upsampled = [
            F.interpolate(level, size=size, mode="bilinear", align_corners=False)
            for level in decoded[1:]
        ]
        return torch.cat(decoded[:1] + upsampled, dim=1)


class PerLevelDecoder(nn.Module):
    """The decoder of Panoptic FPN (Kirillov et al., CVPR 2019, Fig. 3), Detectron2's.

    Every level has convolutions of its own, one for each doubling of its size. So the coarse ones
    see far and rise step by step. The results are added.
    """

    def __init__(self, input_shape: dict[str, ShapeSpec], channels: int, norm: str) -> None:
        """Build the convolutions.

        Args:
            input_shape: of the levels to decode.
            channels: width of all convolutions, and of the result.
            norm: "GN" or "".

        Raises:
            ValueError: a width that the 32 groups of "GN" do not divide.
        """
        super().__init__()
        if norm == "GN" and channels % 32:
            raise ValueError(f"channels is {channels}: use a multiple of 32, or no norm")
        self.head = SemSegFPNHead(
            input_shape, num_classes=1, conv_dims=channels, common_stride=STRIDE, norm=norm
        )
        self.head.predictor = nn.Identity()  # ours follows
        self.out_channels = channels

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Decode the FPN levels: (N, channels, h, w) at stride 4."""
        return self.head.layers(features)


class SemanticHead(nn.Module):
    """Class logits at stride 4 over all N_st + N_th classes, and their loss."""

    @configurable
    def __init__(
        self,
        *,
        decoder: FeatureDecoder | PerLevelDecoder,
        num_classes: int,
        loss: str,
        loss_weight: float,
        loss_stride: int,
        predictor_init: str = "small",
    ) -> None:
        """Build the head.

        Args:
            decoder: makes the features at stride 4.
            num_classes: K.
            loss: "cross_entropy" or "lovasz_softmax".
            loss_weight: factor of the loss.
            loss_stride: 4 compares the logits with every 4th truth pixel; 1 upsamples them first.
            predictor_init: first weights of the classifier: normal with a deviation of 0.01
                ("small") or of sqrt(2 / K) ("msra").

        Raises:
            ValueError: an unknown loss, stride or initialisation.
        """
        super().__init__()
        if loss not in ("cross_entropy", "lovasz_softmax"):
            raise ValueError(f"loss is {loss!r}: use 'cross_entropy' or 'lovasz_softmax'")
        if loss_stride not in (1, 4):
            raise ValueError(f"loss_stride is {loss_stride}: use 1 or 4")
        if predictor_init not in ("small", "msra"):
            raise ValueError(f"predictor_init is {predictor_init!r}: use 'small' or 'msra'")
        self.decoder = decoder
        self.predictor = nn.Conv2d(decoder.out_channels, num_classes, 1)
        # With AdamW a weight moves by about the learning rate per step. So from 0.01 it takes
        # hundreds of steps to logits of some size; until then the backbone learns little of them.
        deviation = 0.01 if predictor_init == "small" else math.sqrt(2 / num_classes)
        nn.init.normal_(self.predictor.weight, std=deviation)
        nn.init.zeros_(self.predictor.bias)
        self.loss = loss
        self.loss_weight = loss_weight
        self.loss_stride = loss_stride

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read MODEL.UNIFIED.SEMANTIC.

        Raises:
            ValueError: an unknown decoder.
        """
        node = cfg.MODEL.UNIFIED.SEMANTIC
        if node.DECODER not in ("shared", "per_level"):
            raise ValueError(
                f"MODEL.UNIFIED.SEMANTIC.DECODER is {node.DECODER!r}: use 'shared' or 'per_level'"
            )
        decoder: FeatureDecoder | PerLevelDecoder
        if node.DECODER == "per_level":
            levels = {name: input_shape[name] for name in cfg.MODEL.UNIFIED.DECODER.IN_FEATURES}
            norm = cfg.MODEL.UNIFIED.DECODER.NORM
            decoder = PerLevelDecoder(levels, node.DECODER_CHANNELS, norm)
        else:
            decoder = FeatureDecoder(cfg, input_shape)
        return {
            "decoder": decoder,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "loss": node.LOSS,
            "loss_weight": node.LOSS_WEIGHT,
            "loss_stride": node.LOSS_STRIDE,
            "predictor_init": node.PREDICTOR_INIT,
        }

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute (N, K, h, w) logits from the FPN levels; their softmax over K is V."""
        return self.predictor(self.decoder(features))

    def losses(
        self, logits: torch.Tensor, truth: torch.Tensor, pixel: LossPixel = CENTRE
    ) -> dict[str, torch.Tensor]:
        """Compute the semantic loss over the batch.

        Args:
            logits: (N, K, h, w).
            truth: (N, H, W) int64 classes of the padded images, 255 = ignore.
            pixel: of each cell that is compared at stride 4.

        Returns:
            {"loss_sem_seg": scalar}; zero with a graph if every pixel is ignored.
        """
        logits = logits.float()
        if self.loss_stride == 1:
            logits = F.interpolate(
                logits, size=truth.shape[-2:], mode="bilinear", align_corners=False
            )
        else:
            logits = pixel.of_maps(logits)
            truth = pixel.of_truth(truth, logits.shape[-2:])
        if self.loss == "lovasz_softmax":
            loss = lovasz_softmax(logits.softmax(dim=1), truth, IGNORE_CLASS)
        else:
            total = F.cross_entropy(logits, truth, ignore_index=IGNORE_CLASS, reduction="sum")
            loss = total / (truth != IGNORE_CLASS).sum().clamp(min=1)
        return {"loss_sem_seg": loss * self.loss_weight}
