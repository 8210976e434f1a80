"""tools/prepare_dataset.py: one scene from four programs, and what is wrong with such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drawn_annotations as drawn
import numpy as np
import pytest

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.coco.splits import PreparedSample
from panoptic_tools import prepare_dataset


def letters(out: Path, split: str = "train") -> np.ndarray:
    """(H, W) of ".", "r" for road, "A", "B" for cars, by where they are."""
    data = json.loads((out / f"panoptic_{split}.json").read_text())
    names = {entry["id"]: entry["name"] for entry in data["categories"]}
    id_map = read_id_map(out / f"panoptic_{split}" / "one.png")
    result = np.full(id_map.shape, ".")
    for segment in data["annotations"][0]["segments_info"]:
        is_road = names[segment["category_id"]] == "road"
        result[id_map == segment["id"]] = "r" if is_road else "B" if segment["bbox"][2] > 4 else "A"
    return result


def check(out: Path, split: str = "train") -> None:
    """What is written must be what training accepts."""
    paths = [str(out / split), str(out / f"panoptic_{split}.json"), str(out / f"panoptic_{split}")]
    assert check_dataset(PanopticPaths(*paths)).problems == []


def words_of(kind: str, root: Path) -> list[str]:
    """Write the scene as a program does; returns the words that prepare it."""
    if kind == "labelme":
        drawn.write_labelme(root / "raw")
        return ["labelme", str(root / "raw"), "--stuff", "road"]
    if kind == "cvat":
        path = drawn.write_cvat(root / "raw")
        return ["cvat", str(path), "--images", str(root / "raw/images"), "--stuff", "road"]
    path = drawn.write_coco(root / "raw")
    semantic = ["--semantic", str(root / "raw/semantic"), "--values", "road=3"]
    return ["coco", str(path), "--images", str(root / "raw/images"), *semantic]


@pytest.mark.parametrize(("kind", "on_top"), [("labelme", "B"), ("cvat", "B"), ("coco", "A")])
def test_the_scene_is_what_was_drawn(tmp_path, capsys, kind, on_top):
    """The later car lies on top, or in COCO the smaller one: 16 pixels against 24."""
    out = tmp_path / "out"
    assert prepare_dataset.main([*words_of(kind, tmp_path), "--out", str(out)]) == 0
    np.testing.assert_array_equal(letters(out), drawn.expected(on_top))
    check(out)
    data = json.loads((out / "panoptic_train.json").read_text())
    kinds = {entry["name"]: entry["isthing"] for entry in data["categories"]}
    assert kinds == {"car": 1, "road": 0}
    said = capsys.readouterr().out
    # x 4, y 2 to 6: the 4 pixels that both cars claim.
    assert "1 images with 2 instances; 4 pixels were claimed more than once; 0 problems" in said
    assert "things: car\nstuff: road\n" in said
    assert f"check: panoptic-check out_train --images {out / 'train'} --json" in said
    place = out / "panoptic_train"
    assert f"use: --register out_train {out / 'train'} {place}.json {place}\n" in said


def test_label_images_are_those_of_prepare_nuclei(tmp_path):
    from PIL import Image

    drawn.write_image(tmp_path / "raw/images")
    (tmp_path / "raw/labels").mkdir()
    labels = np.zeros(drawn.SIZE, np.uint8)
    labels[2:4, 3:6] = 9
    Image.fromarray(labels).save(tmp_path / "raw/labels/one.png")
    out = tmp_path / "out"
    words = ["labels", str(tmp_path / "raw"), "--things", "cell", "--out", str(out)]
    assert prepare_dataset.main(words) == 0
    check(out)
    id_map = read_id_map(out / "panoptic_train/one.png")
    np.testing.assert_array_equal(id_map, np.where(labels == 9, 2, 1))


def test_crowds_lie_below_other_things(tmp_path):
    crowd = {"counts": [0, 120], "size": [10, 12]}  # all of the image
    annotations = [
        {"image_id": 7, "category_id": 5, "segmentation": crowd, "iscrowd": 1, "area": 1},
        {"image_id": 7, "category_id": 5, "bbox": [1, 2, 4, 4]},
    ]
    path = drawn.write_coco(tmp_path / "raw", {"annotations": annotations})
    out = tmp_path / "out"
    words = ["coco", str(path), "--images", str(tmp_path / "raw/images"), "--out", str(out)]
    assert prepare_dataset.main(words) == 0
    check(out)
    segments = json.loads((out / "panoptic_train.json").read_text())["annotations"][0]
    areas = {segment["iscrowd"]: segment["area"] for segment in segments["segments_info"]}
    assert areas == {1: 120 - 16, 0: 16}


def test_fixed_classes_are_the_same_in_every_split(tmp_path):
    """The validation images hold no car; its number and that of the road must not change."""
    out = tmp_path / "out"
    kinds = ["--things", "car", "bus", "--stuff", "road"]
    drawn.write_labelme(tmp_path / "a")
    drawn.write_labelme(
        tmp_path / "b", "one", [{"label": "road", "points": drawn.ROAD, "shape_type": "polygon"}]
    )
    for folder, split in (("a", "train"), ("b", "val")):
        words = ["labelme", str(tmp_path / folder), "--split", split, "--out", str(out), *kinds]
        assert prepare_dataset.main(words) == 0
        check(out, split)
    train, val = (json.loads((out / f"panoptic_{s}.json").read_text()) for s in ("train", "val"))
    assert train["categories"] == val["categories"]
    assert [entry["name"] for entry in val["categories"]] == ["car", "bus", "road"]


def test_ignored_labels_become_void(tmp_path):
    out = tmp_path / "out"
    words = words_of("labelme", tmp_path)[:2]
    assert prepare_dataset.main([*words, "--ignore", "road", "--out", str(out)]) == 0
    assert (letters(out)[6:] == ".").all()


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"label": "car", "points": [[1, 1], [2, 2]], "shape_type": "line"}, "a line has no area"),
        ({"label": "car", "points": [[1, 1], [2, 2]]}, "a polygon of 2 points has no area"),
        ({"label": "car", "points": [[1, 1]], "shape_type": "mask", "mask": "?"}, "is damaged"),
        ({"points": drawn.A, "shape_type": "polygon"}, "is no region"),
    ],
)
def test_a_shape_that_cannot_be_used_leaves_its_image_out(tmp_path, capsys, shape, sentence):
    """Its thing would be taught to be background; --keep-incomplete takes the rest."""
    good = {"label": "car", "points": drawn.A, "shape_type": "polygon"}
    drawn.write_labelme(tmp_path / "raw", "one", [good, shape])
    drawn.write_labelme(tmp_path / "raw", "two", [good])
    words = ["labelme", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert prepare_dataset.main(words) == 1
    said = capsys.readouterr().out
    assert sentence in said and "shape 2" in said and "one.png: left out" in said
    assert prepare_dataset.main([*words, "--keep-incomplete", "--force"]) == 1
    assert "2 images with 2 instances" in capsys.readouterr().out
    check(tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ('<mask label="car" rle="1,2" left="0" top="0" width="2" height="2"/>', "do not cover"),
        ('<mask label="car" rle="4" left="11" top="0" width="2" height="2"/>', "within the image"),
        ('<polyline label="car" points="1,1;2,2"/>', "a <polyline> has no area"),
        ('<box label="car" xtl="1"/>', "it has no 'ytl'"),
        ('<box label="car" xtl="a" ytl="1" xbr="2" ybr="2"/>', "are no numbers"),
        ('<polygon label="car" points="1,1;2"/>', "no pairs of numbers"),
    ],
)
def test_faults_of_a_cvat_shape_are_named(tmp_path, capsys, more, sentence):
    path = drawn.write_cvat(tmp_path / "raw", more)
    words = ["cvat", str(path), "--images", str(tmp_path / "raw/images")]
    assert prepare_dataset.main([*words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert sentence in said.out and "no image could be prepared" in said.err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<annotations><track/></annotations>", "holds tracks of a video"),
        ("<annotations/>", "holds no image"),
        ("<html/>", "its root is <html>"),
        ("<annotations>", "damaged XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "declares entities"),
    ],
)
def test_another_xml_is_refused(tmp_path, capsys, text, sentence):
    (tmp_path / "a.xml").write_text(text)
    words = ["cvat", str(tmp_path / "a.xml"), "--images", str(tmp_path)]
    assert prepare_dataset.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": [{"id": 7, "file_name": "no.png"}]}, "there is no image"),
        ({"images": [{"id": 7, "file_name": "one.png", "height": 12, "width": 10}]}, "are for"),
        ({"categories": [{"id": 6, "name": "car"}]}, "unknown category_id 5"),
        ({"annotations": [{"image_id": 7, "category_id": 5}]}, "neither segmentation nor box"),
    ],
)
def test_faults_of_a_coco_json_are_named(tmp_path, capsys, changes, sentence):
    path = drawn.write_coco(tmp_path / "raw", changes)
    words = ["coco", str(path), "--images", str(tmp_path / "raw/images")]
    assert prepare_dataset.main([*words, "--out", str(tmp_path / "out")]) in (1, 2)
    assert sentence in capsys.readouterr().out


def test_a_panoptic_json_is_told_so(tmp_path, capsys):
    path = drawn.write_coco(tmp_path / "raw", {"annotations": [{"segments_info": []}]})
    words = ["coco", str(path), "--images", str(tmp_path / "raw/images")]
    assert prepare_dataset.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "is a panoptic JSON already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--stuff", "raod"], "no region is called 'raod'; the labels are: car, road"),
        (["--stuff", "road", "--ignore", "road"], "'road' is named twice"),
        (["--things", "car"], "the label 'road' is neither thing nor stuff"),
        (["--ignore", "road", "car"], "no class is left"),
    ],
)
def test_classes_that_do_not_fit_are_refused(tmp_path, capsys, words, sentence):
    source = words_of("labelme", tmp_path)[:2]
    assert prepare_dataset.main([*source, *words, "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["coco", "X"], "coco needs --images"),
        (["labelme", ".", "--images", "."], "--images is for coco and cvat"),
        (["coco", "X", "--images", ".", "--semantic", "."], "belong together"),
        (["labels", "."], "name it by --things"),
        (["labelme", ".", "--val-share", "1"], "less than 1"),
        (["labelme", ".", "--split", "a/b"], "plain name"),
        (["labelme", ".", "--split", ".."], "plain name"),
        (["labelme", ".", "--split", ""], "plain name"),
        (["cvat", "nowhere.xml", "--images", "."], "there is no file nowhere.xml"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit) as end:
        prepare_dataset.main([*words, "--out", str(tmp_path / "out")])
    assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_two_images_of_one_name_and_values_that_are_none(tmp_path, capsys):
    images = [{"id": 7, "file_name": "one.png"}, {"id": 8, "file_name": "one.jpg"}]
    path = drawn.write_coco(tmp_path / "raw", {"images": images})
    base = ["coco", str(path), "--images", str(tmp_path / "raw/images")]
    base += ["--out", str(tmp_path / "out")]
    assert prepare_dataset.main(base) == 2
    assert "two images are called one" in capsys.readouterr().err
    semantic = ["--semantic", str(tmp_path / "raw/semantic"), "--values", "road"]
    assert prepare_dataset.main([*base, *semantic]) == 2
    assert "'road' is not NAME=NUMBER" in capsys.readouterr().err


def coco_of(root: Path, **changes: Any) -> tuple[list[str], Path]:
    """Write the scene as COCO with other entries; returns the words that prepare it, and OUT."""
    path = drawn.write_coco(root / "raw", changes)
    words = ["coco", str(path), "--images", str(root / "raw/images"), "--out", str(root / "out")]
    return words, root / "out"


@pytest.mark.parametrize("how", ["absolute", "climbing"])
def test_names_of_images_never_lead_out_of_the_data_set(tmp_path, how):
    """An absolute path joined to a folder is itself: PNGs were written beside the root."""
    inside = tmp_path / "raw/images/one.png"
    name = str(inside) if how == "absolute" else "../images/one.png"
    image = {"id": 7, "file_name": name, "height": 10, "width": 12}
    words, out = coco_of(tmp_path, images=[image])
    assert prepare_dataset.main(words) == 0
    check(out)
    (written,) = (out / "panoptic_train").iterdir()
    expected = "_".join(Path(name).with_suffix("").parts).lstrip("/").removeprefix("_")
    assert written.name == f"{expected}.png"
    listed = json.loads((out / "panoptic_train.json").read_text())["images"][0]["file_name"]
    assert (out / "train" / listed).is_file()
    with pytest.raises(ValueError, match="is no name of an image"):
        PreparedSample("/etc/x", inside)


BOX = {"id": 3, "image_id": 7, "category_id": 5, "bbox": [1, 2, 4, 4]}
IMAGE = {"id": 7, "file_name": "one.png", "height": 10, "width": 12}


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"annotations": [{**BOX, "image_id": [7]}]}, 1, "has an unknown image_id [7]"),
        ({"annotations": [{**BOX, "category_id": {}}]}, 1, "has an unknown category_id {}"),
        ({"annotations": [{**BOX, "iscrowd": "0"}]}, 2, "annotation 3 has iscrowd '0', neither"),
        ({"annotations": [{**BOX, "area": 10**400}]}, 0, "1 images with 1 instances"),
        ({"annotations": [{**BOX, "area": float("nan")}]}, 0, "1 images with 1 instances"),
        ({"annotations": [{**BOX, "bbox": [0, 0, 10**400, 1]}]}, 2, "points are no pairs"),
        ({"annotations": [{**BOX, "bbox": ["a"] * 4}]}, 2, "left out"),
        ({"images": [IMAGE, {**IMAGE, "id": [1]}]}, 1, "images[1]: an image has the id [1]"),
        ({"images": [IMAGE, IMAGE]}, 1, "images[1]: an image has the id 7, no id of its own"),
        ({"images": [IMAGE, {**IMAGE, "id": 8, "file_name": "."}]}, 1, "which names no file"),
        ({"images": [IMAGE, {"id": 8}]}, 1, "has the file name None, which names no file"),
        ({"categories": [{"id": [5], "name": "car"}]}, 2, "categories[0] has the id [5], no id"),
        ({"categories": [{"id": 5, "name": None}]}, 2, "categories[0] has the name None, no text"),
        ({"categories": [{"id": 5, "name": "a\x1b[2J"}]}, 2, "no text that can be printed"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]}, 2, "has the id 5, no"),
    ],
)
def test_entries_of_the_wrong_kind_are_named(tmp_path, capsys, changes, status, sentence):
    words, _ = coco_of(tmp_path, **changes)
    assert prepare_dataset.main(words) == status
    said = capsys.readouterr()
    assert sentence in said.out + said.err


def test_a_data_set_without_stuff_says_so(tmp_path, capsys):
    """Who leaves --stuff out learns it here, and not when the training refuses the data."""
    kind, source, *_ = words_of("labelme", tmp_path)
    assert prepare_dataset.main([kind, source, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "things: car, road\nstuff: none; the Unified system needs some (--stuff" in said


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_images_in_the_split_that_is_made_anew_stay(tmp_path, capsys, force):
    """What the JSON does not list was lost, and the refusal without --force advised it."""
    path = drawn.write_coco(tmp_path / "raw")
    out = tmp_path / "own"
    (tmp_path / "raw/images").rename(tmp_path / "train")
    out.mkdir()
    (tmp_path / "train").rename(out / "train")
    drawn.write_image(out / "train", "not_yet_annotated.png")
    (out / "panoptic_train.json").write_text("{}")
    images = str(out / ".." / "own/train")
    words = ["coco", str(path), "--images", images, "--out", str(out), *force]
    assert prepare_dataset.main(words) == 2
    said = capsys.readouterr().err
    assert "is read from it: choose another --out" in said and "--force" not in said
    names = sorted(path.name for path in (out / "train").iterdir())
    assert names == ["not_yet_annotated.png", "one.png"]


def test_labels_in_the_split_that_is_made_anew_stay(tmp_path, capsys):
    """Its folder is not named, but a link of the images leads there."""
    drawn.write_image(tmp_path / "own/train")
    for folder in ("images", "labels"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        (tmp_path / "raw" / folder / "one.png").symlink_to(tmp_path / "own/train/one.png")
    (tmp_path / "own/panoptic_train.json").write_text("{}")
    words = ["labels", str(tmp_path / "raw"), "--things", "cell", "--out", str(tmp_path / "own")]
    assert prepare_dataset.main([*words, "--force"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "own/train/one.png").is_file()


@pytest.mark.parametrize("name", ["background", " ", "a\tb"])
def test_a_class_that_training_would_refuse_is_refused(tmp_path, capsys, name):
    drawn.write_image(tmp_path / "raw")
    drawn.write_image(tmp_path / "raw", "one_masks.png")
    words = ["labels", str(tmp_path / "raw"), "--things", name, "--out", str(tmp_path / "out")]
    assert prepare_dataset.main(words) == 2
    assert "the classes: category 2: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_more_classes_than_training_takes_are_refused(tmp_path, capsys):
    classes = [{"id": number, "name": f"n{number}"} for number in range(1, 301)]
    words, out = coco_of(tmp_path, categories=classes)
    assert prepare_dataset.main(words) == 2
    assert "300 classes, at most 255 can be used" in capsys.readouterr().err
    assert not out.exists()


def test_shapes_that_cannot_be_used_are_named_where_no_class_is_left(tmp_path, capsys):
    drawn.write_labelme(tmp_path / "raw", "one", [{"label": "", "points": drawn.A}])
    words = ["labelme", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert prepare_dataset.main(words) == 2
    said = capsys.readouterr().err
    assert "one.json, shape 1: is no region: its label is missing" in said
