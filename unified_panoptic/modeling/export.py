"""The Unified network as ONNX, in up to four parts; `unified_panoptic.runtime` joins them.

What an image decides, such as how many proposals there are, lies between the parts: proposals, NMS
and the panoptic map are `unified_panoptic.runtime`. RoIAlign is inside the parts, with the boxes of
each level as an input of its own.

Shapes: R boxes; N_th thing classes; m x m masks; C channels of the affinity.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn
from torchvision.ops import roi_align

from panoptic_common.inference.exporting import Export, Normalised, Part
from unified_panoptic.modeling.grid import STRIDE
from unified_panoptic.modeling.meta_arch import UnifiedPanoptic
from unified_panoptic.modeling.roi_heads import hinge_probability

EXAMPLE_SIZE = (256, 320)


class DenseNetwork(nn.Module):
    """Everything that sees the whole image: backbone, RPN, semantic head, affinity features."""

    def __init__(self, model: UnifiedPanoptic) -> None:
        super().__init__()
        self.normalise = Normalised(model.pixel_mean, model.pixel_std)
        self.model = model
        self.proposal_levels = tuple(model.proposal_generator.in_features)
        self.box_levels = tuple(model.roi_heads.box_in_features)
        # The merger has no use for it, nor has an argmax without the residual.
        options = model.options
        self.with_affinity = (
            model.affinity_head is not None and options.method == "argmax" and options.residual
        )

    def outputs(self) -> tuple[str, ...]:
        """Name what `forward` returns, in order."""
        names = [f"level_{name}" for name in self.box_levels]
        for kind in ("objectness", "deltas"):
            names += [f"{kind}_{name}" for name in self.proposal_levels]
        names.append("semantic")
        return tuple([*names, "query"] if self.with_affinity else names)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Turn (1, 3, H, W) values 0 to 255 into the maps that `outputs` names."""
        features = self.model.backbone(self.normalise(image))
        found = [features[name] for name in self.box_levels]
        logits, deltas = self.model.proposal_generator.rpn_head(
            [features[name] for name in self.proposal_levels]
        )
        found += [*logits, *deltas, self.model.sem_seg_head(features)]
        if self.with_affinity:
            found.append(self.model.affinity_head(features))
        return tuple(found)


