"""Panoptic segmentation submodule (Li, Qi, Torr, CVPR 2020, section 3.4, Fig. 3).

Dynamic potential and instance affinity of one image, the same in training and inference, and the
loss on them.

Shapes: N images; K classes; D detections; N_st stuff classes; S = D + N_st channels, detections
first; h, w the part of the grid at stride 4 that the unpadded image covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import nn

from unified_panoptic.config import check_classes
from unified_panoptic.matching import (
    FORMS,
    IGNORE,
    MATCHERS,
    match_detections,
    normalised_cross_entropy,
    panoptic_cross_entropy,
    panoptic_target,
)
from unified_panoptic.modeling.dynamic_potential import DynamicPotential
from unified_panoptic.modeling.grid import CENTRE, STRIDE, LossPixel
from unified_panoptic.modeling.instance_affinity import apply_affinity
from unified_panoptic.modeling.roi_heads import Detections
from unified_panoptic.targets import PanopticTarget

# What `PanopticSubmodule.loss_of_image` tells of an image; "pixels" are those that count.
LOGGED = ("pixels", "detections", "matched", "things", "potential", "residual")


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
        matcher: str,
        match_iou: float,
        form: str = "softmax",
        weight_by_scale: bool = False,
    ) -> None:
        """Build the submodule; it has no parameters.

        Args:
            potential: the dynamic potential head.
            thing_ids: contiguous class of each thing index.
            loss_weight: factor of the panoptic loss.
            logit_scale: tau in the cross entropy of softmax(tau P).
            matcher: see `match_detections`.
            match_iou: t of Eq. 5.
            form: "softmax", or "normalised" for the cross entropy of P / sum of P.
            weight_by_scale: divide the factor of the loss by tau.

        Raises:
            ValueError: an unknown matcher or form, or a tau that is not positive.
        """
        super().__init__()
        if matcher not in MATCHERS:
            raise ValueError(f"matcher is {matcher!r}: use one of {MATCHERS}")
        if form not in FORMS:
            raise ValueError(f"form is {form!r}: use one of {FORMS}")
        if not logit_scale > 0:
            # Zero teaches nothing, and a negative factor turns the argmax around.
            raise ValueError(f"logit_scale is {logit_scale}: use more than 0")
        self.potential = potential
        self.stuff_ids = potential.stuff_ids
        self.register_buffer("thing_ids", torch.tensor(thing_ids).long(), persistent=False)
        self.form = form
        self.loss_weight = loss_weight / logit_scale if weight_by_scale else loss_weight
        self.logit_scale = float(logit_scale)
        self.matcher = matcher
        self.match_iou = match_iou

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read MODEL.UNIFIED.POTENTIAL and PANOPTIC.

        Raises:
            ValueError: the class table has no things, no stuff, or does not fit the class counts.
        """
        node = cfg.MODEL.UNIFIED
        is_thing = cfg.MODEL.PANOPTIC.IS_THING
        _check_class_table(cfg)
        stuff_ids = [index for index, thing in enumerate(is_thing) if not thing]
        return {
            "potential": DynamicPotential(stuff_ids=stuff_ids, variant=node.POTENTIAL.VARIANT),
            "thing_ids": [index for index, thing in enumerate(is_thing) if thing],
            "loss_weight": node.PANOPTIC.LOSS_WEIGHT,
            "logit_scale": node.PANOPTIC.LOGIT_SCALE,
            "matcher": node.PANOPTIC.MATCHER,
            "match_iou": node.PANOPTIC.MATCH_IOU,
            "form": node.PANOPTIC.FORM,
            "weight_by_scale": node.PANOPTIC.WEIGHT_BY_SCALE,
        }

    def forward(
        self,
        semantic: torch.Tensor,
        detections: Detections,
        factors: tuple[torch.Tensor, torch.Tensor] | None,
        pixel: LossPixel | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Form Psi and the residual of one image at stride 4; their sum is P (Eq. 4).

        Args:
            semantic: (K, h, w) probabilities V.
            detections: boxes in pixels of the network's input.
            factors: phi_0(Q), phi_1(Q), each (C, h, w), or None without the affinity.
            pixel: of each cell, at which they are formed in training; None: at the centres of
                the cells, from which maps are enlarged at inference.

        Returns:
            (S, h, w), and (S, h, w) or None.
        """
        semantic, boxes = semantic.float(), detections.boxes / STRIDE
        if pixel is not None:
            semantic, boxes = pixel.of_maps(semantic), pixel.of_boxes(boxes)
            factors = factors and (pixel.of_maps(factors[0]), pixel.of_maps(factors[1]))
        psi = self.potential(
            semantic,
            boxes,
            self.thing_ids[detections.classes],
            detections.scores.float(),
            detections.masks,
        )
        return psi, None if factors is None else apply_affinity(psi, *factors)

    def loss_of_image(
        self,
        semantic: torch.Tensor,
        detections: Detections,
        factors: tuple[torch.Tensor, torch.Tensor] | None,
        truth: PanopticTarget,
        pixel: LossPixel = CENTRE,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Match detections with the truth of one training image, and sum the cross entropy (3.5).

        Args:
            semantic: (K, h, w) probabilities V.
            detections: boxes in pixels of the network's input.
            factors: as in `forward`.
            truth: on the same device.
            pixel: of each cell that is compared.

        Returns:
            The scalar sum over the pixels that count, and the numbers that `LOGGED` names, in
            their order and without a graph: counts, and mean magnitudes. They stay on the device.
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
        psi, residual = self(semantic, detections[kept], factors, pixel)

        matched = (truth_of_detection != IGNORE).nonzero()[:, 0]
        detection_of_segment = torch.full_like(truth.classes, IGNORE)
        detection_of_segment[things[truth_of_detection[matched]]] = matched
        target = panoptic_target(
            pixel.of_truth(truth.segment_map, semantic.shape[-2:]),
            truth.classes,
            detection_of_segment,
            len(kept),
            self.stuff_ids,
        )
        potential = psi if residual is None else psi + residual
        if self.form == "normalised":
            loss = normalised_cross_entropy(potential, target)
        else:
            loss = panoptic_cross_entropy(potential, target, self.logit_scale)
        with torch.no_grad():
            magnitude = psi.new_zeros(()) if residual is None else residual.abs().mean()
            counts = psi.new_tensor([len(kept), len(matched), len(things)])
            pixels = (target != IGNORE).sum()[None]
            log = torch.cat([pixels, counts, torch.stack([psi.abs().mean(), magnitude])])
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
    check_classes(cfg)
