"""Lovasz losses: convex, differentiable stand-ins for the Jaccard index (IoU).

The problem: the Jaccard loss Delta(E) = 1 - IoU of a set E of wrong pixels is a function of sets.
Gradient descent needs one of real numbers. As Delta is submodular, its Lovasz extension is its
tightest convex one: for errors m sorted descending, m_1 >= m_2 >= ..., with E_i the i largest,

    Delta_bar(m) = sum_i m_i * (Delta(E_i) - Delta(E_{i-1})),

equal to Delta where all errors are 0 or 1 (Berman, Triki, Blaschko, "The Lovasz-Softmax loss",
CVPR 2018, Eq. 3 to 5 and 8). With g foreground pixels, f of them and b background pixels among the
first i, Delta(E_i) = 1 - (g - f) / (g + b).

The differences are taken in closed form. Subtracting neighbouring Delta values would leave noise:
with a million pixels they differ by 1e-6, a few float32 roundings.

Both functions compute in float32 at least, with autocast off: half precision cannot count beyond
2048.

Shape shorthand: N images, K classes, H, W pixels; R regions of interest; P pixels of one row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def jaccard_steps(sorted_foreground: Tensor) -> Tensor:
    """Compute the Jaccard loss added by each further error, Delta(E_i) - Delta(E_{i-1}).

    Args:
        sorted_foreground: (R, P) 0 or 1, each row in the order of descending error.

    Returns:
        (R, P) float32 (float64 for float64 input), each row non-negative with sum 1.
    """
    foreground = sorted_foreground > 0.5
    dtype = torch.promote_types(sorted_foreground.dtype, torch.float32)
    # Counts in integers: float32 stops counting at 2^24 pixels, a batch of 8 Cityscapes images.
    missed = foreground.long().cumsum(dim=1)
    extra = (~foreground).long().cumsum(dim=1)
    total = missed[:, -1:] if missed.shape[1] else missed.new_zeros(len(missed), 1)
    shared = (total - missed).to(dtype)  # intersection that is left after i errors
    union = (total + extra).to(dtype)
    # A missed foreground pixel lowers the intersection by 1 at the same union. An extra background
    # pixel raises the union from U - 1 to U: shared / (U - 1) - shared / U = shared / (U (U - 1)).
    step_missed = 1 / union.clamp(min=1)
    step_extra = shared / (union * (union - 1)).clamp(min=1)
    # Without any foreground the first error takes the IoU from 0/0 = 1 to 0, later ones change
    # nothing.
    first_of_none = (total == 0) & (extra == 1)
    return torch.where(foreground, step_missed, step_extra + first_of_none.to(dtype))


def _extension(errors: Tensor, foreground: Tensor) -> Tensor:
    """Compute the Lovasz extension of the Jaccard loss, row by row: (R, P) errors >= 0 -> (R,)."""
    values, order = errors.sort(dim=1, descending=True)
    # The steps depend on the errors through their order only: piecewise constant, no gradient.
    steps = jaccard_steps(foreground.detach().gather(1, order))
    return (values * steps).sum(dim=1)


def lovasz_softmax(probabilities: Tensor, labels: Tensor, ignore_label: int = 255) -> Tensor:
    """Compute the Lovasz-softmax loss of a batch, averaged over the classes in the labels.

    Only present classes: for an absent one the loss would be the largest probability anywhere. That
    swamps the mean when a batch has few of many classes, and training collapses.

    Args:
        probabilities: (N, K, H, W) after softmax, in 0..1.
        labels: (N, H, W) integers, 0..K-1 or `ignore_label`.
        ignore_label: pixels with this label are left out.

    Returns:
        Scalar in 0..1, at least float32; 0 (still part of the graph) if every pixel is ignored.

    Raises:
        ValueError: if shapes disagree or a label is neither a class nor `ignore_label`.
    """
    if probabilities.dim() != 4 or labels.shape != (
        probabilities.shape[0],
        *probabilities.shape[2:],
    ):
        raise ValueError(
            f"expected (N, K, H, W) probabilities and (N, H, W) labels, got"
            f" {tuple(probabilities.shape)} and {tuple(labels.shape)}"
        )
    num_classes = probabilities.shape[1]
    with torch.autocast(probabilities.device.type, enabled=False):
        rows = _at_least_float32(probabilities).transpose(0, 1).flatten(1)  # (K, N * H * W)
        flat = labels.flatten().long()
        keep = flat != ignore_label
        rows, flat = rows[:, keep], flat[keep]
        present, position = torch.unique(flat, return_inverse=True)
        if len(present) == 0:
            return rows.sum() * 0.0
        if int(present[0]) < 0 or int(present[-1]) >= num_classes:
            raise ValueError(
                f"labels must be 0..{num_classes - 1} or {ignore_label}, got {present.tolist()}"
            )
        ranks = torch.arange(len(present), device=flat.device)
        foreground = (ranks[:, None] == position[None, :]).to(rows.dtype)
        return _extension((foreground - rows[present]).abs(), foreground).mean()


def lovasz_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the Lovasz hinge loss of binary masks, averaged over regions of interest.

    The errors are hinge losses of the *raw* logits, max(0, 1 - z * s) with s = +1 for foreground
    and -1 for background. There is no sigmoid.

    Args:
        logits: (R, ...) raw mask logits of R regions, any number of pixel dimensions.
        labels: the same shape, 0 or 1 (or bool).

    Returns:
        Scalar >= 0, at least float32; 0 (still part of the graph) for R = 0 or empty masks.

    Raises:
        ValueError: if the shapes differ.
    """
    if logits.shape != labels.shape or logits.dim() < 2:
        raise ValueError(
            f"expected logits and labels of one shape (R, ...), got {tuple(logits.shape)} and"
            f" {tuple(labels.shape)}"
        )
    if logits.numel() == 0:
        return _at_least_float32(logits).sum() * 0.0
    with torch.autocast(logits.device.type, enabled=False):
        scores = _at_least_float32(logits).flatten(1)
        foreground = labels.flatten(1).to(scores.dtype)
        errors = (1 - scores * (2 * foreground - 1)).relu()
        return _extension(errors, foreground).mean()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
