"""One image with its instances, from files as microscopists have them to COCO's panoptic form.

The background is one stuff segment, id 1; instances are the ids from 2 on, in the order of their
masks or labels.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.coco.image_reading import open_image, read_image
from panoptic_common.coco.instance_folders import InstanceSample
from panoptic_common.coco.instance_masks import (
    BoolMap,
    IntMap,
    is_one_in_pieces,
    merge_masks,
    read_label_image,
    read_mask,
)
from panoptic_common.coco.segment_ids import segment_areas_and_boxes
from panoptic_common.coco.splits import PreparedSample
from panoptic_common.coco.user_files import error_text

BACKGROUND, THING = 1, 2  # category ids

# Modes of more than 8 bits, which cameras of microscopes use only a part of.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def categories(thing: str) -> list[dict[str, Any]]:
    """Return the two categories; `thing` is the name of the instances' class."""
    background = {"id": BACKGROUND, "name": "background", "isthing": 0, "color": [40, 40, 60]}
    instance = {"id": THING, "name": thing, "isthing": 1, "color": [230, 120, 60]}
    return [
        {**background, "supercategory": "background"},
        {**instance, "supercategory": "instance"},
    ]


def prepare_sample(sample: InstanceSample, image_id: int) -> PreparedSample:
    """Read one sample; what is wrong with it becomes sentences, never an exception.

    Args:
        sample: the files.
        image_id: its id in the JSON.
    """
    result = PreparedSample(sample.name, sample.image, problems=list(sample.problems))
    file_name = sample.name + sample.image.suffix
    try:
        size = read_image(sample.image).shape[:2]  # decoded: damage inside shows now
        result.pixels = _eight_bits(sample.image)
        if result.pixels is not None:
            file_name = f"{sample.name}.png"
            result.notes.append(f"{sample.image}: stretched from its own range to 8 bits")
        labels = _merge_files(sample, size, result) if sample.labels is None else None
        if labels is None:
            assert sample.labels is not None
            labels = read_label_image(sample.labels, size)
    except (OSError, ValueError) as error:
        result.problems.append(error_text(error))
        return result
    if len(sample.files) == 2 and is_one_in_pieces(labels):
        result.one_in_pieces = sample.files[1]
    present, index = np.unique(labels, return_inverse=True)
    # Background is 1; the k-th label, whatever its number, is 1 + k.
    first = 0 if present[0] == 0 else 1
    id_map = (index.reshape(size) + 1 + first).astype(np.int32)
    result.num_instances = len(present) - (present[0] == 0)
    if not result.num_instances:
        result.notes.append(f"{sample.image}: no instance in it")
    result.describe(image_id, id_map, _segments(id_map), file_name)
    return result


def _merge_files(sample: InstanceSample, size: tuple[int, int], result: PreparedSample) -> IntMap:
    """Merge the mask files of a sample, and note what is wrong with any."""

    def masks() -> Iterator[tuple[str, BoolMap]]:
        for path in sample.masks:
            try:
                mask = read_mask(path, size)
            except (OSError, ValueError) as error:
                result.problems.append(error_text(error))
                continue
            yield str(path), mask

    merged = merge_masks(masks(), size)
    result.overlap_pixels = sum(merged.overlaps.values())
    for name, pixels in merged.overlaps.items():
        if name not in merged.hidden:
            result.notes.append(f"{name}: {pixels} pixels belong to earlier masks")
    result.notes += [f"{name}: the mask is empty" for name in merged.empty]
    result.problems += [f"{name}: earlier masks cover all of it" for name in merged.hidden]
    return merged.labels


def _segments(id_map: IntMap) -> list[dict[str, Any]]:
    """List the segments of a prepared map with their areas and boxes."""
    extents = segment_areas_and_boxes(id_map)
    return [
        {
            "id": segment_id,
            "category_id": BACKGROUND if segment_id == 1 else THING,
            "iscrowd": 0,
            "area": area,
            "bbox": box,
        }
        for segment_id, area, box in zip(
            extents.ids.tolist(), extents.areas.tolist(), extents.boxes.tolist(), strict=True
        )
    ]


def _eight_bits(path: Path) -> npt.NDArray[np.uint8] | None:
    """Stretch an image of more than 8 bits from its least and greatest value to 0 and 255.

    The reader of images divides 16 bits by 257, so that a camera of 12 bits, 0 to 4095, would keep
    16 grey levels.

    Returns:
        (H, W) uint8, or None for an image of 8 bits.

    Raises:
        ValueError: its values are not finite.
    """

    def decode(image: Image.Image) -> npt.NDArray[np.float64] | None:
        return np.asarray(image).astype(np.float64) if image.mode in _DEEP_MODES else None

    values = open_image(path, decode)
    if values is None or (values.max(initial=0) <= 255 and values.min(initial=0) >= 0):
        return None  # 8-bit numbers in a wide type are kept as they are
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: some values of the image are not finite")
    low, high = float(values.min()), float(values.max())
    stretched = (values - low) * (255 / max(high - low, 1e-12))
    return (stretched + 0.5).clip(0, 255).astype(np.uint8)
