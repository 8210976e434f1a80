"""Samples of the mapper: a target function that shows what it gets, and their check by masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.mapper import PanopticDatasetMapper


def keep_targets(id_map: np.ndarray, segments_info: list[dict[str, Any]]) -> dict[str, Any]:
    """A target function that shows what it was given."""
    return {"id_map": id_map, "segments": segments_info}


class FixedCrop(T.Augmentation):
    """Crops a fixed window: top, left, height, width."""

    def __init__(self, *window: int) -> None:
        super().__init__()
        self.window = window

    def __call__(self, inputs: T.AugInput) -> T.Transform:
        top, left, height, width = self.window
        transform = T.CropTransform(left, top, width, height)
        inputs.transform(transform)
        return transform


def map_record(
    record: dict[str, Any], *augmentations: T.Augmentation, **options: Any
) -> dict[str, Any]:
    options = {"is_train": True, "make_targets": keep_targets, "image_format": "RGB", **options}
    return PanopticDatasetMapper(augmentations=augmentations, **options)(record)


def read_files(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(Image.open(record["file_name"])), read_id_map(record["pan_seg_file_name"])


def check_segments(sample: dict[str, Any], record: dict[str, Any]) -> None:
    """Compare the segments with masks of the map, one at a time."""
    id_map = sample["id_map"]
    listed = {segment["id"]: segment for segment in record["segments_info"]}
    present = [i for i in listed if (id_map == i).any()]
    assert [segment["id"] for segment in sample["segments"]] == present
    assert set(np.unique(id_map)) - {0} == set(present)
    for segment in sample["segments"]:
        rows, columns = np.nonzero(id_map == segment["id"])
        assert segment["area"] == len(rows)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert segment["bbox"] == [columns.min(), rows.min(), width, height]
        for key in ("category_id", "isthing", "iscrowd"):
            assert segment[key] == listed[segment["id"]][key]
