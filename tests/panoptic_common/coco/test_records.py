"""The strict reader: the records of a sound data set, and errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_factory import make_coco_panoptic

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.records import DataFileError, read_records, try_records
from panoptic_common.coco.segment_ids import write_id_map


@pytest.fixture
def tiny(tmp_path: Path) -> PanopticPaths:
    return make_coco_panoptic(tmp_path)


def _edit(paths: PanopticPaths, change: Callable[[dict[str, Any]], object]) -> None:
    path = Path(paths.panoptic_json)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_categories_become_contiguous_in_the_order_of_the_json(tiny: PanopticPaths) -> None:
    _edit(tiny, lambda data: data["annotations"].reverse())
    table, records = read_records(tiny)
    assert [entry["id"] for entry in table] == [1, 4, 7, 12, 90]
    assert [record["image_id"] for record in records] == [102, 101, 100]
    content = json.loads(Path(tiny.panoptic_json).read_text())
    for record, annotation in zip(records, content["annotations"], strict=True):
        for segment, listed in zip(
            record["segments_info"], annotation["segments_info"], strict=True
        ):
            entry = table[segment["category_id"]]
            assert entry["id"] == listed["category_id"]
            assert segment["isthing"] is bool(entry["isthing"])
            assert (segment["area"], segment["bbox"]) == (listed["area"], listed["bbox"])


def _break(data: dict[str, Any], key: str, index: int, **change: Any) -> None:
    data[key][index].update(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _break(d, "categories", 0, id=1), "category 1: the id occurs more than once"),
        (lambda d: _break(d, "images", 0, id=101), "image 101: the id occurs more than once"),
        (lambda d: _break(d, "images", 0, height=None), "image 100: 'height'"),
        (lambda d: _break(d, "images", 0, id=7), "image 100: annotated, but not in images"),
        (
            lambda d: _break(d, "annotations", 0, image_id=101),
            "image 101: annotated more than once",
        ),
        (
            lambda d: d["annotations"][1]["segments_info"][0].update(category_id=5),
            "image 101, segment 3: category 5 is not in categories",
        ),
        (
            lambda d: d["annotations"][1]["segments_info"][0].update(id=256),
            "image 101, segment 256: the id is listed more than once",
        ),
        (lambda d: d["annotations"].clear(), "no image is annotated"),
    ],
)
def test_wrong_json_is_refused_with_the_place(
    tiny: PanopticPaths, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _edit(tiny, change)
    with pytest.raises(ValueError, match=message) as raised:
        read_records(tiny)
    assert tiny.panoptic_json in str(raised.value)


@pytest.mark.parametrize("folder", ["images", "panoptic_png"])
def test_missing_files_are_counted_and_the_first_is_named(tiny: PanopticPaths, folder: str) -> None:
    files = sorted(Path(getattr(tiny, folder)).iterdir())
    files[1].unlink()
    files[2].unlink()
    with pytest.raises(FileNotFoundError) as raised:
        read_records(tiny)
    text = str(raised.value)
    assert text.startswith(f"2 files are missing, the first is {files[1]}")
    assert "expected:" in text and tiny.panoptic_json in text


def test_truncated_json_is_named(tiny: PanopticPaths) -> None:
    path = Path(tiny.panoptic_json)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="panoptic_tiny.json: damaged JSON"):
        read_records(tiny)


# ---- a first look into the files -----------------------------------------------------------------


def test_a_first_look_reads_a_few_images_over_the_whole_set(tmp_path: Path) -> None:
    """Of 17 images 8 are read, the first and every second after it: 0, 2, 4, 6, 8, 10, 12, 14."""
    paths = make_coco_panoptic(tmp_path, num_images=17)
    _, records = read_records(paths)
    pngs = [Path(record["pan_seg_file_name"]) for record in records]
    for number in (1, 15, 16):
        pngs[number].write_bytes(b"damaged")
    try_records(records)
    pngs[14].write_bytes(b"damaged")
    with pytest.raises(DataFileError, match=f"{pngs[14].name}: not a PNG file"):
        try_records(records)


def test_pngs_without_a_pixel_of_a_segment_are_refused_if_all_are_so(tiny: PanopticPaths) -> None:
    _, records = read_records(tiny)
    for record in records[1:]:
        write_id_map(record["pan_seg_file_name"], np.zeros((48, 64), np.int32))
    try_records(records)  # one of three has pixels
    try_records([{**record, "segments_info": []} for record in records[1:]])  # and lists nothing
    write_id_map(records[0]["pan_seg_file_name"], np.zeros((48, 64), np.int32))
    with pytest.raises(DataFileError, match="not one pixel .* as in all 3 PNGs"):
        try_records(records)


def test_the_sentence_of_a_file_survives_the_worker_of_a_loader() -> None:
    """torch makes the error anew, with the traceback of the worker before its words."""
    words = (
        "Caught DataFileError in worker 0.\nTraceback ...\nx.records.DataFileError: a.png is b\n"
    )
    assert str(DataFileError(words)) == "a.png is b" == str(DataFileError("a.png is b"))
