"""Panoptic maps of one image, under different options (Li, Qi, Torr, CVPR 2020, 3.4.2, 4.1).

Shapes: D detections; K classes; h, w the grid at stride 4 over the network's input of size
(H_in, W_in); H, W the size of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from unified_panoptic.modeling.grid import STRIDE
from unified_panoptic.modeling.instance_affinity import FactoredResidual, pixel_affinity
from unified_panoptic.modeling.panoptic_submodule import PanopticSubmodule
from unified_panoptic.modeling.postprocess import (
    argmax_at_output,
    argmax_of_resampled,
    factor_residual,
    merge_heuristically,
    segments_from_channels,
    supported_detections,
    trim_small_stuff,
    uncovered_detections,
    void_missed_things,
)
from unified_panoptic.modeling.roi_heads import Detections

Panoptic = tuple[torch.Tensor, list[dict[str, Any]]]
# Of a residual that is formed whole: 256 MB. 153 channels of 200 x 325 cells, as on COCO, have 10
# million values. 400 channels of a microscope image of 520 x 694 cells have 144 million.
MOST_RESIDUAL_VALUES = 64_000_000


@dataclass(frozen=True)
class InferenceOptions:
    """How a panoptic map is made; `unified_panoptic.config` explains each.

    Attributes:
        method: "argmax" of P, or the "heuristic" merger.
        resolution: "output" forms P at the size of the result, "stride4" enlarges it.
        residual: whether P has the second term of Eq. 4.
        score_thresh: detections above this score enter Psi.
        support_thresh: least mean of V under a detection's mask, of its class; 0 keeps all.
        missed_things: what pixels of V's things become that no detection takes: "stuff" or "void".
        covered_thresh: share of a mask, 0 to 1, that better ones may cover; 1 keeps all.
        stuff_area_limit: stuff below this area, in pixels of the result, becomes void.
        heuristic_score_thresh: least score in the heuristic merger.
    """

    method: str = "argmax"
    resolution: str = "output"
    residual: bool = True
    score_thresh: float = 0.5
    support_thresh: float = 0.0
    covered_thresh: float = 1.0
    missed_things: str = "stuff"
    stuff_area_limit: int = 2048
    heuristic_score_thresh: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in ("argmax", "heuristic"):
            raise ValueError(f"method is {self.method!r}: use 'argmax' or 'heuristic'")
        if self.resolution not in ("output", "stride4"):
            raise ValueError(f"resolution is {self.resolution!r}: use 'output' or 'stride4'")
        if self.missed_things not in ("stuff", "void"):
            raise ValueError(f"missed_things is {self.missed_things!r}: use 'stuff' or 'void'")
        if not 0 <= self.covered_thresh <= 1:
            raise ValueError(f"covered_thresh is {self.covered_thresh}: use 0 to 1")
        if not 0 <= self.support_thresh <= 1:
            raise ValueError(f"support_thresh is {self.support_thresh}: use 0 to 1")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceOptions:
        """Read MODEL.UNIFIED.INFERENCE."""
        node = cfg.MODEL.UNIFIED.INFERENCE
        return cls(
            method=node.METHOD,
            resolution=node.RESOLUTION,
            residual=node.RESIDUAL,
            score_thresh=node.SCORE_THRESH,
            support_thresh=node.SUPPORT_THRESH,
            covered_thresh=node.COVERED_THRESH,
            missed_things=node.MISSED_THINGS,
            stuff_area_limit=node.STUFF_AREA_LIMIT,
            heuristic_score_thresh=node.HEURISTIC_SCORE_THRESH,
        )


# What each name in TEST.PANOPTIC_VARIANTS changes about the configured way.
VARIANTS: dict[str, dict[str, Any]] = {
    "argmax": {"method": "argmax"},
    "heuristic": {"method": "heuristic"},
    "residual_on": {"method": "argmax", "residual": True},
    "residual_off": {"method": "argmax", "residual": False},
    "stride4": {"method": "argmax", "resolution": "stride4"},
    "output": {"method": "argmax", "resolution": "output"},
    "untrimmed": {"stuff_area_limit": 0},
    "missed_stuff": {"method": "argmax", "missed_things": "stuff"},
    "missed_void": {"method": "argmax", "missed_things": "void"},
    "support_off": {"support_thresh": 0.0},
    "duplicates_kept": {"method": "argmax", "covered_thresh": 1.0},
}


def affinity_at(
    factors: tuple[torch.Tensor, torch.Tensor],
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    x: float,
    y: float,
) -> torch.Tensor:
    """Compute the affinity of a pixel of the result to all cells.

    Args:
        factors: phi_0(Q), phi_1(Q), each (C, h, w).
        input_size: (H_in, W_in).
        output_size: (H, W).
        x: column of the pixel.
        y: row of the pixel.

    Returns:
        (h, w) of `pixel_affinity`.

    Raises:
        IndexError: the pixel lies outside the image.
    """
    height, width = output_size
    if not (0 <= x < width and 0 <= y < height):
        raise IndexError(f"pixel ({x}, {y}) lies outside the image of {width} x {height}")
    row, column = int(y * input_size[0] / height / STRIDE), int(x * input_size[1] / width / STRIDE)
    return pixel_affinity(*factors, row, column)


class PredictedImage:
    """What the network found in one image, and the panoptic maps that follow from it.

    Maps that differ only in what is trimmed are formed once.
    """

    def __init__(
        self,
        submodule: PanopticSubmodule,
        probabilities: torch.Tensor,
        semantic: torch.Tensor,
        instances: Instances,
        factors: tuple[torch.Tensor, torch.Tensor] | None,
        *,
        is_thing: Sequence[bool],
        input_size: tuple[int, int],
    ) -> None:
        """Keep what the maps are made from.

        Args:
            submodule: makes Psi and the residual.
            probabilities: (K, h, w) V at stride 4.
            semantic: (K, H, W) V at the size of the result.
            instances: D detections in pixels of the input, with thing indices.
            factors: phi_0(Q), phi_1(Q), each (C, h, w); None without the affinity.
            is_thing: K flags.
            input_size: (H_in, W_in).
        """
        self.submodule = submodule
        self.probabilities = probabilities
        self.semantic = semantic
        self.factors = factors
        self.is_thing = is_thing
        self.input_size = input_size
        self._instances = instances
        masks = instances.pred_masks[:, 0] if instances.has("pred_masks") else None
        # A copy: Detectron2's post-processing scales the boxes of `instances` in place.
        boxes = instances.pred_boxes.tensor.clone()
        self.detections = Detections(boxes, instances.pred_classes, instances.scores, masks)
        self._untrimmed: dict[InferenceOptions, Panoptic] = {}

    def outputs(self, options: InferenceOptions, variants: Sequence[str] = ()) -> dict[str, Any]:
        """Make all that the meta-architecture returns of an image.

        Args:
            options: of the panoptic map.
            variants: further maps, keys of `VARIANTS`; those that the model cannot make are left
                out.
        """
        fields = {
            **self._instances.get_fields(),
            "pred_boxes": Boxes(self.detections.boxes.clone()),
        }
        found = Instances(self._instances.image_size, **fields)
        return {
            "sem_seg": self.semantic,
            "instances": detector_postprocess(found, *self.semantic.shape[-2:]),
            "panoptic_seg": self.panoptic(options),
            "panoptic_variants": {
                name: self.panoptic(replace(options, **VARIANTS[name]))
                for name in variants
                if self.can(name)
            },
        }

    def affinity_of_pixel(self, x: float, y: float) -> torch.Tensor:
        """Compute the affinity of one pixel to all others (Fig. 6), at stride 4 of the input.

        Args:
            x: column in pixels of the result.
            y: row in pixels of the result.

        Returns:
            (h, w); the larger, the more that cell's potential is sent to the pixel.

        Raises:
            ValueError: the model has no affinity head.
            IndexError: the pixel lies outside the image.
        """
        if self.factors is None:
            raise ValueError("this model was built without the dense instance affinity")
        height, width = self.semantic.shape[-2:]
        return affinity_at(self.factors, self.input_size, (height, width), x, y)

    def can(self, variant: str) -> bool:
        """Tell whether the model has what a variant of that name needs."""
        if variant == "heuristic":
            return self.detections.masks is not None
        return not variant.startswith("residual") or self.factors is not None

    def panoptic(self, options: InferenceOptions) -> Panoptic:
        """Make a panoptic map.

        Args:
            options: how.

        Returns:
            (H, W) int32 ids, 0 = void, and segments_info.

        Raises:
            ValueError: the heuristic merger without masks.
        """
        key = replace(options, stuff_area_limit=0)
        if key not in self._untrimmed:
            make = self._merge if options.method == "heuristic" else self._argmax
            self._untrimmed[key] = make(options)
        id_map, segments_info = trim_small_stuff(self._untrimmed[key], options.stuff_area_limit)
        # Each map has a list of its own, which its user may change.
        return id_map, [dict(segment) for segment in segments_info]

    def _boxes_at_output(self, detections: Detections) -> torch.Tensor:
        """Scale boxes to pixels of the result.

        Nothing of an image is read that is not also there in training. Boxes at stride 4 and at
        the size of the result differ by a factor only.
        """
        height, width = self.semantic.shape[-2:]
        factor = [width / self.input_size[1], height / self.input_size[0]] * 2
        return detections.boxes * detections.boxes.new_tensor(factor)

    def _merge(self, options: InferenceOptions) -> Panoptic:
        if self.detections.masks is None:
            raise ValueError("the heuristic merger needs masks: use a model with a mask head")
        detections = self._supported(self.detections, options)
        return merge_heuristically(
            self.semantic,
            self._boxes_at_output(detections),
            self.submodule.thing_ids[detections.classes],
            detections.scores,
            detections.masks,
            self.is_thing,
            score_threshold=options.heuristic_score_thresh,
        )

    def _argmax(self, options: InferenceOptions) -> Panoptic:
        detections = self._entering(options)
        classes = self.submodule.thing_ids[detections.classes]
        factors = self.factors if options.residual else None
        if options.resolution == "output":
            channels = argmax_at_output(
                self.submodule.potential,
                self.semantic,
                self._boxes_at_output(detections),
                classes,
                detections.scores,
                detections.masks,
                None if factors is None else self._residual(detections, classes, factors),
                self.input_size,
            )
        else:
            psi, residual = self.submodule(self.probabilities, detections, factors)
            potential = psi if residual is None else psi + residual
            size = (self.semantic.shape[-2], self.semantic.shape[-1])
            channels = argmax_of_resampled(potential, self.input_size, size)
        if options.missed_things == "void":
            channels = void_missed_things(channels, self.semantic, len(detections), self.is_thing)
        return segments_from_channels(
            channels, classes, detections.scores, self.submodule.stuff_ids
        )

    def _residual(
        self,
        detections: Detections,
        classes: torch.Tensor,
        factors: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor | FactoredResidual:
        """Form the residual at stride 4, as its factors where it would take too much memory.

        The factors are fewer maps, but their product is then formed at the size of the result,
        which takes 16 times as many multiply-adds.
        """
        channels = len(detections) + len(self.submodule.stuff_ids)
        cells = self.probabilities.shape[-2] * self.probabilities.shape[-1]
        if channels <= len(factors[0]) or channels * cells <= MOST_RESIDUAL_VALUES:
            residual = self.submodule(self.probabilities, detections, factors)[1]
            assert residual is not None  # as there are factors
            return residual
        return factor_residual(
            self.submodule.potential,
            self.probabilities,
            detections.boxes / STRIDE,
            classes,
            detections.scores,
            detections.masks,
            factors,
        )

    def _entering(self, options: InferenceOptions) -> Detections:
        """Choose the detections that become channels."""
        detections = self.detections
        detections = detections[(detections.scores > options.score_thresh).nonzero()[:, 0]]
        if detections.masks is None:
            return detections
        detections = self._supported(detections, options)
        kept = uncovered_detections(
            detections.boxes / STRIDE,
            detections.scores,
            detections.masks,
            (self.probabilities.shape[-2], self.probabilities.shape[-1]),
            options.covered_thresh,
        )
        return detections[kept]

    def _supported(self, detections: Detections, options: InferenceOptions) -> Detections:
        """Choose those that V bears out."""
        kept = supported_detections(
            self.probabilities,
            detections.boxes / STRIDE,
            self.submodule.thing_ids[detections.classes],
            detections.masks,
            options.support_thresh,
        )
        return detections[kept]
