"""The pre-training losses of both branches (Abbas, Swoboda, NeurIPS 2021, 4.2): weighted top-k
cross entropy of the classes, and of the edges of each distance.

Shapes: N images; K classes; D distances; h, w cells of the grid; H, W pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import panoptic_common.compat  # noqa: F401  (before detectron2)

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import nn

from cops.losses.top_k import weighted_top_k_bce, weighted_top_k_cross_entropy
from cops.targets import IGNORE_CLASS, CopsTarget


class PretrainingLosses(nn.Module):
    """Both losses, with the weights and shares of MODEL.COPS.PRETRAIN."""

    @configurable
    def __init__(
        self,
        *,
        semantic_weight: float,
        semantic_top_k: float,
        affinity_weight: float,
        affinity_top_k: float,
        loss_stride: int,
    ) -> None:
        """Args:
        semantic_weight: of the semantic loss.
        semantic_top_k: share of the pixels, the hardest, that count.
        affinity_weight: of the affinity loss.
        affinity_top_k: share of the edges of each distance that count.
        loss_stride: 1 takes the semantic loss at the size of the images, 4 on the grid.
        """
        super().__init__()
        if loss_stride not in (1, 4):
            raise ValueError(f"MODEL.COPS.PRETRAIN.LOSS_STRIDE is {loss_stride}: use 1 or 4")
        self.semantic_weight = semantic_weight
        self.semantic_top_k = semantic_top_k
        self.affinity_weight = affinity_weight
        self.affinity_top_k = affinity_top_k
        self.loss_stride = loss_stride

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.COPS.PRETRAIN
        return {
            "semantic_weight": node.SEMANTIC_WEIGHT,
            "semantic_top_k": node.SEMANTIC_TOP_K,
            "affinity_weight": node.AFFINITY_WEIGHT,
            "affinity_top_k": node.AFFINITY_TOP_K,
            "loss_stride": node.LOSS_STRIDE,
        }

    def forward(
        self,
        class_logits: torch.Tensor,
        edge_logits: torch.Tensor,
        truths: Sequence[CopsTarget],
        batched_inputs: Sequence[dict],
    ) -> dict[str, torch.Tensor]:
        """The two losses, times their weights.

        Args:
            class_logits: (N, K, h, w).
            edge_logits: (N, 2 D, h, w), positive for "cut".
            truths: of the N images, h x w cells or fewer.
            batched_inputs: "sem_seg" (H_i, W_i) and "pixel_weights" of each; read at loss stride 1.
        """
        device = class_logits.device
        grid = (class_logits.shape[-2], class_logits.shape[-1])
        truths = [truth.padded(grid) for truth in truths]
        if self.loss_stride == 1:
            size = tuple(4 * extent for extent in class_logits.shape[-2:])
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
        return {
            "loss_semantic": semantic * self.semantic_weight,
            "loss_affinity": affinity * self.affinity_weight,
        }


def _stack(maps: Sequence[torch.Tensor], size: tuple[int, int], fill: int) -> torch.Tensor:
    """Pad (H_i, W_i) maps at their lower and right border to one size, and stack them."""
    return torch.stack(
        [F.pad(m, (0, size[1] - m.shape[1], 0, size[0] - m.shape[0]), value=fill) for m in maps]
    )
