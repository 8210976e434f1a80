"""Object detection submodule (Li, Qi, Torr, CVPR 2020, section 3.3, appendices A.2 and A.4).

Detectron2's standard ROI heads, plus what end-to-end training needs: the *predicted* detections of
a training image. Their scores and masks carry gradients into the panoptic loss. Detectron2 itself
returns sampled proposals in training, with the truth mixed in.

Shapes: R proposals, D detections of an image; N_th thing classes; m x m raw masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances

from panoptic_common.modeling.roi_align import use_precise_roi_align
from unified_panoptic.losses.lovasz import lovasz_hinge

MASK_PROBABILITIES = ("sigmoid", "hinge")


def hinge_probability(logits: torch.Tensor) -> torch.Tensor:
    """Compute clamp((z + 1) / 2, 0, 1): 1 and 0 just where the Lovasz hinge asks no more."""
    return ((logits + 1) / 2).clamp(0, 1)


@dataclass(eq=False)
class Detections:
    """Detections of one image as the panoptic submodule takes them.

    Attributes:
        boxes: (D, 4) XYXY in pixels of the network's input; no gradient.
        classes: (D,) int64 thing indices.
        scores: (D,) s in [0, 1].
        masks: (D, m, m) mask probabilities, or None.
    """

    boxes: torch.Tensor
    classes: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: torch.Tensor) -> Detections:
        masks = None if self.masks is None else self.masks[index]
        return Detections(self.boxes[index], self.classes[index], self.scores[index], masks)


@ROI_HEADS_REGISTRY.register()
class UnifiedROIHeads(StandardROIHeads):
    """Standard ROI heads that can also predict detections, differentiably, in training."""

    @configurable
    def __init__(
        self,
        *,
        train_score_thresh: float,
        train_nms_thresh: float,
        train_topk: int,
        train_proposals: int = 0,
        mask_probability: str = "sigmoid",
        **kwargs: Any,
    ) -> None:
        """Build the heads.

        Args:
            train_score_thresh: least score of a detection fed to the panoptic loss.
            train_nms_thresh: box IoU above which the lower-scored of two detections is dropped.
            train_topk: most detections per image.
            train_proposals: how many of an image's proposals, the best of the RPN, detections are
                predicted from; 0: all.
            mask_probability: one of `MASK_PROBABILITIES`.
            **kwargs: of `StandardROIHeads`.

        Raises:
            ValueError: an unknown way to make probabilities of mask logits, or fewer than no
                proposals.
        """
        super().__init__(**kwargs)
        use_precise_roi_align(self)
        if train_proposals < 0:
            raise ValueError(f"train_proposals is {train_proposals}: use 0 for all, or more")
        if mask_probability not in MASK_PROBABILITIES:
            raise ValueError(
                f"mask_probability is {mask_probability!r}: use one of {MASK_PROBABILITIES}"
            )
        self.mask_probability = mask_probability
        self.train_score_thresh = train_score_thresh
        self.train_nms_thresh = train_nms_thresh
        self.train_topk = train_topk
        self.train_proposals = train_proposals

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read MODEL.UNIFIED.DETECTION; NMS is that of inference."""
        arguments = super().from_config(cfg, input_shape)
        node = cfg.MODEL.UNIFIED.DETECTION
        arguments["train_score_thresh"] = node.TRAIN_SCORE_THRESH
        arguments["train_nms_thresh"] = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
        arguments["train_topk"] = node.TRAIN_TOPK
        arguments["train_proposals"] = node.TRAIN_PROPOSALS
        arguments["mask_probability"] = node.MASK_PROBABILITY
        return arguments

    def predict_detections(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> list[Detections]:
        """Predict detections as at inference, with gradients to scores and masks.

        Which proposals survive is decided without a graph; only the survivors pass through the box
        head a second time with one. A score depends on its own proposal alone. So values and
        gradients are those of a full pass, at the memory of D instead of R proposals.

        Args:
            features: FPN levels.
            proposals: the RPN's proposals, one Instances per image, *without* appended truth.

        Returns:
            One `Detections` per image; D = 0 is fine.
        """
        if self.train_proposals:  # the RPN's come best first
            proposals = [found[: self.train_proposals] for found in proposals]
        with torch.no_grad():
            survivors, classes, boxes = self._select(features, proposals)
        kept = []
        for instances, index in zip(proposals, survivors, strict=True):
            subset = Instances(instances.image_size)
            subset.proposal_boxes = Boxes(instances.proposal_boxes.tensor[index].detach())
            kept.append(subset)
        if sum(len(subset) for subset in kept) == 0:
            scores = [box.new_zeros(0) for box in boxes]
        else:
            probabilities = self.box_predictor.predict_probs(
                self._box_outputs(features, kept), kept
            )
            scores = [
                p[torch.arange(len(c), device=c.device), c]
                for p, c in zip(probabilities, classes, strict=True)
            ]
        masks = self.predict_masks(features, boxes, classes)
        return [Detections(*parts) for parts in zip(boxes, classes, scores, masks, strict=True)]

    def predict_masks(
        self,
        features: dict[str, torch.Tensor],
        boxes: list[torch.Tensor],
        classes: list[torch.Tensor],
    ) -> list[torch.Tensor | None]:
        """Predict mask probabilities of given boxes for given classes.

        Args:
            features: FPN levels.
            boxes: per image (D, 4) in pixels.
            classes: per image (D,) thing indices.

        Returns:
            Per image (D, m, m), or None without a mask head.
        """
        if not self.mask_on:
            return [None] * len(boxes)
        sizes = [len(box) for box in boxes]
        if sum(sizes) == 0:
            # The mask head's side length is unknown without a mask; any will do for none.
            return [box.new_zeros(0, 1, 1) for box in boxes]
        levels = [features[name] for name in self.mask_in_features]
        pooled = self.mask_pooler(levels, [Boxes(box) for box in boxes])
        logits = self.mask_head.layers(pooled)
        if logits.shape[1] == 1:  # class-agnostic
            logits = logits[:, 0]
        else:
            every = torch.cat(classes)
            logits = logits[torch.arange(len(every), device=every.device), every]
        logits = logits.float()
        hinge = self.mask_probability == "hinge"
        return list((hinge_probability(logits) if hinge else logits.sigmoid()).split(sizes))

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]) -> Any:
        """Do what Detectron2 does; at inference make the masks of the logits as in training."""
        result = super()._forward_mask(features, instances)
        if not self.training and self.mask_on and self.mask_probability == "hinge":
            for found in result:
                # Detectron2 gives sigmoids. Near the steps of the hinge, at 0.27 and 0.73, nothing
                # is lost by turning back.
                found.pred_masks = hinge_probability(found.pred_masks.float().logit())
        return result

    def _box_outputs(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        levels = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(levels, [p.proposal_boxes for p in proposals])
        return self.box_predictor(self.box_head(pooled))

    def _select(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Find the surviving proposals of each image, their classes and their refined boxes."""
        predictions = self._box_outputs(features, proposals)
        boxes = self.box_predictor.predict_boxes(predictions, proposals)
        scores = self.box_predictor.predict_probs(predictions, proposals)
        # A diverging step must not shift the indices (fast_rcnn_inference drops such rows).
        scores = [torch.nan_to_num(score.float(), 0.0, 0.0, 0.0) for score in scores]
        boxes = [torch.nan_to_num(box.float()) for box in boxes]
        instances, survivors = fast_rcnn_inference(
            boxes,
            scores,
            [p.image_size for p in proposals],
            self.train_score_thresh,
            self.train_nms_thresh,
            self.train_topk,
        )
        classes = [found.pred_classes for found in instances]
        return survivors, classes, [found.pred_boxes.tensor for found in instances]


@ROI_MASK_HEAD_REGISTRY.register()
class LovaszMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, trained with the Lovasz hinge loss instead of BCE (A.2)."""

    def forward(self, x: torch.Tensor, instances: list[Instances]):
        """Return losses in training, instances with "pred_masks" at inference, as in Detectron2."""
        if not self.training:
            return super().forward(x, instances)
        logits = self.layers(x)
        side = logits.shape[-1]
        truth = [
            i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, side).to(logits.device)
            for i in instances
            if len(i)
        ]
        if not truth:
            return {"loss_mask": logits.sum() * 0}
        classes = torch.cat([i.gt_classes for i in instances if len(i)])
        column = torch.zeros_like(classes) if logits.shape[1] == 1 else classes
        chosen = logits[torch.arange(len(classes), device=classes.device), column]
        loss = lovasz_hinge(chosen, torch.cat(truth))
        return {"loss_mask": loss * self.loss_weight}
