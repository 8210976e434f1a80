"""Affinity branch: the logits of the edges of the grid (Abbas, Swoboda, NeurIPS 2021, 3.1, A.5).

Features of a decoder of its own and the class costs of the semantic branch, concatenated, pass
through two 3x3 convolutions (Fig. 7). Then each distance d has a classifier of its own. It gives
two logits per cell, for the horizontal and for the vertical edge whose middle the cell is (Fig. 8).
For d = 1 it sees the features, as an edge detector does. For d > 1 the differences of the features
at the ends of these edges (Eq. 10, 11):

    horizontal   f(i, j + floor(d/2)) - f(i, j - ceil(d/2))          vertical likewise on rows

in two groups of channels that only the last layer mixes: where both edges cross an oblique
boundary, both are to be cut. The geometry is that of `cops.grid_graph`.

Where an edge would leave the map the difference is zero, as if both ends looked alike. The logits
there mean nothing and no edge has them. But neighbouring cells see the zeros through the 3x3
convolutions, in training and in inference alike. A distance that fits an image nowhere therefore
still runs, on zeros. What fits no training image is never trained. Crops of 512 pixels have no
vertical edge of distance 128, larger test images do, and its logits there are arbitrary.

The paper does not say which class costs come in, before or after their learned scale (see
`cost_scale`). Here, as in the authors' released networks, before it: minus the logits. They come in
detached, so that the semantic branch learns from its own task only.

Shapes: N images; K classes; n channels; D distances; h, w cells at stride 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import nn

from cops.modeling.decoder import (
    DeepLabDecoder,
    Norm,
    convolution,
    head_convolutions,
    normalization,
)


def feature_differences(features: torch.Tensor, distance: int) -> torch.Tensor:
    """Subtract the features at the ends of each edge, at the cell in its middle (Eq. 10, 11).

    Args:
        features: (N, n, h, w).
        distance: d, in cells.

    Returns:
        (N, 2 n, h, w): horizontal, then vertical differences; zero where the edge leaves the map.
    """
    before, after = distance - distance // 2, distance // 2
    if torch.onnx.is_in_onnx_export():
        return torch.cat([_padded_difference(features, axis, before, after) for axis in (3, 2)], 1)
    height, width = features.shape[-2:]
    horizontal = vertical = torch.zeros_like(features)
    if distance < width:
        difference = features[..., distance:] - features[..., :-distance]
        horizontal = F.pad(difference, (before, after))
    if distance < height:
        difference = features[..., distance:, :] - features[..., :-distance, :]
        vertical = F.pad(difference, (0, 0, before, after))
    return torch.cat((horizontal, vertical), dim=1)


def _padded_difference(features: torch.Tensor, axis: int, before: int, after: int) -> torch.Tensor:
    """Subtract along an axis of any length, without asking for it: a graph has one way for all.

    Padded by `before` in front and `after` behind, the map begins with the earlier ends and stops
    with the later ones. A map of ones, padded alike, tells where both are inside.
    """
    length = features.shape[axis]
    widths = (before, after) if axis == 3 else (0, 0, before, after)
    ones = torch.ones_like(features[:1, :1])
    ends = []
    for maps in (features, ones):
        padded = F.pad(maps, widths)
        ends.append((padded.narrow(axis, 0, length), padded.narrow(axis, before + after, length)))
    (earlier, later), (has_earlier, has_later) = ends
    return (later - earlier) * (has_earlier * has_later)


class EdgeClassifier(nn.Sequential):
    """Classifier of the edges of one distance: n or 2 n channels -> 2 logits per cell (Fig. 7).

    Args:
        channels: n; a quarter and an eighth of it, but at least 1, are the widths inside.
        distance: d; above 1 there are two groups of channels, each of these widths.
        norm: of the two 3x3 convolutions.
    """

    def __init__(self, channels: int, distance: int, norm: Norm) -> None:
        groups = 1 if distance == 1 else 2
        quarter, eighth = (groups * max(channels // part, 1) for part in (4, 8))
        logits = Conv2d(eighth, 2, kernel_size=1)
        weight_init.c2_xavier_fill(logits)
        super().__init__(
            convolution(groups * channels, quarter, 3, norm, groups),
            convolution(quarter, eighth, 3, norm, groups),
            logits,
        )


class AffinityHead(nn.Module):
    """Logits of all edges; above zero means cut.

    Args:
        decoder: makes features at stride 4.
        distances: D distances in cells of the grid, each once.
        num_classes: K.
        head_channels: n, width of the two convolutions before the classifiers.
        norm: see `decoder.normalization`.

    Raises:
        ValueError: there is no distance, one below 1, or one twice.
    """

    @configurable
    def __init__(
        self,
        *,
        decoder: DeepLabDecoder,
        distances: Sequence[int],
        num_classes: int,
        head_channels: int,
        norm: str,
    ) -> None:
        super().__init__()
        distances = tuple(distances)
        if not distances or min(distances) < 1 or len(set(distances)) != len(distances):
            raise ValueError(f"distances is {distances}: give positive numbers, each of them once")
        self.decoder = decoder
        self.distances = distances
        self.head = head_convolutions(decoder.out_channels + num_classes, head_channels, norm)
        self.classifiers = nn.ModuleList(
            EdgeClassifier(head_channels, distance, normalization(norm)) for distance in distances
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Read MODEL.COPS.AFFINITY; `input_shape` is that of the backbone's maps."""
        node = cfg.MODEL.COPS.AFFINITY
        return {
            "decoder": DeepLabDecoder(cfg, input_shape, "AFFINITY"),
            "distances": cfg.MODEL.COPS.DISTANCES,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "head_channels": node.HEAD_CHANNELS,
            "norm": node.NORM,
        }

    def forward(
        self, features: Mapping[str, torch.Tensor], class_logits: torch.Tensor
    ) -> torch.Tensor:
        """Compute the logits of the edges.

        Args:
            features: maps of the backbone.
            class_logits: (N, K, h, w) of `SemanticHead`, unscaled; no gradient flows back to them.

        Returns:
            (N, 2 D, h, w): channel 2 i has the horizontal, 2 i + 1 the vertical edges of
            `distances[i]`. The cells of a map that hold an edge are those of
            `cops.grid_graph.GridGraph.valid`.
        """
        x = self.decoder(features)
        x = self.head(torch.cat((x, -class_logits.detach().to(x.dtype)), dim=1))
        logits = [
            classifier(x if distance == 1 else feature_differences(x, distance))
            for distance, classifier in zip(self.distances, self.classifiers, strict=True)
        ]
        return torch.cat(logits, dim=1)
