"""The Unified network as a Detectron2 meta-architecture: wiring only.

Li, Qi, Torr, CVPR 2020, Fig. 2.

Shapes: N images; K = N_st + N_th classes; H, W pixels of the padded batch; h = H / 4, w = W / 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    build_backbone,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from panoptic_common.checkpoint.finite import require_numbers
from panoptic_common.data.segment_truth import IGNORE_CLASS
from panoptic_common.engine import detectron2_entries
from panoptic_common.modeling.network_input import (
    normalised_batch,
    require_classes,
    require_targets,
)
from panoptic_common.modeling.resampling import resample
from unified_panoptic.modeling.grid import PIXELS, STRIDE, LossPixel
from unified_panoptic.modeling.inference import (
    VARIANTS,
    InferenceOptions,
    PredictedImage,
    affinity_at,
)
from unified_panoptic.modeling.instance_affinity import InstanceAffinityHead
from unified_panoptic.modeling.panoptic_submodule import LOGGED, PanopticSubmodule
from unified_panoptic.modeling.roi_heads import Detections
from unified_panoptic.modeling.semantic_head import SemanticHead

detectron2_entries.apply()


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
        panoptic_images: int = 0,
        detection_loss_weight: float,
        train_with_truth: bool,
        loss_pixels: str,
        is_thing: tuple[bool, ...],
        options: InferenceOptions,
        variants: tuple[str, ...],
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        """Wire the parts.

        Args:
            backbone: FPN.
            proposal_generator: RPN.
            roi_heads: `UnifiedROIHeads`.
            sem_seg_head: semantic submodule.
            affinity_head: None builds the models without the affinity (A, C of Table 1).
            panoptic: panoptic submodule.
            panoptic_loss: False trains the parts jointly but without the panoptic matching loss.
            panoptic_images: how many of a batch's images that loss looks at; 0: all.
            detection_loss_weight: factor of all RPN and ROI losses.
            train_with_truth: feed true boxes with score 1 to the panoptic loss (Table H).
            loss_pixels: one of `PIXELS`: which pixels losses at stride 4 look at.
            is_thing: K flags.
            options: how panoptic maps are made.
            variants: further outputs, keys of `VARIANTS`.
            pixel_mean: per channel of the input.
            pixel_std: per channel of the input.

        Raises:
            ValueError: an unknown variant, a negative number of images, or parts that do not fit
                together.
        """
        super().__init__()
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"unknown variants {unknown}: use some of {sorted(VARIANTS)}")
        if loss_pixels not in PIXELS:
            raise ValueError(f"loss_pixels is {loss_pixels!r}: use one of {PIXELS}")
        if panoptic_images < 0:
            raise ValueError(f"panoptic_images is {panoptic_images}: use 0 for all, or more")
        if affinity_head is not None and not panoptic_loss:
            raise ValueError(
                "affinity_head learns from panoptic_loss alone: enable the loss, or build the "
                "model without the affinity"
            )
        if options.method == "heuristic" and not roi_heads.mask_on:
            raise ValueError("options.method 'heuristic' needs roi_heads with masks")
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.sem_seg_head = sem_seg_head
        self.affinity_head = affinity_head
        self.panoptic = panoptic
        self.panoptic_loss = panoptic_loss
        self.panoptic_images = panoptic_images or None
        self.detection_loss_weight = detection_loss_weight
        self.train_with_truth = train_with_truth
        self.loss_pixels = loss_pixels
        self.is_thing = is_thing
        self.options = options
        self.variants = variants
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts.

        Raises:
            ValueError: the class counts are open.
        """
        require_classes(cfg.MODEL.PANOPTIC.IS_THING)
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        node = cfg.MODEL.UNIFIED
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shape),
            "roi_heads": build_roi_heads(cfg, shape),
            "sem_seg_head": SemanticHead(cfg, shape),
            "affinity_head": InstanceAffinityHead(cfg, shape) if node.AFFINITY.ENABLED else None,
            "panoptic": PanopticSubmodule(cfg),
            "panoptic_loss": node.PANOPTIC.ENABLED,
            "panoptic_images": node.PANOPTIC.IMAGES,
            "detection_loss_weight": node.DETECTION.LOSS_WEIGHT,
            "train_with_truth": node.DETECTION.TRAIN_WITH_TRUTH,
            "loss_pixels": node.LOSS_PIXELS,
            "is_thing": tuple(bool(flag) for flag in cfg.MODEL.PANOPTIC.IS_THING),
            "options": InferenceOptions.from_config(cfg),
            "variants": tuple(cfg.TEST.PANOPTIC_VARIANTS),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """The device of the model's buffers."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Return losses in training, panoptic maps at inference.

        Args:
            batched_inputs: one dict per image: "image" (3, H_i, W_i) in the configured channel
                order, values 0 to 255. In training also the targets of `make_unified_targets`. At
                inference optionally "height" and "width" of the result.

        Returns:
            In training, scalar losses by name. At inference, one dict per image: "sem_seg"
            (K, height, width) probabilities, "instances" (boxes, scores, thing indices, masks),
            "panoptic_seg" (ids, segments_info) and "panoptic_variants" {name: the same form}.
        """
        if self.training:
            needed = ("instances", "sem_seg", "panoptic_target")
            require_targets(batched_inputs, needed if self.panoptic_loss else needed[:2])
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        if not self.training:
            return self.inference(images, features, batched_inputs)

        truth = [x["instances"].to(self.device) for x in batched_inputs]
        semantic_truth = ImageList.from_tensors(
            [x["sem_seg"].to(self.device) for x in batched_inputs], 0, IGNORE_CLASS
        ).tensor
        missing = [images.tensor.shape[i] - semantic_truth.shape[i - 1] for i in (3, 2)]
        semantic_truth = F.pad(semantic_truth, (0, missing[0], 0, missing[1]), value=IGNORE_CLASS)
        proposals, losses = self.proposal_generator(images, features, truth)
        # The ROI heads append the truth to their own copy; `proposals` stay predictions.
        _, roi_losses = self.roi_heads(images, features, proposals, truth)
        losses.update(roi_losses)
        losses = {name: loss * self.detection_loss_weight for name, loss in losses.items()}
        logits = self.sem_seg_head(features)
        pixel = LossPixel.draw(self.loss_pixels)
        losses.update(self.sem_seg_head.losses(logits, semantic_truth, pixel))
        if self.panoptic_loss:
            losses["loss_panoptic"] = self._panoptic_loss(
                images, features, logits, proposals, truth, batched_inputs, pixel
            )
        return losses

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise the images and pad them to one size that the FPN can divide."""
        stride = self.backbone.size_divisibility  # that of res5, the last with batch norm
        return normalised_batch(
            batched_inputs,
            self.pixel_mean,
            self.pixel_std,
            stride,
            stride if self.training else None,
        )

    def _panoptic_loss(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        logits: torch.Tensor,
        proposals: list[Instances],
        truth: list[Instances],
        batched_inputs: list[dict],
        pixel: LossPixel,
    ) -> torch.Tensor:
        """Average the panoptic matching loss (3.5) over the counting pixels of the batch.

        With `panoptic_images` it is the batch's first images that are looked at. Which these are
        is up to the order of images, which is random.
        """
        chosen = slice(self.panoptic_images)
        features = {name: level[chosen] for name, level in features.items()}
        logits, proposals, truth = logits[chosen], proposals[chosen], truth[chosen]
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
        # Taken apart at once: indexing would have each image send back a gradient of the batch.
        maps = zip(logits.unbind(), self._queries(features, len(logits)), strict=True)
        total, logs = logits.new_zeros(()), []
        for size, found, (image_logits, query), inputs in zip(
            images.image_sizes[chosen], detections, maps, batched_inputs[chosen], strict=True
        ):
            loss, log = self.panoptic.loss_of_image(
                _valid(image_logits, size).float().softmax(dim=0),
                found,
                self._factors(query, size),
                inputs["panoptic_target"].to(self.device),
                pixel,
            )
            total = total + loss
            logs.append(log)
        sums = torch.stack(logs).sum(dim=0)
        pixels = sums[LOGGED.index("pixels")].clamp(min=1)
        # One look at the device for all numbers of the step.
        for name, value in zip(LOGGED, (sums / len(logs)).tolist(), strict=True):
            if name != "pixels":
                get_event_storage().put_scalar(f"panoptic/{name}", value)
        return total / pixels * self.panoptic.loss_weight

    def _queries(
        self, features: dict[str, torch.Tensor], images: int
    ) -> Sequence[torch.Tensor] | Sequence[None]:
        """Compute Q of each image, (C, h, w) of the padded batch; None without the affinity."""
        if self.affinity_head is None:
            return [None] * images
        return self.affinity_head(features).unbind()

    def _factors(
        self, query: torch.Tensor | None, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None if query is None else self.affinity_head.factors(_valid(query, size))

    def inference(
        self, images: ImageList, features: dict[str, torch.Tensor], batched_inputs: list[dict]
    ) -> list[dict]:
        """Return what `forward` returns at inference, from images and features at hand."""
        predicted = self.predict_images(images, features, batched_inputs)
        return [image.outputs(self.options, self.variants) for image in predicted]

    def predict_images(
        self, images: ImageList, features: dict[str, torch.Tensor], batched_inputs: list[dict]
    ) -> Iterator[PredictedImage]:
        """Yield what panoptic maps are made from, image by image, to keep few at a time."""
        proposals, _ = self.proposal_generator(images, features, None)
        instances, _ = self.roi_heads(images, features, proposals, None)
        logits = self.sem_seg_head(features)
        queries = self._queries(features, len(logits))
        for inputs, size, found, image_logits, query in zip(
            batched_inputs, images.image_sizes, instances, logits, queries, strict=True
        ):
            output_size = (inputs.get("height", size[0]), inputs.get("width", size[1]))
            require_numbers(image_logits, inputs)
            probabilities = _valid(image_logits, size).float().softmax(dim=0)
            semantic = resample(probabilities, size, output_size, STRIDE)
            yield PredictedImage(
                self.panoptic,
                probabilities,
                semantic,
                found,
                self._factors(query, size),
                is_thing=self.is_thing,
                input_size=size,
            )

    @torch.no_grad()
    def affinity_of_pixel(self, inputs: dict, x: float, y: float) -> torch.Tensor:
        """Compute the affinity of one pixel to all others (Fig. 6), at stride 4 of the input.

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
        output_size = (inputs.get("height", size[0]), inputs.get("width", size[1]))
        [query] = self._queries(self.backbone(images.tensor), 1)
        return affinity_at(self._factors(query, size), size, output_size, x, y)


def _valid(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Take the part of (C, h_pad, w_pad) at stride 4 that an unpadded image of `size` covers."""
    return maps[:, : math.ceil(size[0] / STRIDE), : math.ceil(size[1] / STRIDE)]