class _Pooled(nn.Module):
    """RoIAlign on each level, side by side in the order of the levels."""

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.settings = [
            (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
            for layer in pooler.level_poolers
        ]

    def forward(self, *levels_and_boxes: torch.Tensor) -> torch.Tensor:
        """Pool n levels (1, C, h, w) at n groups of boxes (R_i, 4): (sum R_i, C, side, side)."""
        count = len(self.settings)
        pooled = [
            roi_align(level, [boxes], *setting)
            for level, boxes, setting in zip(
                levels_and_boxes[:count], levels_and_boxes[count:], self.settings, strict=True
            )
        ]
        return torch.cat(pooled)


class BoxHead(nn.Module):
    """Class probabilities and box deltas of boxes."""

    def __init__(self, model: UnifiedPanoptic) -> None:
        super().__init__()
        self.pooled = _Pooled(model.roi_heads.box_pooler)
        self.head = model.roi_heads.box_head
        self.predictor = model.roi_heads.box_predictor

    def forward(self, *levels_and_boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute (R, N_th + 1) probabilities and (R, 4 N_th) or (R, 4) deltas."""
        scores, deltas = self.predictor(self.head(self.pooled(*levels_and_boxes)))
        return scores.softmax(dim=-1), deltas


class MaskHead(nn.Module):
    """Mask probabilities of boxes for all classes."""

    def __init__(self, model: UnifiedPanoptic) -> None:
        super().__init__()
        self.pooled = _Pooled(model.roi_heads.mask_pooler)
        self.head = model.roi_heads.mask_head
        self.hinge = model.roi_heads.mask_probability == "hinge"

    def forward(self, *levels_and_boxes: torch.Tensor) -> torch.Tensor:
        """Compute (R, N_th or 1, m, m) probabilities."""
        logits = self.head.layers(self.pooled(*levels_and_boxes))
        return hinge_probability(logits) if self.hinge else logits.sigmoid()


class Factors(nn.Module):
    """phi_0 and phi_1 of the valid part of Q."""

    def __init__(self, model: UnifiedPanoptic) -> None:
        super().__init__()
        self.head = model.affinity_head

    def forward(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn (C, h, w) into two maps of the same shape."""
        return self.head.factors(query)


def export_model(model: UnifiedPanoptic) -> Export:
    """Describe what is exported of a model.

    Args:
        model: on the CPU, in evaluation mode.

    Raises:
        ValueError: the map is the argmax of an enlarged P, or the runtime cannot decode the boxes.
    """
    _check(model)
    dense = DenseNetwork(model)
    image = torch.rand(1, 3, *EXAMPLE_SIZE) * 255
    parts = {"dense": Part(dense, {"image": image}, dense.outputs(), {"image": (2, 3)})}
    with torch.no_grad():
        maps = dict(zip(dense.outputs(), dense(image), strict=True))
    names = [f"level_{name}" for name in dense.box_levels]
    inputs = {name: maps[name] for name in names}
    inputs.update({f"boxes_{name}": _example_boxes(k) for k, name in enumerate(dense.box_levels)})
    dynamic = {name: (2, 3) if name in names else (0,) for name in inputs}
    parts["boxes"] = Part(BoxHead(model), inputs, ("scores", "deltas"), dynamic)
    if model.roi_heads.mask_on:
        parts["masks"] = Part(MaskHead(model), inputs, ("masks",), dynamic)
    if dense.with_affinity:
        query = maps["query"][0]
        outputs = ("phi_0", "phi_1")
        parts["factors"] = Part(Factors(model), {"query": query}, outputs, {"query": (1, 2)})
    return Export(
        parts=parts,
        options=_options(model, dense),
        divisibility=model.backbone.size_divisibility,
        smallest=(1, 1),
    )


def _check(model: UnifiedPanoptic) -> None:
    options = model.options
    if options.method == "argmax" and options.resolution != "output":
        raise ValueError(
            f"MODEL.UNIFIED.INFERENCE.RESOLUTION is {options.resolution!r}, but an export forms P "
            "at the size of the result: add --opts MODEL.UNIFIED.INFERENCE.RESOLUTION output "
            "(other maps than the model has now)"
        )
    transforms = (model.proposal_generator.box2box_transform, _box_transform(model))
    if any(type(transform) is not Box2BoxTransform for transform in transforms):
        raise ValueError("an export knows the box deltas of Box2BoxTransform only")
    heads = model.roi_heads
    if heads.mask_on and tuple(heads.mask_in_features) != tuple(heads.box_in_features):
        raise ValueError("an export wants boxes and masks to use the same levels")


def _box_transform(model: UnifiedPanoptic) -> Any:
    return model.roi_heads.box_predictor.box2box_transform


def _example_boxes(level: int) -> torch.Tensor:
    """Make boxes of the size that belongs to a level, another number for each."""
    size = 40.0 * 2**level
    corner = torch.tensor([[3.0 * k, 5.0 * k] for k in range(3 + level)])
    return torch.cat([corner, corner + size], dim=1)


def _options(model: UnifiedPanoptic, dense: DenseNetwork) -> dict[str, Any]:
    """Return what `unified_panoptic.runtime` reads, as JSON can hold it."""
    rpn, heads, chosen = model.proposal_generator, model.roi_heads, model.options
    predictor, pooler = heads.box_predictor, heads.box_pooler
    return {
        "stride": STRIDE,
        "proposals": {
            "levels": list(dense.proposal_levels),
            "strides": list(rpn.anchor_generator.strides),
            "offset": rpn.anchor_generator.offset,
            "anchors": [cells.tolist() for cells in rpn.anchor_generator.cell_anchors],
            "weights": list(rpn.box2box_transform.weights),
            "pre_nms": rpn.pre_nms_topk[False],
            "post_nms": rpn.post_nms_topk[False],
            "nms_threshold": rpn.nms_thresh,
            "least_side": rpn.min_box_size,
        },
        "boxes": {
            "levels": list(dense.box_levels),
            "first_level": pooler.min_level,
            "canonical_size": pooler.canonical_box_size,
            "canonical_level": pooler.canonical_level,
            "weights": list(_box_transform(model).weights),
            "score_threshold": predictor.test_score_thresh,
            "nms_threshold": float(predictor.test_nms_thresh),
            "most": predictor.test_topk_per_image,
        },
        "panoptic": {
            "method": chosen.method,
            "variant": model.panoptic.potential.variant,
            "residual": chosen.residual,
            "score_threshold": chosen.score_thresh,
            "missed_things": chosen.missed_things,
            "support_threshold": chosen.support_thresh,
            "covered_threshold": chosen.covered_thresh,
            "heuristic_score_threshold": chosen.heuristic_score_thresh,
            "stuff_area_limit": chosen.stuff_area_limit,
        },
    }
