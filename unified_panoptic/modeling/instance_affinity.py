"""Dense instance affinity head (Li, Qi, Torr, CVPR 2020, section 3.4.2, Eq. 3 and 4, Fig. 5).

Every pixel's potential is corrected by those of the pixels it belongs together with:

    P = Psi + phi_0(Q) (phi_1(Q)^T Psi)

The pairwise matrix A = phi_0(Q) phi_1(Q)^T, 15.7 GB at the paper's training size, is never formed:
phi_1(Q)^T Psi is only C x S. The channels of Psi may be as many as an image needs.

Shapes: N images; C = 128 feature channels; S channels of Psi; n = h * w cells at stride 4.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import nn

from unified_panoptic.modeling.semantic_head import FeatureDecoder

INITIAL_GAIN = 0.1
ACTIVATIONS = ("linear", "relu", "sigmoid", "softmax")


class FactoredResidual(NamedTuple):
    """The residual of Eq. 4 as its factors, which stay small however many channels Psi has.

    Attributes:
        summary: (S, C) of `summarise`.
        phi_0: (C, h, w).
    """

    summary: torch.Tensor
    phi_0: torch.Tensor


def apply_affinity(psi: torch.Tensor, phi_0: torch.Tensor, phi_1: torch.Tensor) -> torch.Tensor:
    """Compute the residual phi_0(Q) (phi_1(Q)^T Psi) of Eq. 4 in single precision.

    Args:
        psi: (S, h, w).
        phi_0: (C, h, w), receiving side.
        phi_1: (C, h, w), sending side.

    Returns:
        (S, h, w).
    """
    with torch.autocast(psi.device.type, enabled=False):
        return spread(summarise(psi, phi_1), phi_0)


def summarise(psi: torch.Tensor, phi_1: torch.Tensor) -> torch.Tensor:
    """Compute the small matrix Psi phi_1(Q): (S, h, w), (C, h, w) -> (S, C)."""
    return psi.float().flatten(1) @ phi_1.float().flatten(1).T


def spread(summary: torch.Tensor, phi_0: torch.Tensor) -> torch.Tensor:
    """Send it to every cell: (S, C), (C, h, w) -> (S, h, w)."""
    return (summary @ phi_0.float().flatten(1)).unflatten(1, phi_0.shape[1:])


def pixel_affinity(phi_0: torch.Tensor, phi_1: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """Compute one row of the pairwise matrix A: how strongly each cell sends to cell (row, column).

    Args:
        phi_0: (C, h, w).
        phi_1: (C, h, w).
        row: of the receiving cell.
        column: of the receiving cell.

    Returns:
        (h, w), scaled by n so that 1 is the mean weight of a row that sums to 1.

    Raises:
        IndexError: the cell lies outside the grid.
    """
    height, width = phi_0.shape[1:]
    if not (0 <= row < height and 0 <= column < width):
        raise IndexError(f"cell ({row}, {column}) lies outside the grid of {height} x {width}")
    return torch.einsum("c,chw->hw", phi_0[:, row, column], phi_1) * (height * width)


def activate(x: torch.Tensor, activation: str, side: int) -> torch.Tensor:
    """Apply the activation of phi, including its normalisation over the image.

    Without a factor 1 / n the residual grows with the image's area. It is put on phi_1 for
    "linear", "relu" and "sigmoid". The "softmax" pair follows Shen et al. (WACV 2021): phi_0 over
    channels, phi_1 over cells, so that every row of A sums to 1.

    Args:
        x: (C, h, w).
        activation: one of `ACTIVATIONS`.
        side: 0 for phi_0, 1 for phi_1.

    Returns:
        (C, h, w).
    """
    if activation == "softmax":
        return x.softmax(dim=0) if side == 0 else x.flatten(1).softmax(dim=1).view_as(x)
    if activation == "relu":
        x = x.relu()
    elif activation == "sigmoid":
        x = x.sigmoid()
    return x if side == 0 else x / (x.shape[-2] * x.shape[-1])


def coordinate_features(
    height: int, width: int, frequencies: int, device: torch.device
) -> torch.Tensor:
    """Compute sin and cos of pi 2^k x, x in [-1, 1], of both axes: (4 * frequencies, h, w)."""
    y = torch.linspace(-1, 1, height, device=device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=device)[None, :].expand(height, width)
    waves = [math.pi * 2**k * axis for k in range(frequencies) for axis in (y, x)]
    return torch.stack([f(wave) for wave in waves for f in (torch.sin, torch.cos)])


class InstanceAffinityHead(nn.Module):
    """Predicts phi_0(Q) and phi_1(Q) from the FPN levels."""

    @configurable
    def __init__(
        self,
        *,
        decoder: FeatureDecoder,
        channels: int = 128,
        activation: str = "linear",
        coordinate_frequencies: int = 0,
    ) -> None:
        """Build the head.

        Args:
            decoder: the affinity feature extractor: the semantic head's design, own weights.
            channels: C.
            activation: one of `ACTIVATIONS`.
            coordinate_frequencies: pairs of sine and cosine per axis that both phi see beside Q.

        Raises:
            ValueError: an unknown activation.
        """
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}: use one of {ACTIVATIONS}")
        self.decoder = decoder
        self.query = nn.Conv2d(decoder.out_channels, channels, 1)
        self.coordinate_frequencies = coordinate_frequencies
        in_channels = channels + 4 * coordinate_frequencies
        self.phi_0 = nn.Conv2d(in_channels, channels, 1)
        self.phi_1 = nn.Conv2d(in_channels, channels, 1)
        self.activation = activation
        for layer in (self.query, self.phi_0, self.phi_1):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        # The residual starts small against Psi, as a correction. At a tenth of Xavier's gain its
        # magnitude is a tenth of Psi's on an untrained network, at full gain that of Psi.
        with torch.no_grad():
            self.phi_0.weight.mul_(INITIAL_GAIN)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read MODEL.UNIFIED.AFFINITY."""
        node = cfg.MODEL.UNIFIED.AFFINITY
        return {
            "decoder": FeatureDecoder(cfg, input_shape),
            "channels": node.CHANNELS,
            "activation": node.ACTIVATION,
            "coordinate_frequencies": node.COORDINATE_FREQUENCIES,
        }

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute Q from the FPN levels: (N, C, h, w)."""
        return self.query(self.decoder(features))

    def factors(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute phi_0(Q) and phi_1(Q) of one image, in single precision.

        Taken from the valid part of Q alone, so that padding neither sends nor counts.

        Args:
            query: (C, h, w).

        Returns:
            Two tensors (C, h, w).
        """
        with torch.autocast(query.device.type, enabled=False):
            x = query.float()
            if self.coordinate_frequencies:
                waves = coordinate_features(
                    x.shape[1], x.shape[2], self.coordinate_frequencies, x.device
                )
                x = torch.cat([x, waves])
            phi_0 = activate(self.phi_0(x[None])[0], self.activation, 0)
            phi_1 = activate(self.phi_1(x[None])[0], self.activation, 1)
        return phi_0, phi_1
