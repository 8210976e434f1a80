"""The data-set check: sound data is called sound, and every planted fault is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_factory import make_cityscapes, make_coco_panoptic
from PIL import Image

from panoptic_common.coco import check as dataset_check
from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.segment_ids import read_id_map, write_id_map


@pytest.fixture
def paths(tmp_path: Path) -> PanopticPaths:
    return make_coco_panoptic(tmp_path)


def _edit(paths: PanopticPaths, change: Callable[[dict[str, Any]], object]) -> None:
    path = Path(paths.panoptic_json)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _segment(data: dict[str, Any], segment_id: int, image: int = 0) -> dict[str, Any]:
    segments = data["annotations"][image]["segments_info"]
    return next(segment for segment in segments if segment["id"] == segment_id)


def _png(paths: PanopticPaths, number: int = 0) -> Path:
    return Path(paths.panoptic_png) / f"{100 + number:012d}.png"


def _image(paths: PanopticPaths, number: int = 0) -> Path:
    return Path(paths.images) / f"{100 + number:012d}.jpg"


def test_sound_data_and_its_counts(paths: PanopticPaths) -> None:
    report = check_dataset(paths)
    assert report.problems == [] and report.notes == []
    names = [entry["name"] for entry in report.class_table]
    assert names == ["person", "road", "car", "bus", "sky"]
    assert report.num_images == 3
    assert report.segments.tolist() == [3, 3, 6, 3, 3]
    assert report.crowds.tolist() == [3, 0, 0, 0, 0]
    assert report.pixels.sum() + report.void_pixels == 3 * 48 * 64
    maps = [read_id_map(_png(paths, number)) for number in range(3)]
    assert report.void_pixels == sum((id_map == 0).sum() for id_map in maps)
    persons = sum(np.isin(id_map, [16777215, 777]).sum() for id_map in maps)
    assert report.pixels[0] == persons


def test_several_processes_find_the_same_in_the_same_order(
    paths: PanopticPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_check, "_CHUNK", 1)  # otherwise three images are one chunk
    _edit(paths, lambda data: _segment(data, 3, image=2).update(area=1))
    write_id_map(_png(paths, 1), np.zeros((48, 64), np.int32))
    progress: list[tuple[int, int]] = []
    alone = check_dataset(paths, progress=lambda *done: progress.append(done))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    together = check_dataset(paths, workers=2)
    assert together.problems == alone.problems
    assert len(alone.problems) == 8
    assert together.pixels.tolist() == alone.pixels.tolist()


def test_real_coco_images_are_sound(shared_coco: Path) -> None:
    coco = Path(shared_coco) / "coco"
    report = check_dataset(
        PanopticPaths(
            str(coco / "val2017"),
            str(coco / "annotations" / "panoptic_val2017.json"),
            str(coco / "panoptic_val2017"),
        )
    )
    assert report.problems == []
    assert report.num_images == 2 and len(report.class_table) == 133
    assert report.crowds.sum() == 3
    assert report.pixels.sum() + report.void_pixels == 640 * 427 + 640 * 360


def test_cityscapes_form_is_sound(tmp_path: Path) -> None:
    tree = make_cityscapes(tmp_path, splits=("val",))
    truth = tree / "gtFine" / "cityscapes_panoptic_val"
    images = str(tree / "leftImg8bit" / "val")
    report = check_dataset(PanopticPaths(images, f"{truth}.json", str(truth)))
    assert report.problems == [] and report.num_images == 4


def _recolour(old: int, new: int) -> Callable[[PanopticPaths], None]:
    def change(paths: PanopticPaths) -> None:
        id_map = read_id_map(_png(paths))
        id_map[id_map == old] = new
        write_id_map(_png(paths), id_map)

    return change


def _json(change: Callable[[dict[str, Any]], object]) -> Callable[[PanopticPaths], None]:
    return lambda paths: _edit(paths, change)


FAULTS: dict[str, tuple[Callable[[PanopticPaths], object], list[list[str]]]] = {
    "id in the PNG only": (
        _json(lambda d: d["annotations"][0]["segments_info"].remove(_segment(d, 256))),
        [["image 100", "segment 256", "pixels in the PNG, but not listed"]],
    ),
    "id in the JSON only": (
        _json(lambda d: _segment(d, 3).update(id=4)),
        [
            ["image 100", "segment 4", "no pixel of the PNG"],
            ["image 100", "segment 3", "not listed"],
        ],
    ),
    "wrong pixels": (
        _recolour(12345678, 65536),
        [
            ["image 100", "segment 65536", "area"],
            ["image 100", "segment 12345678", "no pixel"],
        ],
    ),
    "area": (
        _json(lambda d: _segment(d, 12345678).update(area=2)),
        [["image 100", "segment 12345678", "area 2 listed, 1 pixels"]],
    ),
    "bbox": (
        _json(lambda d: _segment(d, 12345678).update(bbox=[61, 1, 2, 1])),
        [["image 100", "segment 12345678", "bbox [61, 1, 2, 1] listed, [61, 1, 1, 1]"]],
    ),
    "id listed twice": (
        _json(lambda d: d["annotations"][0]["segments_info"].append(_segment(d, 256))),
        [["image 100", "segment 256", "listed more than once"]],
    ),
    "unknown category": (
        _json(lambda d: _segment(d, 256).update(category_id=99)),
        [["image 100", "segment 256", "category 99 is not in categories"]],
    ),
    "no id": (
        _json(lambda d: _segment(d, 256).pop("id")),
        [["image 100", "segment at position", "'id'"], ["segment 256", "not listed"]],
    ),
    "stuff class twice": (
        _json(lambda d: _segment(d, 65536).update(category_id=4)),
        [["image 100", "segment 65536", "second segment of stuff category 4"]],
    ),
    "isthing missing": (
        _json(lambda d: d["categories"][0].pop("isthing")),
        [["category 7", "'isthing' is missing"]],
    ),
    "category id twice": (
        _json(lambda d: d["categories"][1].update(id=12)),
        # person, id 1, is gone; its two segments in each of the three images have no category
        [["category 12", "more than once"], *[["category 1 is not in categories"]] * 6],
    ),
    "image id twice": (
        _json(lambda d: d["images"].append(d["images"][0])),
        [["image 100", "more than once in images[]"]],
    ),
    "annotated twice": (
        _json(lambda d: d["annotations"].append(d["annotations"][0])),
        [["image 100", "annotated more than once"]],
    ),
    "image not listed": (
        _json(lambda d: d["images"].pop(0)),
        [["image 100", "annotated, but not in images[]"]],
    ),
    "PNG of another image": (
        _json(lambda d: d["annotations"][1].update(file_name="000000000100.png")),
        [["image 101", "000000000100.png is that of image 100 too"]],
    ),
    "size in the JSON": (
        _json(lambda d: d["images"][0].update(width=65)),
        [
            ["image 100", "000000000100.jpg has 48 x 64", "48 x 65"],
            ["image 100", "000000000100.png has 48 x 64", "48 x 65"],
        ],
    ),
    "size of the image": (
        lambda paths: Image.new("RGB", (32, 24)).save(_image(paths)),
        [["image 100", ".jpg has 24 x 32", "48 x 64"]],
    ),
    "missing image": (
        lambda paths: _image(paths).unlink(),
        [["image 100", "no image file", "000000000100.jpg"]],
    ),
    "missing PNG": (
        lambda paths: _png(paths).unlink(),
        [["image 100", "no panoptic PNG", "000000000100.png"]],
    ),
    "damaged PNG": (
        lambda paths: _png(paths).write_bytes(_png(paths).read_bytes()[:150]),
        [["image 100", "000000000100.png", "damaged"]],
    ),
    "PNG in grey": (
        lambda paths: Image.new("L", (64, 48)).save(_png(paths)),
        [["image 100", "000000000100.png", "8-bit RGB"]],
    ),
    "damaged image": (
        lambda paths: _image(paths).write_bytes(_image(paths).read_bytes()[:-300]),
        [["image 100", "damaged image", "000000000100.jpg"]],
    ),
    "not one pixel labelled": (
        lambda paths: [
            _json(lambda d: [a.update(segments_info=[]) for a in d["annotations"]])(paths),
            *[write_id_map(_png(paths, k), np.zeros((48, 64), np.int32)) for k in range(3)],
        ],
        [["not one pixel of the data set is labelled"]],
    ),
    "category name twice": (
        _json(lambda d: d["categories"][0].update(name="bus")),
        [["category 12", "the name 'bus' occurs more than once"]],
    ),
    "empty": (
        _json(lambda d: (d["annotations"].clear(), d["images"].clear())),
        [["annotations: the list is empty"]],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_named(paths: PanopticPaths, fault: str) -> None:
    plant, expected = FAULTS[fault]
    plant(paths)
    problems = check_dataset(paths).problems
    for words in expected:
        assert any(all(word in problem for word in words) for problem in problems), problems
    if fault not in ("PNG of another image", "wrong pixels"):  # these show in several segments
        assert len(problems) == len(expected), problems


def test_a_file_of_nonsense_is_reported_not_raised(paths: PanopticPaths) -> None:
    """Whatever single value is replaced by nonsense, the check ends with a list."""
    original = Path(paths.panoptic_json).read_text()
    nonsense: list[Any] = [None, "x", -1, [], {}]
    # The image is found by its PNG's name, any name will do, and a palette stands in.
    harmless = [("images", "file_name", "x"), ("categories", "name", "x")]
    harmless += [("categories", "color", None)]
    for key in ("images", "annotations", "categories"):
        for field in json.loads(original)[key][0]:
            for value in nonsense:
                data = json.loads(original)
                data[key][0][field] = value
                Path(paths.panoptic_json).write_text(json.dumps(data))
                if (key, field, value) not in harmless:
                    assert check_dataset(paths).problems, (key, field, value)
    for field in json.loads(original)["annotations"][0]["segments_info"][0]:
        for value in nonsense:
            data = json.loads(original)
            data["annotations"][0]["segments_info"][0][field] = value
            Path(paths.panoptic_json).write_text(json.dumps(data))
            derived = (None, []) if field == "bbox" else (None,)
            if field not in ("area", "bbox", "iscrowd") or value not in derived:
                assert check_dataset(paths).problems, (field, value)


def test_headers_only_leaves_images_undecoded(paths: PanopticPaths) -> None:
    FAULTS["damaged image"][0](paths)
    assert check_dataset(paths, decode_images=False).problems == []
    Image.new("RGB", (32, 24)).save(_image(paths, 1))
    assert len(check_dataset(paths, decode_images=False).problems) == 1


def test_an_image_turned_by_exif_has_the_turned_size(paths: PanopticPaths) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (48, 64)).save(_image(paths), exif=exif)
    assert check_dataset(paths).problems == []


def test_leftovers_are_notes(paths: PanopticPaths) -> None:
    _edit(paths, lambda data: data["annotations"].pop())
    report = check_dataset(paths)
    assert report.problems == []
    assert report.notes[0].startswith("1 entries of images[] have no annotation")
    assert report.notes[1].startswith("1 PNGs in")
