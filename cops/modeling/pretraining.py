"""The pre-training losses of both branches (Abbas, Swoboda, NeurIPS 2021, 4.2).

Weighted top-k cross-entropy of the classes, and of the edges of each distance.

Shapes: N images; K classes; D distances; h, w cells of the grid; H, W pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import nn

from cops.losses.top_k import weighted_top_k_bce, weighted_top_k_cross_entropy
from cops.targets import GRID_STRIDE, IGNORE_CLASS, CopsTarget


class PretrainingLosses(nn.Module):
    """Both losses, each with the share of the hardest that it looks at.

    Args:
        semantic_top_k: share of the pixels, the hardest, that count.
        affinity_top_k: share of the edges of each distance that count.
        loss_stride: 1 takes the semantic loss at the size of the images, that of the grid on it.
        grid_stride: pixels along a cell of the network's grid.
        affinity_factor: factor of the affinity loss.

    Raises:
        ValueError: another loss stride.
    """

    @configurable
    def __init__(
        self,
        *,
        semantic_top_k: float,
        affinity_top_k: float,
        loss_stride: int,
        grid_stride: int = GRID_STRIDE,
        affinity_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if loss_stride not in (1, grid_stride):
            raise ValueError(f"loss_stride is {loss_stride}: use 1 or {grid_stride}")
        self.grid_stride = grid_stride
        self.semantic_top_k = semantic_top_k
        self.affinity_top_k = affinity_top_k
        self.loss_stride = loss_stride
        self.affinity_factor = affinity_factor
        # Of each of the batched inputs, beside its target on the grid.
        self.needed = ("sem_seg", "pixel_weights") if loss_stride == 1 else ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read MODEL.COPS.PRETRAIN."""
        node = cfg.MODEL.COPS.PRETRAIN
        return {
            "semantic_top_k": node.SEMANTIC_TOP_K,
            "affinity_top_k": node.AFFINITY_TOP_K,
            "loss_stride": node.LOSS_STRIDE,
            "grid_stride": cfg.MODEL.COPS.STRIDE,
            "affinity_factor": node.AFFINITY_FACTOR,
        }

    def forward(
        self,
        class_logits: torch.Tensor,
        edge_logits: torch.Tensor,
        truths: Sequence[CopsTarget],
        batched_inputs: Sequence[dict],
    ) -> dict[str, torch.Tensor]:
        """Compute the two losses.

        Args:
            class_logits: (N, K, h, w).
            edge_logits: (N, 2 D, h, w), positive for "cut".
            truths: of the N images, h x w cells or fewer.
            batched_inputs: "sem_seg" (H_i, W_i) and "pixel_weights" of each; read at loss stride 1.

        Returns:
            Scalars "loss_semantic" and "loss_affinity".
        """
        device = class_logits.device
        grid = (class_logits.shape[-2], class_logits.shape[-1])
        truths = [truth.padded(grid) for truth in truths]
        if self.loss_stride == 1:
            size = (self.grid_stride * grid[0], self.grid_stride * grid[1])
            class_logits = F.interpolate(
                class_logits.float(), size, mode="bilinear", align_corners=False
            )
            classes = _stack([x["sem_seg"].to(device) for x in batched_inputs], size, IGNORE_CLASS)
            weights = _stack([x["pixel_weights"].to(device) for x in batched_inputs], size, 0)
        else:
            classes = torch.stack([truth.sem_seg for truth in truths])
            weights = torch.stack([truth.pixel_weights for truth in truths])
        semantic = weighted_top_k_cross_entropy(
            class_logits, classes, weights, self.semantic_top_k, IGNORE_CLASS
        )
        affinity = weighted_top_k_bce(
            edge_logits,
            torch.stack([truth.is_cut for truth in truths]),
            torch.stack([truth.edge_weights for truth in truths]),
            self.affinity_top_k,
        )
        return {"loss_semantic": semantic, "loss_affinity": self.affinity_factor * affinity}


def _stack(maps: Sequence[torch.Tensor], size: tuple[int, int], fill: int) -> torch.Tensor:
    """Pad (H_i, W_i) maps at their lower and right border to one size, and stack them."""
    return torch.stack(
        [F.pad(m, (0, size[1] - m.shape[1], 0, size[0] - m.shape[0]), value=fill) for m in maps]
    )
