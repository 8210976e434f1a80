"""A data set of two images, each with two halves of stuff and two touching things."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cops_factory import IS_THING
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_common.coco.segment_ids import update_segments, write_id_map

NAME = "tiny_nuclei"
TABLE = [
    {"id": i, "name": f"class {i}", "isthing": int(f), "color": [9, 9, 9]}
    for i, f in enumerate(IS_THING)
]


CLASSES = {1: 0, 2: 2, 3: 1, 4: 1}  # of each segment


def id_map_of_two_things() -> np.ndarray:
    """(48, 64) ids: stuff 1 above stuff 2, and the things 3 and 4 side by side."""
    id_map = np.full((48, 64), 1, np.int32)
    id_map[24:] = 2
    id_map[8:32, 8:24], id_map[8:32, 24:40] = 3, 4
    return id_map


def segments_of_two_things() -> list[dict]:
    """The segments of that map."""
    return [{"id": i, "category_id": c, "iscrowd": 0} for i, c in CLASSES.items()]


def write_two_things(folder: Path) -> list[str]:
    """Write the set; returns the words that register it."""
    images, annotations = [], []
    for name in ("images", "png"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for number in (1, 2):
        id_map = id_map_of_two_things()
        pixels = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        write_id_map(folder / "png" / f"{number}.png", id_map)
        images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
        annotations.append(
            {
                "image_id": number,
                "file_name": f"{number}.png",
                "segments_info": update_segments(id_map, segments_of_two_things()),
            }
        )
    content = {"images": images, "annotations": annotations, "categories": TABLE}
    (folder / "truth.json").write_text(json.dumps(content))
    return two_things_options(folder)


def two_things_options(folder: Path) -> list[str]:
    """The words that register the set in a folder."""
    return ["--register", NAME, *(str(folder / name) for name in ("images", "truth.json", "png"))]


def forget_two_things() -> None:
    """Free the name for the next test."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def register_two_things(folder: Path) -> Iterator[list[str]]:
    """Write the set; give the words that register it, and forget it afterwards."""
    yield write_two_things(folder)
    forget_two_things()
