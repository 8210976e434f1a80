"""One small scene as COCO, labelme and CVAT write it: two cars, one in two parts, and a road.

The image is 12 wide and 10 high. Car A covers x 1-5, y 2-6; car B covers x 4-8, y 2-6 and, behind
a post, x 10-12, y 2-6. Road is everything below y 5. A crowd covers x 0-2, y 8-10.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (10, 12)


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """The corners of a rectangle as a polygon."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


A, B, POST = rectangle(1, 2, 5, 6), rectangle(4, 2, 8, 6), rectangle(10, 2, 12, 6)
ROAD = rectangle(0, 5, 12, 10)
CROWD = rectangle(0, 8, 2, 10)


def expected(cars_on_top: str = "B") -> np.ndarray:
    """(H, W) of letters: what each pixel is; A and B overlap at x 4, y 2-6."""
    letters = np.full(SIZE, ".")
    letters[5:] = "r"
    for name in ("B", "A") if cars_on_top == "A" else ("A", "B"):
        letters[2:6, 1:5] = "A" if name == "A" else letters[2:6, 1:5]
        if name == "B":
            letters[2:6, 4:8] = letters[2:6, 10:12] = "B"
    return letters


def write_image(folder: Path, name: str = "one.png", size: tuple[int, int] = SIZE) -> None:
    """Write an image of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(folder / name)


def write_labelme(folder: Path, name: str = "one", shapes: list[dict] | None = None) -> None:
    """A folder of labelme with one image; the post's part of B is a mask, the rest polygons."""
    write_image(folder, f"{name}.png")
    buffer = io.BytesIO()
    Image.fromarray(np.ones((4, 2), bool)).save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    if shapes is None:
        shapes = [
            {"label": "road", "points": [[0, 5], [12, 10]], "shape_type": "rectangle"},
            {"label": "car", "points": A, "group_id": None, "shape_type": "polygon"},
            {"label": "car", "points": B, "group_id": 4},
            {
                "label": "car",
                "group_id": 4,
                "points": [[10, 2], [11, 5]],
                "shape_type": "mask",
                "mask": mask,
            },
        ]
    content = {"shapes": shapes, "imagePath": f"..\\{folder.name}\\{name}.png", "imageData": None}
    content |= {"imageHeight": 10, "imageWidth": 12}
    (folder / f"{name}.json").write_text(json.dumps(content))


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><labels>
<label><name>car</name></label><label><name>road</name></label></labels></job></meta>
<image id="0" name="one.png" width="12" height="10">
  <polygon label="car" points="4.0,2.0;8.0,2.0;8.0,6.0;4.0,6.0" z_order="2" group_id="4"/>
  <mask label="car" rle="0, 8" left="10" top="2" width="2" height="4" z_order="2" group_id="4"/>
  <box label="car" xtl="1" ytl="2" xbr="5" ybr="6" z_order="1" group_id="0"/>
  <box label="road" xtl="0" ytl="5" xbr="12" ybr="10" z_order="9"/>
  {more}<tag label="night"/>
</image></annotations>"""


def write_cvat(folder: Path, more: str = "") -> Path:
    """An export with one image; z_order tells what lies on top, the file's order does not."""
    write_image(folder / "images")
    path = folder / "annotations.xml"
    path.write_text(CVAT.replace("{more}", more))
    return path


def write_coco(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """An instances JSON with cars alone, and a folder of semantic PNGs with the road, number 3."""
    write_image(folder / "images")
    semantic = np.zeros(SIZE, np.uint8)
    semantic[5:] = 3
    (folder / "semantic").mkdir(exist_ok=True)
    Image.fromarray(semantic).save(folder / "semantic/one.png")

    def flat(points: list[list[int]]) -> list[int]:
        return [value for point in points for value in point]

    annotations = [
        {"id": 2, "segmentation": [flat(B), flat(POST)], "area": 24},
        {"id": 1, "segmentation": [flat(A)], "area": 16},
    ]
    content = {
        "images": [{"id": 7, "file_name": "one.png", "height": 10, "width": 12}],
        "annotations": [{**a, "image_id": 7, "category_id": 5} for a in annotations],
        "categories": [{"id": 5, "name": "car"}],
        **(changes or {}),
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path
