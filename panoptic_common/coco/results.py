"""Panoptic results of any images in COCO's format, for other programs to read.

The folder is a data set of its own: `register_panoptic` takes it, so predictions can serve as
truth: to correct them by hand or to train another model.

Source of the format: https://cocodataset.org/#format-results, "Panoptic Segmentation".

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_common.coco.segment_ids import update_segments, write_id_map
from panoptic_common.files import write_json


class CocoResults:
    """Panoptic predictions in COCO's format: `panoptic/<name>.png` and `panoptic.json`.

    Args:
        folder: where they go; made if missing.
        table: class table, in contiguous order.
    """

    def __init__(self, folder: Path, table: Sequence[dict]) -> None:
        self._folder = folder
        self._table = table
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        (folder / "panoptic").mkdir(parents=True, exist_ok=True)
        # Of an earlier run: it would vouch for PNGs of both if this one is stopped.
        (folder / "panoptic.json").unlink(missing_ok=True)

    def add(
        self,
        name: str,
        source: str,
        id_map: np.ndarray,
        segments_info: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write the PNG of one image and remember its entries.

        Args:
            name: of the PNG, without ending; unique.
            source: the image's file, as the JSON names it.
            id_map: (H, W) segment ids, 0 = void.
            segments_info: "id" and contiguous "category_id" of each segment, optionally "score".

        Raises:
            ValueError: a segment has no pixel in the map.
        """
        measured = update_segments(id_map, segments_info)
        if len(measured) < len(segments_info):
            present = {segment["id"] for segment in measured}
            absent = [s["id"] for s in segments_info if s["id"] not in present]
            raise ValueError(f"{name}: segment {absent[0]} is listed, but has no pixel in the map")
        segments = [coco_segment(segment, self._table) for segment in measured]
        number, file_name = len(self._images) + 1, f"{name}.png"
        write_id_map(self._folder / "panoptic" / file_name, id_map)
        height, width = id_map.shape
        self._images.append({"id": number, "file_name": source, "height": height, "width": width})
        self._annotations.append(
            {"image_id": number, "file_name": file_name, "segments_info": segments}
        )

    def write(self) -> Path:
        """Write the JSON of all images so far and return its path."""
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": [dict(entry) for entry in self._table],
        }
        path = self._folder / "panoptic.json"
        write_json(path, content)
        return path


def coco_segment(segment: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the JSON entry of a segment.

    Args:
        segment: "id", contiguous "category_id", "area", "bbox", and optionally "score".
        table: class table, in contiguous order.
    """
    entry = {
        "id": int(segment["id"]),
        "category_id": table[segment["category_id"]]["id"],
        "area": segment["area"],
        "bbox": segment["bbox"],
        "iscrowd": 0,
    }
    if "score" in segment:
        entry["score"] = round(float(segment["score"]), 4)
    return entry
