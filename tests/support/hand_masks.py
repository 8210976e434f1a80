"""Masks and truth of the PQ surrogate, written down by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from cops.layers.panoptic_masks import PanopticMasks
from cops.solver import Result


def truth_of(segment_map, classes) -> SimpleNamespace:
    """What the loss reads of a `CopsTarget`."""
    return SimpleNamespace(
        segment_map=torch.as_tensor(segment_map, dtype=torch.int32),
        classes=torch.as_tensor(classes, dtype=torch.int64),
    )


def masks_of(masks, classes, match, num_predicted=None) -> PanopticMasks:
    masks = torch.as_tensor(masks)
    clusters = masks.detach().flatten(1).argmax(dim=0).to(torch.int32).numpy()
    solution = Result(np.asarray(classes, np.int32)[clusters], clusters, np.zeros(0, bool), 0.0)
    return PanopticMasks(
        masks,
        torch.as_tensor(classes, dtype=torch.int64),
        torch.as_tensor(match, dtype=torch.int64),
        len(masks) if num_predicted is None else num_predicted,
        solution,
    )


def two_pairs(first, second) -> tuple[PanopticMasks, SimpleNamespace]:
    """Two pairs of class 0: a mask of the value u on all cells of its truth has IoU u."""
    masks = torch.stack([first * torch.ones(10), torch.zeros(10)])
    masks = torch.stack([masks, torch.stack([torch.zeros(10), second * torch.ones(10)])])
    return masks_of(masks, [0, 0], [0, 1]), truth_of([[0] * 10, [1] * 10], [0, 0])
