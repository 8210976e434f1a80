"""Pre-training losses: cross-entropies of the hardest pixels and edges.

The semantic branch and each affinity predictor are pre-trained with the "weighted top-k
cross-entropy" (Abbas, Swoboda, NeurIPS 2021, 4.2). It comes from DeeperLab (Yang et al., 2019) and
Panoptic-DeepLab (Cheng et al., CVPR 2020). Most pixels are easy after a while, so the
mean is taken over the share with the largest losses. Weights multiply the losses *before* the
selection, so that what is weighted up is also selected more often.

A share is one of the pixels that count, those that are neither ignored nor weighted 0, in the whole
batch. Panoptic-DeepLab takes it of all pixels; then padding and void would dilute the loss.

Shapes: N images, K classes, H, W pixels; h, w cells, D distances of edges (`cops.grid_graph`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def weighted_top_k_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    top_k_share: float,
    ignore: int = 255,
) -> torch.Tensor:
    """Average the weighted cross-entropy over the pixels where it is largest.

    Args:
        logits: (N, K, H, W); half precision is widened to float32.
        target: (N, H, W) int64 classes.
        weights: (N, H, W) factors >= 0; pixels with 0 are ignored.
        top_k_share: in (0, 1], share of the counting pixels that is averaged; at least one is.
        ignore: class in `target` of ignored pixels.

    Returns:
        Scalar; 0, with a gradient of 0, if no pixel counts.

    Raises:
        ValueError: the shapes do not fit or the share is not in (0, 1].
    """
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.ndim != 4 or target.shape != expected or weights.shape != expected:
        raise ValueError(
            f"logits {tuple(logits.shape)}, target {tuple(target.shape)} and weights "
            f"{tuple(weights.shape)} are not (N, K, H, W), (N, H, W) and (N, H, W)"
        )
    losses = F.cross_entropy(_widen(logits), target, ignore_index=ignore, reduction="none")
    return _mean_of_largest((losses * weights)[(target != ignore) & (weights > 0)], top_k_share)


def weighted_top_k_bce(
    logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, top_k_share: float
) -> torch.Tensor:
    """Average the weighted binary cross-entropy of the hardest edges of each distance.

    Each distance has a predictor of its own, whose horizontal and vertical edges compete for one
    selection; the loss is the mean over the distances. A distance of which no edge counts (it does
    not fit into the images, say) is not part of that mean.

    Args:
        logits: (N, 2 D, h, w), > 0 where an edge is cut; half precision is widened to float32.
        target: (N, 2 D, h, w), 1 where an edge is cut, else 0.
        weights: (N, 2 D, h, w) factors >= 0; edges with 0 are ignored.
        top_k_share: in (0, 1], share of a distance's counting edges; at least one is averaged.

    Returns:
        Scalar; 0, with a gradient of 0, if no edge counts.

    Raises:
        ValueError: the shapes do not fit or the share is not in (0, 1].
    """
    same = logits.shape == target.shape == weights.shape
    if logits.ndim != 4 or not same or logits.shape[1] % 2:
        raise ValueError(
            f"logits {tuple(logits.shape)}, target {tuple(target.shape)} and weights "
            f"{tuple(weights.shape)} are not all (N, 2 D, h, w)"
        )
    logits = _widen(logits)
    losses = F.binary_cross_entropy_with_logits(
        logits, target.to(logits.dtype), weights.to(logits.dtype), reduction="none"
    )
    total, count = losses.new_zeros(()), 0
    for first in range(0, logits.shape[1], 2):
        channels = slice(first, first + 2)
        counting = losses[:, channels][weights[:, channels] > 0]
        # Added also when empty: the zero keeps the predictor in the graph.
        total = total + _mean_of_largest(counting, top_k_share)
        count += len(counting) > 0
    return total / max(count, 1)


def _widen(logits: torch.Tensor) -> torch.Tensor:
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return logits.float() if half else logits


def _mean_of_largest(losses: torch.Tensor, share: float) -> torch.Tensor:
    """Average the given share of a vector's largest entries; 0 of an empty one."""
    if not 0 < share <= 1:
        raise ValueError(f"the share of the hardest pixels or edges must be in (0, 1], got {share}")
    if len(losses) == 0:
        return losses.sum()
    if share < 1:
        losses = losses.topk(max(round(share * len(losses)), 1), sorted=False).values
    return losses.mean()
