"""Semantic branch: class logits at stride 4 (Abbas and Swoboda, NeurIPS 2021, 3.1, Fig. 2).

Shapes: N images; K classes, things and stuff; h, w cells at stride 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import nn

from cops.modeling.decoder import DeepLabDecoder, head_convolutions


class SemanticHead(nn.Module):
    """A decoder of its own, two 3x3 convolutions and a 1x1 classifier over all K classes.

    Args:
        decoder: makes features at stride 4.
        num_classes: K.
        head_channels: width of the two convolutions.
        norm: of the two convolutions, see `decoder.normalization`.
    """

    @configurable
    def __init__(
        self, *, decoder: DeepLabDecoder, num_classes: int, head_channels: int, norm: str
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head_convolutions(decoder.out_channels, head_channels, norm)
        self.predictor = nn.Conv2d(head_channels, num_classes, 1)
        # All classes start nearly equal, so that the first steps are about the features.
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Read MODEL.COPS.SEMANTIC; `input_shape` is that of the backbone's maps."""
        node = cfg.MODEL.COPS.SEMANTIC
        return {
            "decoder": DeepLabDecoder(cfg, input_shape, "SEMANTIC"),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "head_channels": node.HEAD_CHANNELS,
            "norm": node.NORM,
        }

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Turn maps of the backbone into (N, K, h, w) logits; a greater logit is a smaller cost."""
        return self.predictor(self.head(self.decoder(features)))
