"""The Unified panoptic segmentation network as a Detectron2 meta-architecture: wiring only
(Li, Qi, Torr, CVPR 2020, Fig. 2).

Shapes: N images; K = N_st + N_th classes; H, W pixels of the padded batch; h = H / 4, w = W / 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    build_backbone,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from panoptic_common.modeling.network_input import normalised_batch
from panoptic_common.modeling.resampling import resample
from unified_panoptic.modeling.backbone import build_unified_resnet_fpn_backbone  # noqa: F401
from unified_panoptic.modeling.inference import (
    STRIDE,
    argmax_at_output,
    argmax_of_resampled,
    merge_heuristically,
    segments_from_channels,
    trim_small_stuff,
    uncovered_detections,
)
from unified_panoptic.modeling.instance_affinity import InstanceAffinityHead, pixel_affinity
from unified_panoptic.modeling.panoptic_submodule import PanopticSubmodule
from unified_panoptic.modeling.roi_heads import Detections
from unified_panoptic.modeling.semantic_head import SemanticHead
from unified_panoptic.targets import IGNORE_CLASS


@dataclass(frozen=True)
class InferenceOptions:
    """How a panoptic map is made; see MODEL.UNIFIED.INFERENCE in `unified_panoptic.config`."""

    method: str = "argmax"
    resolution: str = "output"
    residual: bool = True
    score_thresh: float = 0.5
    covered_thresh: float = 1.0
    stuff_area_limit: int = 2048
    overlap_thresh: float = 0.5
    heuristic_score_thresh: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in ("argmax", "heuristic"):
            raise ValueError(f"INFERENCE.METHOD is {self.method!r}: use 'argmax' or 'heuristic'")
        if self.resolution not in ("output", "stride4"):
            raise ValueError(
                f"INFERENCE.RESOLUTION is {self.resolution!r}: use 'output' or 'stride4'"
            )
        if not 0 <= self.covered_thresh <= 1:
            raise ValueError(f"INFERENCE.COVERED_THRESH is {self.covered_thresh}: use 0 to 1")


# What each name in TEST.PANOPTIC_VARIANTS changes about the configured way.
VARIANTS = {
    "argmax": {"method": "argmax"},
    "heuristic": {"method": "heuristic"},
    "residual_on": {"method": "argmax", "residual": True},
    "residual_off": {"method": "argmax", "residual": False},
    "stride4": {"method": "argmax", "resolution": "stride4"},
    "output": {"method": "argmax", "resolution": "output"},
    "untrimmed": {"stuff_area_limit": 0},
    "duplicates_kept": {"method": "argmax", "covered_thresh": 1.0},
}


@META_ARCH_REGISTRY.register()
class UnifiedPanoptic(nn.Module):
    """Backbone, semantic, detection and panoptic submodules, trained jointly."""

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        sem_seg_head: SemanticHead,
        affinity_head: InstanceAffinityHead | None,
        panoptic: PanopticSubmodule,
        panoptic_loss: bool,
        detection_loss_weight: float,
        train_with_truth: bool,
        is_thing: tuple[bool, ...],
        options: InferenceOptions,
        variants: tuple[str, ...],
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        """Args:
        backbone: FPN.
        proposal_generator: RPN.
        roi_heads: `UnifiedROIHeads`.
        sem_seg_head: semantic submodule.
        affinity_head: None builds the models without the affinity (A, C of Table 1).
        panoptic: panoptic submodule.
        panoptic_loss: False trains the parts jointly but without the panoptic matching loss.
        detection_loss_weight: factor of all RPN and ROI losses.
        train_with_truth: feed true boxes with score 1 to the panoptic loss (Table H).
        is_thing: K flags.
        options: how panoptic maps are made.
        variants: further outputs, keys of `VARIANTS`.
        pixel_mean, pixel_std: per channel of the input.
        """
        super().__init__()
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"unknown TEST.PANOPTIC_VARIANTS {unknown}: use {sorted(VARIANTS)}")
        if affinity_head is not None and not panoptic_loss:
            raise ValueError(
                "the affinity learns from the panoptic loss alone: switch "
                "MODEL.UNIFIED.PANOPTIC.ENABLED on or MODEL.UNIFIED.AFFINITY.ENABLED off"
            )
        if options.method == "heuristic" and not roi_heads.mask_on:
            raise ValueError(
                "MODEL.UNIFIED.INFERENCE.METHOD 'heuristic' needs masks: set MODEL.MASK_ON True"
            )
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.sem_seg_head = sem_seg_head
        self.affinity_head = affinity_head
        self.panoptic = panoptic
        self.panoptic_loss = panoptic_loss
        self.detection_loss_weight = detection_loss_weight
        self.train_with_truth = train_with_truth
        self.is_thing = is_thing
        self.options = options
        self.variants = variants
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        node = cfg.MODEL.UNIFIED
        inference = node.INFERENCE
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shape),
            "roi_heads": build_roi_heads(cfg, shape),
            "sem_seg_head": SemanticHead(cfg, shape),
            "affinity_head": InstanceAffinityHead(cfg, shape) if node.AFFINITY.ENABLED else None,
            "panoptic": PanopticSubmodule(cfg),
            "panoptic_loss": node.PANOPTIC.ENABLED,
            "detection_loss_weight": node.DETECTION.LOSS_WEIGHT,
            "train_with_truth": node.DETECTION.TRAIN_WITH_TRUTH,
            "is_thing": tuple(bool(flag) for flag in cfg.MODEL.PANOPTIC.IS_THING),
            "options": InferenceOptions(
                method=inference.METHOD,
                resolution=inference.RESOLUTION,
                residual=inference.RESIDUAL,
                score_thresh=inference.SCORE_THRESH,
                covered_thresh=inference.COVERED_THRESH,
                stuff_area_limit=inference.STUFF_AREA_LIMIT,
                overlap_thresh=inference.OVERLAP_THRESH,
                heuristic_score_thresh=inference.HEURISTIC_SCORE_THRESH,
            ),
            "variants": tuple(cfg.TEST.PANOPTIC_VARIANTS),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Losses in training, panoptic maps at inference.

        Args:
            batched_inputs: one dict per image: "image" (3, H_i, W_i) in the configured channel
                order, values 0 to 255; in training also the targets of `make_unified_targets`; at
                inference optionally "height" and "width" of the result.

        Returns:
            In training, scalar losses by name. At inference, one dict per image: "sem_seg"
            (K, height, width) probabilities, "instances" (boxes, scores, thing indices, masks),
            "panoptic_seg" (ids, segments_info) and "panoptic_variants" {name: the same form}.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        if not self.training:
            return self.inference(images, features, batched_inputs)

        truth = [x["instances"].to(self.device) for x in batched_inputs]
        semantic_truth = ImageList.from_tensors(
            [x["sem_seg"].to(self.device) for x in batched_inputs],
            self.backbone.size_divisibility,
            IGNORE_CLASS,
        ).tensor
        proposals, losses = self.proposal_generator(images, features, truth)
        # The ROI heads append the truth to their own copy; `proposals` stay predictions.
        _, roi_losses = self.roi_heads(images, features, proposals, truth)
        losses.update(roi_losses)
        losses = {name: loss * self.detection_loss_weight for name, loss in losses.items()}
        logits = self.sem_seg_head(features)
        losses.update(self.sem_seg_head.losses(logits, semantic_truth))
        if self.panoptic_loss:
            losses["loss_panoptic"] = self._panoptic_loss(
                images, features, logits, proposals, truth, batched_inputs
            )
        return losses

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised images, padded to one size that the FPN can divide."""
        return normalised_batch(
            batched_inputs, self.pixel_mean, self.pixel_std, self.backbone.size_divisibility
        )

    def _panoptic_loss(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        logits: torch.Tensor,
        proposals: list[Instances],
        truth: list[Instances],
        batched_inputs: list[dict],
    ) -> torch.Tensor:
        """Mean over the batch's counting pixels of the panoptic matching loss (3.5)."""
        if self.train_with_truth:
            boxes = [t.gt_boxes.tensor for t in truth]
            classes = [t.gt_classes for t in truth]
            masks = self.roi_heads.predict_masks(features, boxes, classes)
            detections = [
                Detections(b, c, b.new_ones(len(b)), m)
                for b, c, m in zip(boxes, classes, masks, strict=True)
            ]
        else:
            detections = self.roi_heads.predict_detections(features, proposals)
        query = self.affinity_head(features) if self.affinity_head is not None else None
        total, logs = logits.new_zeros(()), []
        for index, (size, found) in enumerate(zip(images.image_sizes, detections, strict=True)):
            semantic = _valid(logits[index], size).float().softmax(dim=0)
            loss, log = self.panoptic.loss_of_image(
                semantic,
                found,
                self._factors(query, index, size),
                batched_inputs[index]["panoptic_target"].to(self.device),
            )
            total = total + loss
            logs.append(log)
        mean = {name: sum(log[name] for log in logs) / len(logs) for name in logs[0]}
        storage = get_event_storage()
        for name in ("detections", "matched", "things", "potential", "residual"):
            storage.put_scalar(f"panoptic/{name}", mean[name])
        storage.put_scalar("panoptic/logit_scale", float(self.panoptic.logit_scale.detach()))
        pixels = max(mean["pixels"] * len(logs), 1.0)
        return total / pixels * self.panoptic.loss_weight

    def _factors(
        self, query: torch.Tensor | None, index: int, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None if query is None else self.affinity_head.factors(_valid(query[index], size))

    def inference(
        self, images: ImageList, features: dict[str, torch.Tensor], batched_inputs: list[dict]
    ) -> list[dict]:
        """Everything that `forward` returns at inference."""
        proposals, _ = self.proposal_generator(images, features, None)
        instances, _ = self.roi_heads(images, features, proposals, None)
        logits = self.sem_seg_head(features)
        query = self.affinity_head(features) if self.affinity_head is not None else None
        results = []
        for index, (inputs, size, found) in enumerate(
            zip(batched_inputs, images.image_sizes, instances, strict=True)
        ):
            output_size = (inputs.get("height", size[0]), inputs.get("width", size[1]))
            probabilities = _valid(logits[index], size).float().softmax(dim=0)
            semantic = resample(probabilities, size, output_size, STRIDE)
            factors = self._factors(query, index, size)
            make = _PanopticMaker(self, probabilities, semantic, found, factors, size)
            results.append(
                {
                    "sem_seg": semantic,
                    "instances": detector_postprocess(found, *output_size),
                    "panoptic_seg": make(self.options),
                    "panoptic_variants": {
                        name: make(InferenceOptions(**{**vars(self.options), **VARIANTS[name]}))
                        for name in self.variants
                        if make.can(name)
                    },
                }
            )
        return results

    @torch.no_grad()
    def affinity_of_pixel(self, inputs: dict, x: float, y: float) -> torch.Tensor:
        """The affinity of one pixel to all others (Fig. 6), at stride 4 of the network's input.

        Args:
            inputs: one image as in `forward`.
            x: column in pixels of the result ("width").
            y: row in pixels of the result ("height").

        Returns:
            (h, w); the larger, the more that cell's potential is sent to the pixel.

        Raises:
            ValueError: the model has no affinity head.
            IndexError: the pixel lies outside the image.
        """
        if self.affinity_head is None:
            raise ValueError("this model was built without the dense instance affinity")
        images = self.preprocess([inputs])
        size = images.image_sizes[0]
        height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
        if not (0 <= x < width and 0 <= y < height):
            raise IndexError(f"pixel ({x}, {y}) lies outside the image of {width} x {height}")
        query = self.affinity_head(self.backbone(images.tensor))
        phi_0, phi_1 = self._factors(query, 0, size)
        row, column = int(y * size[0] / height / STRIDE), int(x * size[1] / width / STRIDE)
        return pixel_affinity(phi_0, phi_1, row, column)


def _valid(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The part of (C, h_pad, w_pad) at stride 4 that an unpadded image of `size` covers."""
    return maps[:, : math.ceil(size[0] / STRIDE), : math.ceil(size[1] / STRIDE)]


class _PanopticMaker:
    """Panoptic maps of one image under different options; what they share is computed once."""

    def __init__(self, model, probabilities, semantic, instances, factors, size) -> None:
        self.model = model
        self.probabilities = probabilities
        self.semantic = semantic
        self.factors = factors
        self.size = size
        masks = instances.pred_masks[:, 0] if instances.has("pred_masks") else None
        # A copy: Detectron2's post-processing scales the boxes of `instances` in place.
        boxes = instances.pred_boxes.tensor.clone()
        self.detections = Detections(boxes, instances.pred_classes, instances.scores, masks)

    def can(self, name: str) -> bool:
        """Whether this model has what a variant of that name needs."""
        if name == "heuristic":
            return self.detections.masks is not None
        return not name.startswith("residual") or self.factors is not None

    def __call__(self, options: InferenceOptions) -> tuple[torch.Tensor, list[dict]]:
        model, height_width = self.model, self.semantic.shape[-2:]
        # Nothing of an image is read that is not also there in training: boxes at stride 4 and at
        # the size of the result differ by a factor only.
        factor = self.detections.boxes.new_tensor(
            [height_width[1] / self.size[1], height_width[0] / self.size[0]] * 2
        )
        classes = model.panoptic.thing_ids[self.detections.classes]
        if options.method == "heuristic":
            if self.detections.masks is None:
                raise ValueError("the heuristic merger needs masks: set MODEL.MASK_ON True")
            panoptic = merge_heuristically(
                self.semantic,
                self.detections.boxes * factor,
                classes,
                self.detections.scores,
                self.detections.masks,
                model.is_thing,
                options.overlap_thresh,
                options.heuristic_score_thresh,
            )
            return trim_small_stuff(panoptic, options.stuff_area_limit)
        kept = (self.detections.scores > options.score_thresh).nonzero()[:, 0]
        detections, classes = self.detections[kept], classes[kept]
        if detections.masks is not None:
            kept = uncovered_detections(
                detections.boxes / STRIDE,
                detections.scores,
                detections.masks,
                tuple(self.probabilities.shape[-2:]),
                options.covered_thresh,
            )
            detections, classes = detections[kept], classes[kept]
        psi, residual = model.panoptic(
            self.probabilities, detections, self.factors if options.residual else None
        )
        if options.resolution == "output":
            channels = argmax_at_output(
                model.panoptic.potential,
                self.semantic,
                detections.boxes * factor,
                classes,
                detections.scores,
                detections.masks,
                residual,
                self.size,
            )
        else:
            potential = psi if residual is None else psi + residual
            channels = argmax_of_resampled(potential, self.size, tuple(height_width))
        panoptic = segments_from_channels(
            channels, classes, detections.scores, model.panoptic.stuff_ids
        )
        return trim_small_stuff(panoptic, options.stuff_area_limit)
