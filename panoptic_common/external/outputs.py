"""From what a meta-architecture gives at inference to what evaluation and drawing read.

A forward hook translates, so whoever calls the model gets one form. These are contiguous classes in
the panoptic map, thing indices in the detections, and a list of segments.

Shapes: H, W pixels of the image; D detections; K classes, N_th of them things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import panoptic_common.compat

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances
from torch import nn

from panoptic_common.data.catalog import IGNORE_LABEL, LABEL_DIVISOR
from panoptic_common.external.numbering import UNKNOWN, Numbering
from panoptic_common.modeling.roi_align import use_precise_roi_align
from panoptic_common.modeling.semantic_map import CHANNELS

Panoptic = tuple[torch.Tensor, list[dict[str, Any]]]


def adapt_model(model: nn.Module, cfg: CfgNode) -> None:
    """Make a model give its outputs in our form, and keep boxes where they are, in place.

    Args:
        model: built from `cfg`.
        cfg: complete; reads MODEL.PANOPTIC and DATASETS.TRAIN.
    """
    numbering = Numbering(cfg.MODEL.PANOPTIC.NUMBERING, cfg.MODEL.PANOPTIC.IS_THING)
    model.register_forward_hook(OutputAdapter(numbering))
    use_precise_roi_align(model)
    for name in cfg.DATASETS.TRAIN[:1]:
        _fill_missing_metadata(name, numbering)


def _fill_missing_metadata(name: str, numbering: Numbering) -> None:
    """Say which classes are things where models look: in the metadata of their training set.

    A data set that was read has it. Who only evaluates, or has a checkpoint alone, has not read it.
    Models ask for the contiguous ids alone, so that these stand for the data set's own here.
    """
    metadata = MetadataCatalog.get(name)
    if hasattr(metadata, "thing_dataset_id_to_contiguous_id"):
        return
    flags = numbering.is_thing
    metadata.set(
        thing_dataset_id_to_contiguous_id={k: k for k, flag in enumerate(flags) if flag},
        stuff_dataset_id_to_contiguous_id={k: k for k, flag in enumerate(flags) if not flag},
        label_divisor=LABEL_DIVISOR,
        ignore_label=IGNORE_LABEL,
    )


class OutputAdapter:
    """The forward hook: translates the outputs of a model that is not training."""

    def __init__(self, numbering: Numbering) -> None:
        """Keep how the model counts."""
        self.numbering = numbering
        things = [k for k, flag in enumerate(numbering.is_thing) if flag]
        index = {k: position for position, k in enumerate(things)}
        self._thing_index = [index.get(k, UNKNOWN) for k in numbering.things]

    def __call__(self, module: nn.Module, inputs: tuple, outputs: Any) -> list[dict] | None:
        """Return what replaces the outputs of a forward pass; None, nothing, in training."""
        if module.training or not isinstance(outputs, list):
            return None
        return [self.adapt(output) for output in outputs]

    def adapt(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """Translate the output of one image.

        Args:
            output: has some of "panoptic_seg", (H, W) ids with segments_info or with None;
                "sem_seg", (C, H, W) scores; "instances". Not changed.

        Returns:
            The same entries: segments with contiguous classes and at least one pixel, detections
            with thing indices, and "sem_seg_classes" where channel k of "sem_seg" is not class k.

        Raises:
            ValueError: a class that the model cannot mean by MODEL.PANOPTIC.NUMBERING.
        """
        adapted = dict(output)
        if "panoptic_seg" in output:
            adapted["panoptic_seg"] = self._panoptic(*output["panoptic_seg"])
        if "sem_seg" in output and self.numbering.semantic != [*range(len(output["sem_seg"]))]:
            adapted[CHANNELS] = self._channels(len(output["sem_seg"]))
        if "instances" in output:
            adapted["instances"] = self._detections(output["instances"])
        return adapted

    def _panoptic(self, id_map: torch.Tensor, segments: Sequence[dict] | None) -> Panoptic:
        if segments is None:
            return segments_of_labels(id_map, self.numbering.is_thing)
        translated = []
        for segment in segments:
            kind = "things" if segment["isthing"] else "stuff"
            table = getattr(self.numbering, kind)
            number = int(segment["category_id"])
            if not 0 <= number < len(table) or table[number] == UNKNOWN:
                raise ValueError(
                    f"a segment of {kind} has class {number}, which is no class of {kind} by "
                    "MODEL.PANOPTIC.NUMBERING"
                )
            translated.append({**segment, "category_id": table[number]})
        # Detectron2's merger lists stuff without a pixel where its area limit is 0.
        present = set(id_map.unique().tolist())
        return id_map, [segment for segment in translated if segment["id"] in present]

    def _channels(self, number: int) -> list[int]:
        if number != len(self.numbering.semantic):
            raise ValueError(
                f"sem_seg has {number} channels, but MODEL.PANOPTIC.NUMBERING makes "
                f"{len(self.numbering.semantic)} of the classes"
            )
        return self.numbering.semantic

    def _detections(self, found: Instances) -> Instances:
        """Count the classes among the things, drop what is none, and give masks their boxes."""
        table = torch.tensor(self._thing_index, device=found.pred_classes.device)
        if len(found) and not 0 <= int(found.pred_classes.min()) <= int(
            found.pred_classes.max()
        ) < len(table):
            raise ValueError(
                f"detections have the classes {sorted(set(found.pred_classes.tolist()))}, but "
                f"there are {len(table)} by MODEL.PANOPTIC.NUMBERING"
            )
        adapted = Instances(found.image_size, **found.get_fields())
        adapted.pred_classes = table[found.pred_classes]
        adapted = adapted[adapted.pred_classes != UNKNOWN]
        # Models that find masks may leave the boxes at zero, as making them takes time.
        if adapted.has("pred_masks") and len(adapted) and not adapted.pred_boxes.tensor.any():
            adapted.pred_boxes = BitMasks(adapted.pred_masks > 0.5).get_bounding_boxes()
        return adapted


def segments_of_labels(
    labels: torch.Tensor, is_thing: Sequence[bool], divisor: int = LABEL_DIVISOR
) -> Panoptic:
    """Make a panoptic map with its segments from labels `class * divisor + instance`.

    Args:
        labels: (H, W) integers; negative ones are void.
        is_thing: K flags.
        divisor: more than the instances of a class in an image.

    Returns:
        (H, W) int32 ids from 1 on, 0 = void, and segments_info with contiguous classes.

    Raises:
        ValueError: a label is of no class.
    """
    values, index = labels.clamp(min=-1).unique(return_inverse=True)
    ids, segments = [], []
    for value in values.tolist():
        if value < 0:
            ids.append(0)
            continue
        category = value // divisor
        if category >= len(is_thing):
            raise ValueError(
                f"label {value} is of class {category}, but there are {len(is_thing)} classes"
            )
        ids.append(len(segments) + 1)
        segments.append(
            {"id": ids[-1], "category_id": category, "isthing": bool(is_thing[category])}
        )
    return torch.tensor(ids, dtype=torch.int32, device=labels.device)[index], segments
