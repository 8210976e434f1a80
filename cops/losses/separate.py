"""Losses on the solver's class labels and edge labels, each on its own (A.3, Eq. 8, 9).

The ablation against the PQ surrogate (Abbas, Swoboda, NeurIPS 2021, Table 4): `AmwcLabelsLayer`
gives the labels x and y of the solution. The losses compare them with the truth,

    L_V = |x - x_g|_1 / |V|,                                               (Eq. 8)
    L_E = 1 - y^T y_g / (y^T y_g + (y^T (1 - y_g) + (1 - y)^T y_g) / 2),   (Eq. 9)

L_E being one minus the F1 score of the cut edges, so that the many edges that nobody cuts do not
count. It is taken for each distance on its own. The batch of both is that of all processes. Both
are weighted as in pre-training; the weight 0 leaves out void, crowd and edges outside the grid. The
factor 1/|V| becomes one over the sum of the weights.

Shapes: N images; K classes; D distances; h, w cells of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cops.losses.batch_sums import sum_over_batch
from cops.targets import CopsTarget


def class_label_loss(labels: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Compute Eq. 8: the weighted mean of |x - x_g|_1, 2 for a wrong cell, 0 for a right one.

    Args:
        labels: (N, K, h, w) x, 1 at the class of each cell.
        truth: (N, h, w) true class; anything where the weight is 0.
        weights: (N, h, w), not negative.

    Returns:
        Scalar in 0..2; 0, still part of the graph, if every weight is 0.

    Raises:
        ValueError: a cell that counts has no class.
    """
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    num_classes = labels.shape[1]
    counted = weights > 0
    if bool(((truth < 0) | (truth >= num_classes))[counted].any()):
        raise ValueError(f"a cell of positive weight has a class outside 0..{num_classes - 1}")
    known = torch.where(counted, truth.long(), torch.zeros_like(truth, dtype=torch.long))
    target = torch.zeros_like(labels).scatter_(1, known[:, None], 1.0)
    distance = (labels - target).abs().sum(dim=1)
    own = torch.stack([(distance * weights).sum(), weights.sum().to(distance.dtype)])
    wrong, total = sum_over_batch(own).unbind()
    # Not clamped to a tiny number: its inverse times a weight is inf, and inf * 0 is nan.
    return wrong / torch.where(total > 0, total, torch.ones_like(total))


def edge_label_loss(labels: Tensor, is_cut: Tensor, weights: Tensor) -> Tensor:
    """Compute Eq. 9: 1 - F1 of the cut edges, the mean over the distances with any to find.

    A distance at which neither truth nor solution cuts an edge is perfect, but it is left out. With
    the many empty ones of long distances the mean would say little.

    Args:
        labels: (N, 2 D, h, w) y, 1 where an edge is cut; the two channels of a distance together.
        is_cut: (N, 2 D, h, w) y_g.
        weights: (N, 2 D, h, w), not negative; 0 where there is no edge or no truth.

    Returns:
        Scalar in 0..1; 0, still part of the graph, if there is nothing to find.
    """
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    num, channels, height, width = labels.shape

    def by_distance(values: Tensor) -> Tensor:
        return (values * weights).reshape(num, channels // 2, 2, height, width).sum((0, 2, 3, 4))

    own_shared = by_distance(labels * is_cut)
    own_wrong = by_distance(labels * (1 - is_cut)) + by_distance((1 - labels) * is_cut)
    shared, wrong = sum_over_batch(torch.stack([own_shared, own_wrong])).unbind()
    total = shared + 0.5 * wrong
    counted = total.detach() > 0
    losses = torch.where(counted, 1 - shared / torch.where(counted, total, 1.0), 0 * total)
    return losses.sum() / counted.sum().clamp(min=1)


class SeparateLosses(nn.Module):
    """Both losses from the labels of `AmwcLabelsLayer`, with the weights of pre-training.

    Args:
        weight: factor of both; as with the surrogate it scales the perturbation.
    """

    def __init__(self, *, weight: float = 10.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, class_labels: Tensor, edge_labels: Tensor, truths: Sequence[CopsTarget]
    ) -> dict[str, Tensor]:
        """Compute both losses.

        Args:
            class_labels: (N, K, h, w) x.
            edge_labels: (N, 2 D, h, w) y.
            truths: of the N images; those of smaller images may have fewer cells.

        Returns:
            {"loss_class_labels": L_V, "loss_edge_labels": L_E}, each times the weight.
        """
        size = (class_labels.shape[2], class_labels.shape[3])
        truths = [truth.padded(size) for truth in truths]
        classes = torch.stack([truth.sem_seg for truth in truths])
        weights = torch.stack([truth.pixel_weights for truth in truths])
        is_cut = torch.stack([truth.is_cut for truth in truths])
        edge_weights = torch.stack([truth.edge_weights for truth in truths])
        return {
            "loss_class_labels": self.weight * class_label_loss(class_labels, classes, weights),
            "loss_edge_labels": self.weight * edge_label_loss(edge_labels, is_cut, edge_weights),
        }
