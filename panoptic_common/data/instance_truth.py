"""Instances from a file of their own instead of from the panoptic map; DATASETS.INSTANCES_JSON.

Shape shorthand: H, W image size in pixels after augmentation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances

from panoptic_common.coco.instance_annotations import read_instance_annotations
from panoptic_common.data.catalog import builtin_root, class_table, load_panoptic

ANNOTATIONS = "annotations"  # of a record: Detectron2's key


def instances_file(cfg: CfgNode, name: str) -> str | None:
    """Find the instances JSON of a data set.

    Args:
        cfg: DATASETS.INSTANCES_JSON holds pairs of a data set's name and a file. A file that is not
            there is looked for below $DETECTRON2_DATASETS.
        name: of the data set.

    Returns:
        The path; None: instances follow from the panoptic map.

    Raises:
        ValueError: the key holds something else than pairs of names.
    """
    found = None
    for pair in cfg.DATASETS.INSTANCES_JSON:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            raise ValueError(
                f"DATASETS.INSTANCES_JSON holds {pair!r}: give pairs (data set, file), such as "
                "\"(('coco_2017_val_panoptic', 'coco/annotations/instances_val2017.json'),)\""
            )
        if pair[0] == name:
            found = pair[1] if os.path.isfile(pair[1]) else os.path.join(builtin_root(), pair[1])
    return found


def load_instances(cfg: CfgNode, name: str) -> dict[Any, list[dict[str, Any]]] | None:
    """Read the annotations of a data set's images, by image; None if it has no such file.

    Raises:
        ValueError, FileNotFoundError: as `read_instance_annotations`.
    """
    path = instances_file(cfg, name)
    if path is None:
        return None
    sizes = {r["image_id"]: (r["height"], r["width"]) for r in load_panoptic(name)}
    return read_instance_annotations(path, class_table(name), sizes)


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """Load the records of DATASETS.TRAIN, with `annotations` where there is an instances JSON.

    Crowds are left out there, as Detectron2 does. Categories are what a detector calls the things.
    """
    records = []
    for name in cfg.DATASETS.TRAIN:
        loaded = load_panoptic(name)
        annotations = load_instances(cfg, name)
        if annotations is not None:
            joint = cfg.MODEL.PANOPTIC.NUMBERING == "joint"
            counted = [e["id"] for e in class_table(name) if e["isthing"] or joint]
            index = {category: number for number, category in enumerate(counted)}
            for record in loaded:
                record[ANNOTATIONS] = [
                    {
                        "segmentation": a["segmentation"],
                        "category_id": index[a["category_id"]],
                    }
                    for a in annotations[record["image_id"]]
                    if not a.get("iscrowd")
                ]
        records += loaded
    return records


def augmented_instances(
    annotations: Sequence[Mapping[str, Any]], transforms: T.Transform, size: tuple[int, int]
) -> Instances:
    """Make the instances of an image after augmentation.

    Args:
        annotations: of a record, see `training_records`.
        transforms: what the augmentation did to the image.
        size: (H, W).

    Returns:
        Instances with gt_boxes, gt_classes and gt_masks (BitMasks). Boxes are tight around what is
        left of the masks; an object that a crop removed is left out.
    """
    masks = np.zeros((len(annotations), *size), dtype=bool)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[:] = _augmented_mask(annotation["segmentation"], transforms, size)
    visible = masks.any(axis=(1, 2))
    classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    instances = Instances(size)
    instances.gt_masks = BitMasks(torch.from_numpy(masks[visible]))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.from_numpy(classes[visible])
    return instances


def _augmented_mask(
    segmentation: Any, transforms: T.Transform, size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Move polygons or a run-length encoded mask, and draw them: (H, W)."""
    if isinstance(segmentation, list):
        # Not Detectron2's, which cuts polygons at the border of a crop by a library of its own. To
        # the drawing it does not matter what lies outside.
        polygons = [
            transforms.apply_coords(np.asarray(corners, dtype=np.float64).reshape(-1, 2)).ravel()
            for corners in segmentation
            if len(corners) >= 6
        ]
        return detection_utils.polygons_to_bitmask(polygons, *size)
    if isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
    return transforms.apply_segmentation(mask_util.decode(segmentation)).astype(bool)
