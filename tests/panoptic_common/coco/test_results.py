"""Results in COCO's form are a data set: the strict reader reads them back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.records import read_records
from panoptic_common.coco.results import CocoResults
from panoptic_common.coco.segment_ids import read_id_map

TABLE = [
    {"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 26, "name": "car", "isthing": 1, "color": [0, 0, 142]},
]
ID_MAP = np.array([[0, 3, 3, 3], [0, 3, 70000, 70000]], np.int32)


def test_the_folder_is_a_sound_data_set(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (4, 2)).save(images / "a.png")
    results = CocoResults(tmp_path / "out", TABLE)
    segments = [{"id": 3, "category_id": 0}, {"id": 70000, "category_id": 1, "score": 0.87654321}]
    results.add("frame", "a.png", ID_MAP, segments)
    path = results.write()
    paths = PanopticPaths(str(images), str(path), str(tmp_path / "out" / "panoptic"))
    assert check_dataset(paths).problems == []
    table, (record,) = read_records(paths)
    assert table == TABLE
    np.testing.assert_array_equal(read_id_map(record["pan_seg_file_name"]), ID_MAP)
    # By hand: id 3 covers columns 1 to 3 of row 0 and column 1 of row 1, 70000 the rest of row 1.
    assert [(s["id"], s["area"], s["bbox"]) for s in record["segments_info"]] == [
        (3, 4, [1, 0, 3, 2]),
        (70000, 2, [2, 1, 2, 1]),
    ]
    content = json.loads(path.read_text())
    listed = content["annotations"][0]["segments_info"]
    assert [segment.get("score") for segment in listed] == [None, 0.8765]
    assert [segment["category_id"] for segment in listed] == [7, 26]  # the data set's own ids


def test_images_are_numbered_in_the_order_of_adding(tmp_path: Path) -> None:
    results = CocoResults(tmp_path, TABLE)
    for name in ("b", "a"):
        results.add(name, f"{name}.jpg", np.zeros((1, 1), np.int32), [])
    content = json.loads(results.write().read_text())
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [
        (1, "b.jpg"),
        (2, "a.jpg"),
    ]
    assert [a["file_name"] for a in content["annotations"]] == ["b.png", "a.png"]


def test_a_segment_without_pixels_is_refused(tmp_path: Path) -> None:
    results = CocoResults(tmp_path, TABLE)
    with pytest.raises(ValueError, match="segment 5"):
        results.add("a", "a.png", ID_MAP, [{"id": 5, "category_id": 0}])
