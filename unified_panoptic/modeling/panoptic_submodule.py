"""Panoptic segmentation submodule (Li, Qi, Torr, CVPR 2020, section 3.4, Fig. 3): dynamic potential
and instance affinity of one image, the same in training and inference, and the loss on them.

Shapes: N images; K classes; D detections; N_st stuff classes; S = D + N_st channels, detections
first; h, w the part of the grid at stride 4 that the unpadded image covers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from torch import nn

from unified_panoptic.matching import (
    IGNORE,
    MATCHERS,
    match_detections,
    panoptic_cross_entropy,
    panoptic_target,
)
from unified_panoptic.modeling.dynamic_potential import DynamicPotential
from unified_panoptic.modeling.inference import STRIDE
from unified_panoptic.modeling.instance_affinity import apply_affinity
from unified_panoptic.modeling.roi_heads import Detections
from unified_panoptic.modeling.semantic_head import subsample
from unified_panoptic.targets import PanopticTarget


class PanopticSubmodule(nn.Module):
    """Psi, the residual, and the panoptic matching loss of P = Psi + residual."""

    @configurable
    def __init__(
        self,
        *,
        potential: DynamicPotential,
        thing_ids: Sequence[int],
        loss_weight: float,
        logit_scale: float,
        learn_logit_scale: bool,
        matcher: str,
        match_iou: float,
        detach_potential: bool,
    ) -> None:
        """Args:
        potential: the dynamic potential head.
        thing_ids: contiguous class of each thing index.
        loss_weight: factor of the panoptic loss.
        logit_scale: tau in the cross entropy of softmax(tau P).
        learn_logit_scale: whether tau is a parameter.
        matcher: see `match_detections`.
        match_iou: t of Eq. 5.
        detach_potential: stop the gradient at Psi.
        """
        super().__init__()
        if matcher not in MATCHERS:
            raise ValueError(f"MODEL.UNIFIED.PANOPTIC.MATCHER is {matcher!r}: use {MATCHERS}")
        if not logit_scale > 0:
            # Zero teaches nothing, and a negative factor turns the argmax around.
            raise ValueError(
                f"MODEL.UNIFIED.PANOPTIC.LOGIT_SCALE is {logit_scale}: use more than 0"
            )
        self.potential = potential
        self.stuff_ids = potential.stuff_ids
        self.register_buffer("thing_ids", torch.tensor(thing_ids).long(), persistent=False)
        self.loss_weight = loss_weight
        scale = torch.tensor(float(logit_scale))
        if learn_logit_scale:
            self.logit_scale = nn.Parameter(scale)
        else:
            self.register_buffer("logit_scale", scale, persistent=False)
        self.matcher = matcher
        self.match_iou = match_iou
        self.detach_potential = detach_potential

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.UNIFIED
        is_thing = cfg.MODEL.PANOPTIC.IS_THING
        _check_class_table(cfg)
        stuff_ids = [index for index, thing in enumerate(is_thing) if not thing]
        use_masks = node.POTENTIAL.USE_MASKS and cfg.MODEL.MASK_ON
        return {
            "potential": DynamicPotential(stuff_ids, node.POTENTIAL.VARIANT, use_masks),
            "thing_ids": [index for index, thing in enumerate(is_thing) if thing],
            "loss_weight": node.PANOPTIC.LOSS_WEIGHT,
            "logit_scale": node.PANOPTIC.LOGIT_SCALE,
            "learn_logit_scale": node.PANOPTIC.LEARN_LOGIT_SCALE,
            "matcher": node.PANOPTIC.MATCHER,
            "match_iou": node.PANOPTIC.MATCH_IOU,
            "detach_potential": node.POTENTIAL.DETACH,
        }

    def forward(
        self,
        semantic: torch.Tensor,
        detections: Detections,
        factors: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Psi and the residual of one image at stride 4; their sum is P (Eq. 4).

        Args:
            semantic: (K, h, w) probabilities V.
            detections: boxes in pixels of the network's input.
            factors: phi_0(Q), phi_1(Q), each (C, h, w), or None without the affinity.

        Returns:
            (S, h, w), and (S, h, w) or None.
        """
        psi = self.potential(
            semantic.float(),
            detections.boxes / STRIDE,
            self.thing_ids[detections.classes],
            detections.scores.float(),
            detections.masks,
        )
        if self.training and self.detach_potential:
            psi = psi.detach()
        return psi, None if factors is None else apply_affinity(psi, *factors)

    def loss_of_image(
        self,
        semantic: torch.Tensor,
        detections: Detections,
        factors: tuple[torch.Tensor, torch.Tensor] | None,
        truth: PanopticTarget,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Matching and summed cross entropy of one training image (3.5).

        Args:
            semantic, detections, factors: see `forward`.
            truth: on the same device.

        Returns:
            The scalar sum over the pixels that count, and numbers worth logging: "pixels" that
            count, "detections", "matched", "things", mean magnitudes "potential" and "residual".
        """
        things = torch.isin(truth.classes, self.thing_ids).nonzero()[:, 0]
        matching = match_detections(
            detections.boxes,
            self.thing_ids[detections.classes],
            detections.scores,
            truth.boxes[things],
            truth.classes[things],
            self.match_iou,
            self.matcher,
        )
        kept = matching.keep.nonzero()[:, 0]
        truth_of_detection = matching.truth_of_detection[kept]
        psi, residual = self(semantic, detections[kept], factors)

        matched = (truth_of_detection != IGNORE).nonzero()[:, 0]
        detection_of_segment = torch.full_like(truth.classes, IGNORE)
        detection_of_segment[things[truth_of_detection[matched]]] = matched
        target = panoptic_target(
            subsample(truth.segment_map, semantic.shape[-2:]),
            truth.classes,
            detection_of_segment,
            len(kept),
            self.stuff_ids,
        )
        potential = psi if residual is None else psi + residual
        loss = panoptic_cross_entropy(potential, target, self.logit_scale)
        log = {
            "pixels": float((target != IGNORE).sum()),
            "detections": float(len(kept)),
            "matched": float(len(matched)),
            "things": float(len(things)),
            "potential": float(psi.detach().abs().mean()),
            "residual": 0.0 if residual is None else float(residual.detach().abs().mean()),
        }
        return loss, log


def _check_class_table(cfg: CfgNode) -> None:
    """Refuse thing flags that do not fit the class counts, or leave one of the groups empty."""
    is_thing = cfg.MODEL.PANOPTIC.IS_THING
    counts = len(is_thing), sum(bool(flag) for flag in is_thing)
    expected = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if counts != expected:
        raise ValueError(
            f"MODEL.PANOPTIC.IS_THING holds {counts[0]} classes with {counts[1]} things, but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES and MODEL.ROI_HEADS.NUM_CLASSES are {expected}: "
            "leave all three open and load the config by load_config"
        )
    if not 0 < counts[1] < counts[0]:
        # Without stuff no channel covers the image, so pixels outside all boxes have no class.
        raise ValueError(
            f"MODEL.PANOPTIC.IS_THING holds {counts[0]} classes with {counts[1]} things: "
            "the Unified system needs at least one thing and one stuff class"
        )
