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


def register_two_things(folder: Path) -> Iterator[list[str]]:
    """Write the set; give the words that register it, and forget it afterwards."""
    images, annotations = [], []
    for name in ("images", "png"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for number in (1, 2):
        id_map = np.full((48, 64), 1, np.int32)
        id_map[24:] = 2
        id_map[8:32, 8:24], id_map[8:32, 24:40] = 3, 4
        classes = {1: 0, 2: 2, 3: 1, 4: 1}
        listed = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in classes.items()]
        pixels = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        write_id_map(folder / "png" / f"{number}.png", id_map)
        images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
        annotations.append(
            {
                "image_id": number,
                "file_name": f"{number}.png",
                "segments_info": update_segments(id_map, listed),
            }
        )
    content = {"images": images, "annotations": annotations, "categories": TABLE}
    (folder / "truth.json").write_text(json.dumps(content))
    yield ["--register", NAME, *(str(folder / name) for name in ("images", "truth.json", "png"))]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)
