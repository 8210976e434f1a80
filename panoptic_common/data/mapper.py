"""From a dict of the data set to what a model takes: read, augment, make targets.

The mapper knows images and panoptic maps, and no system: what a network is trained on comes from
an injected function ``make_targets(id_map, segments_info) -> dict``.

A panoptic map is transformed as the colours of its PNG, planes of uint8, and turned into ids
afterwards. Detectron2 resizes label maps of uint8 with Pillow, which picks the nearest pixel
centre. Any other type goes through torch, which takes no int32, and whose "nearest" is half a pixel
off the image's bilinear grid. Each plane is exact, and so are all 24 bits of an id.

Shape shorthand: H, W image size in pixels after augmentation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from panoptic_common.coco.image_reading import ImageSizeError, read_image
from panoptic_common.coco.records import (
    DataFileError,
    image_size_problem,
    read_record_ids,
    unknown_ids,
)
from panoptic_common.coco.segment_ids import (
    VOID_ID,
    id_to_rgb,
    rgb_to_id,
    segment_areas_and_boxes,
    with_extents,
)
from panoptic_common.coco.user_files import error_text
from panoptic_common.data.augmentations import build_augmentations
from panoptic_common.data.instance_truth import ANNOTATIONS, augmented_instances
from panoptic_common.runtime.intensity import check_format

logger = logging.getLogger(__name__)

_REAL_PIXEL = 7

TargetFunction = Callable[[np.ndarray, list[dict[str, Any]]], dict[str, Any]]


class PanopticDatasetMapper:
    """Map from one dict of a panoptic data set to the input of a model.

    The result holds `image`, a (3, H, W) uint8 tensor; `file_name`, `image_id` and the original
    `height` and `width`; and whatever `make_targets` returned. If the record has `annotations`
    (DATASETS.INSTANCES_JSON), `instances` are made of these.

    Args:
        is_train: whether the images are for training; the log says so.
        augmentations: applied in order; see `panoptic_common.data.augmentations`.
        image_format: "BGR" or "RGB".
        make_targets: called with the (H, W) int32 id map after augmentation, 0 = void, and the
            segments in it. Their `area` and `bbox` are what they are now. It
            must not know more than its arguments, and must be picklable for spawned workers (a
            method of a module-level class, or a function). None: no targets, and the panoptic PNG
            is not read, as is usual in testing.
    """

    def __init__(
        self,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        image_format: str = "BGR",
        make_targets: TargetFunction | None = None,
    ) -> None:
        check_format(image_format)
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.make_targets = make_targets
        mode = "training" if is_train else "testing"
        logger.info("Augmentations in %s: %s", mode, self.augmentations)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool, make_targets: TargetFunction | None = None
    ) -> PanopticDatasetMapper:
        """Make the mapper that a config asks for; see `build_augmentations` for the keys."""
        return cls(
            is_train=is_train,
            augmentations=build_augmentations(cfg, is_train),
            image_format=cfg.INPUT.FORMAT,
            make_targets=make_targets,
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image.

        Args:
            record: a dict of `load_panoptic`; not changed.

        Returns:
            What the class describes.

        Raises:
            DataFileError: naming the files, if one is missing or damaged, or if their sizes or the
                JSON disagree. Also if the PNG holds an id that is not in the JSON.
        """
        image = _read_image(record, self.image_format)
        inputs = T.AugInput(image)
        transforms = self.augmentations(inputs)
        sample: dict[str, Any] = {
            "file_name": record["file_name"],
            "image_id": record.get("image_id"),
            "height": image.shape[0],
            "width": image.shape[1],
        }
        # A copy: flips are views with negative strides, and resized images are read-only.
        sample["image"] = torch.from_numpy(np.array(inputs.image.transpose(2, 0, 1), order="C"))
        if self.make_targets is not None:
            id_map = read_record_ids(record, image.shape[:2])
            id_map = transform_ids(id_map, transforms)
            extents = segment_areas_and_boxes(id_map)
            _refuse_invented_ids(extents.ids, record)
            segments = with_extents(record["segments_info"], extents)
            sample.update(self._targets(id_map, segments, sample))
            if record.get(ANNOTATIONS) is not None and "instances" in sample:
                size = (sample["image"].shape[1], sample["image"].shape[2])
                sample["instances"] = augmented_instances(record[ANNOTATIONS], transforms, size)
        return sample

    def _targets(
        self, id_map: np.ndarray, segments: list[dict[str, Any]], sample: dict[str, Any]
    ) -> dict[str, Any]:
        """Call the injected function and refuse names that are taken."""
        assert self.make_targets is not None
        targets = self.make_targets(id_map, segments)
        taken = sorted(set(targets) & set(sample))
        if taken:
            raise ValueError(f"make_targets returned {taken}, which the mapper itself provides")
        return targets


def transform_ids(id_map: np.ndarray, transforms: T.Transform) -> np.ndarray:
    """Apply the geometry of an augmentation to an id map.

    Args:
        id_map: (H0, W0) integer ids, all 24 bits.
        transforms: what the augmentation did to the image.

    Returns:
        (H, W) int32 ids, each of them one of `id_map`. Pixels that a padding transform added are
        void, with whatever number it fills label maps (Detectron2's: 0 or 255).
    """
    # A fourth plane marks real pixels, with a number that no padding uses.
    mark = np.full((*id_map.shape, 1), _REAL_PIXEL, np.uint8)
    planes = np.concatenate([id_to_rgb(id_map), mark], axis=2)
    planes = np.ascontiguousarray(transforms.apply_segmentation(planes))
    moved = rgb_to_id(planes[:, :, :3])
    moved[planes[:, :, 3] != _REAL_PIXEL] = VOID_ID
    return moved


def _read_image(record: dict[str, Any], image_format: str) -> np.ndarray:
    """Read the (H, W, 3) uint8 image of a record, turned as its EXIF data says."""
    path = record["file_name"]
    size = (record["height"], record["width"]) if "height" in record else None
    try:
        image = read_image(path, size)
    except ImageSizeError as error:
        raise DataFileError(image_size_problem(record, error.size)) from error
    except (OSError, ValueError) as error:
        raise DataFileError(error_text(error)) from error
    # BGR is a view with negative strides, which torch does not take.
    return image if image_format == "RGB" else np.ascontiguousarray(image[:, :, ::-1])


def _refuse_invented_ids(ids: np.ndarray, record: dict[str, Any]) -> None:
    """Stop if an augmentation blended colours, and so made ids that no segment has."""
    unknown = unknown_ids(ids, record)
    if unknown:
        raise ValueError(
            f"an augmentation made ids {unknown[:5]} that image {record.get('image_id')} does not"
            " have: its apply_segmentation must pick pixels, not interpolate"
        )
