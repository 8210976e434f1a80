"""Panoptic matching loss (Li, Qi, Torr, CVPR 2020, section 3.5, Eq. 5).

Predicted detections come in no fixed order, so truth segments are first matched to them by box IoU,
class by class. Then the loss is an ordinary cross entropy over the channels of P.

Shapes: D detections, T truth segments, N_st stuff classes; C channels of P, the kept detections
first, then one per stuff class; h, w the grid at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

IGNORE = -1
MATCHERS = ("hungarian", "greedy")
FORMS = ("softmax", "normalised")
FLOOR = 1e-3  # keeps the logarithm finite where P is 0


@dataclass(eq=False)
class Matching:
    """Outcome of matching the D detections of one image to its T thing segments.

    Attributes:
        truth_of_detection: (D,) int64, the matched truth segment, or -1.
        keep: (D,) bool; False for a duplicate. That is a detection that overlaps a truth segment
            of its class by at least t while another detection is that segment's match.
    """

    truth_of_detection: torch.Tensor
    keep: torch.Tensor


def match_detections(
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    truth_boxes: torch.Tensor,
    truth_classes: torch.Tensor,
    iou_threshold: float = 0.5,
    method: str = "hungarian",
) -> Matching:
    """Match detections to truth segments of the same class by box IoU (Eq. 5).

    Args:
        boxes: (D, 4) detected boxes, XYXY.
        classes: (D,) their classes.
        scores: (D,) their scores; only the greedy method looks at them.
        truth_boxes: (T, 4) tight boxes of the truth segments, in the same unit.
        truth_classes: (T,) their classes, in the same numbering.
        iou_threshold: t; pairs below it are forbidden.
        method: "hungarian" maximises the sum of IoU over all permutations; "greedy" lets the
            detections choose in descending order of score.

    Returns:
        The matching; no gradient flows through it.

    Raises:
        ValueError: an unknown method.
    """
    if method not in MATCHERS:
        raise ValueError(f"unknown matcher {method!r}: use one of {MATCHERS}")
    iou = box_iou(boxes.detach().float(), truth_boxes.float()).cpu().numpy()
    same = (classes[:, None] == truth_classes[None, :]).cpu().numpy()
    # A forbidden pair is worth nothing, so an optimal assignment of the allowed ones is found
    # whatever it adds to fill up its permutation. Those fillers are dropped below.
    value = np.where(same & (iou >= iou_threshold), iou, 0.0)
    truth_of_detection = np.full(len(value), IGNORE, dtype=np.int64)
    if value.size:
        if method == "hungarian":
            # Other classes are forbidden pairs, so one assignment equals one per class.
            rows, columns = linear_sum_assignment(value, maximize=True)
        else:
            rows, columns = _greedy_assignment(value, scores.detach().cpu().numpy())
        real = value[rows, columns] > 0
        truth_of_detection[rows[real]] = columns[real]
    duplicate = (truth_of_detection == IGNORE) & (value > 0).any(axis=1)
    return Matching(
        torch.as_tensor(truth_of_detection, device=boxes.device),
        torch.as_tensor(~duplicate, device=boxes.device),
    )


def _greedy_assignment(value: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    free = np.ones(value.shape[1], dtype=bool)
    pairs = []
    for row in np.argsort(-scores, kind="stable"):
        column = int(np.argmax(np.where(free, value[row], -1.0)))
        if free[column] and value[row, column] > 0:
            free[column] = False
            pairs.append((row, column))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def panoptic_target(
    segment_map: torch.Tensor,
    segment_classes: torch.Tensor,
    detection_of_segment: torch.Tensor,
    num_detections: int,
    stuff_ids: Sequence[int],
) -> torch.Tensor:
    """Find the channel of P that is right for each pixel.

    Args:
        segment_map: (h, w) index of each pixel's truth segment, -1 where void or crowd.
        segment_classes: (M,) contiguous classes of all M segments, stuff included.
        detection_of_segment: (M,) channel of the detection matched to a thing segment, else -1.
        num_detections: D, how many detections were kept as channels.
        stuff_ids: the N_st contiguous classes that are stuff, in the order of their channels.

    Returns:
        (h, w) int64 channel numbers; -1 where the pixel is ignored (void, crowd, or a thing that
        no detection found).
    """
    stuff = torch.as_tensor(stuff_ids, device=segment_classes.device)
    same = segment_classes[:, None] == stuff[None, :]  # (S, N_st)
    stuff_channel = num_detections + same.int().argmax(dim=1)
    channel = torch.where(same.any(dim=1), stuff_channel, detection_of_segment)
    # The extra last entry serves index -1.
    table = torch.cat([channel, channel.new_tensor([IGNORE])])
    return table[segment_map.long()]


def panoptic_cross_entropy(
    potential: torch.Tensor, target: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """Sum over pixels the cross entropy of softmax(tau P).

    Args:
        potential: (C, h, w) P.
        target: (h, w) int64 channel numbers, -1 = ignore.
        logit_scale: tau, a number or a scalar tensor.

    Returns:
        A scalar, the sum; zero with a graph if every pixel is ignored. The caller divides by the
        number of pixels that count, over the whole batch.
    """
    logits = (potential.float() * logit_scale)[None]
    return F.cross_entropy(logits, target[None], ignore_index=IGNORE, reduction="sum")


def normalised_cross_entropy(potential: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum over pixels the cross entropy of P / sum of P, which takes P for what it says it is.

    The paper calls P both probabilities and logits. Where the residual makes P negative it counts
    as 0, and `FLOOR` is added to each channel. So a channel below 0 that should win has a loss, but
    no slope of its own: it is the others that are lowered.

    Args:
        potential: (C, h, w) P.
        target: (h, w) int64 channel numbers, -1 = ignore.

    Returns:
        As `panoptic_cross_entropy`.
    """
    shares = potential.float().clamp(min=0) + FLOOR
    logs = shares.log() - shares.sum(dim=0, keepdim=True).log()
    return F.nll_loss(logs[None], target[None], ignore_index=IGNORE, reduction="sum")
