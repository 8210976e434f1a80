"""The JSON half: what is accepted, what is refused and in which words, and how files are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_common.coco.annotations import (
    PanopticPaths,
    annotation_problems,
    build_class_table,
    category_problems,
    image_problems,
    palette_colour,
    read_panoptic_json,
)

SIZE = {"height": 4, "width": 4}


def _paths(tmp_path: Path, text: str | bytes | None) -> PanopticPaths:
    path = tmp_path / "truth.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return PanopticPaths(str(tmp_path / "images"), str(path), str(tmp_path / "truth"))


# ------------------------------------------------------------------------------------ reading


def test_missing_file_shows_the_expected_tree(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        read_panoptic_json(_paths(tmp_path, None))
    text = str(raised.value)
    assert "truth.json" in text and "images/" in text and "PNGs named in annotations" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "damaged JSON"),
        ("", "damaged JSON"),
        ("[" * 10_000, "damaged JSON|nested too deeply"),
        ('{"images": [{"file_name": "\\ud800"}]}', r"images\[0\].file_name is no text"),
        (b"\xff\xfe{}", "damaged JSON"),
        (b"\x1f\x8b\x08", "packed by gzip: unpack it first"),
        ('{"images": [], "annotations": [], "images": []}', "the key 'images' twice"),
        ('{"images": [{"id": 1, "id": 2}]}', "an object has the key 'id' twice"),
        ("[]", "no list 'images'"),
        ('{"images": [], "annotations": {}}', "no list 'annotations'"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        (
            '{"images": [7], "annotations": [], "categories": []}',
            r"images\[0\] is 7, but must be an object",
        ),
    ],
)
def test_damaged_or_other_files_are_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"truth.json: .*{message}"):
        read_panoptic_json(_paths(tmp_path, text))


# ------------------------------------------------------------------------------------ classes


def test_class_table_is_in_ascending_order_of_ids() -> None:
    table = build_class_table(
        [
            {"id": 90, "name": "sky", "isthing": 0, "color": [1, 2, 3], "supercategory": "x"},
            {"id": 7, "name": "car", "isthing": True, "color": (4, 5, 6)},
        ],
        "truth.json",
    )
    assert table == [
        {"id": 7, "name": "car", "isthing": 1, "color": [4, 5, 6]},
        {"id": 90, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
    ]


@given(st.permutations(list(range(6))))
def test_class_table_does_not_depend_on_the_order_in_the_file(order: list[int]) -> None:
    categories = [{"id": 10 * i, "name": f"c{i}", "isthing": i % 2} for i in range(6)]
    shuffled = [categories[i] for i in order]
    assert build_class_table(shuffled, "a") == build_class_table(categories, "a")


def test_palette_is_fixed_and_its_colours_differ() -> None:
    colours = [tuple(palette_colour(position)) for position in range(200)]
    assert len(set(colours)) == 200
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
    # 0.618 of a turn is 222.5 degrees, between cyan and blue: red lowest, blue the value 0.75.
    # Saturation 0.65: lowest = 191 * 0.35 = 67; green = 67 + 124 * (240 - 222.5) / 60 = 103.
    assert palette_colour(1) == pytest.approx([67, 103, 191], abs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "'id' is missing"),
        ({"id": "7"}, "'id' is '7', no integer"),
        ({"id": True}, "'id' is True, no integer"),
        ({"id": 7.0}, "'id' is 7.0, no integer"),
        ({"name": " \t"}, "'name' is ' \\t', nothing but spaces"),
        ({"name": "a\nb"}, "'name' is 'a\\nb', which has characters that cannot be printed"),
        ({"name": "\x1b[31mred"}, "characters that cannot be printed"),
        ({"id": 3}, "category 3: the id occurs more than once"),
        ({"name": ""}, "category 7: 'name' is missing"),
        ({"isthing": 2}, "category 7: 'isthing'"),
        ({"isthing": None}, "category 7: 'isthing'"),
        ({"color": [1, 2]}, "category 7: 'color'"),
        ({"color": [1, 2, 256]}, "category 7: 'color'"),
        ({"color": "red"}, "category 7: 'color'"),
    ],
)
def test_wrong_categories_are_named(change: dict[str, Any], message: str) -> None:
    other = {"id": 3, "name": "road", "isthing": 0}
    sound = {"id": 7, "name": "car", "isthing": 1}
    assert category_problems([other, sound]) == []
    (problem,) = category_problems([other, {**sound, **change}])
    assert message in problem
    with pytest.raises(ValueError, match="truth.json: "):
        build_class_table([other, {**sound, **change}], "truth.json")


def test_no_categories_are_a_problem() -> None:
    assert category_problems([]) == ["categories: the list is empty"]


# -------------------------------------------------------------------------------- annotations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "'id' is missing"),
        ({"id": [1]}, "'id' is [1], neither an integer nor a text"),
        ({"id": 2}, "image 2: the id occurs more than once"),
        ({"id": "1"}, "ids that are numbers, such as 2, and ids that are texts, such as '1'"),
        ({"file_name": None}, "image 1: 'file_name'"),
        ({"height": 0}, "image 1: 'height'"),
        ({"width": 2.5}, "image 1: 'width' is 2.5"),
    ],
)
def test_wrong_images_are_named(change: dict[str, Any], message: str) -> None:
    other = {"id": 2, "file_name": "b.jpg", "height": 2, "width": 2}
    sound = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 2}
    assert image_problems([other, sound]) == []
    (problem,) = image_problems([other, {**sound, **change}])
    assert message in problem


def _segment(**change: Any) -> dict[str, Any]:
    return {"id": 5, "category_id": 7, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0, **change}


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([_segment(id=0)], "segment 0: 'id' is not an integer of 1..16777215"),
        ([_segment(id=2**24)], "segment 16777216: 'id'"),
        ([_segment(id="5")], "'id'"),
        ([_segment(), _segment()], "segment 5: the id is listed more than once"),
        ([_segment(category_id=8)], "segment 5: category 8 is not in categories"),
        ([_segment(category_id=None)], "segment 5: category None"),
        ([_segment(iscrowd=2)], "segment 5: 'iscrowd' is 2"),
        ([_segment(area=float("nan"))], "segment 5: 'area' is nan"),
        ([_segment(bbox=[1, 2])], "segment 5: 'bbox'"),
        (["nonsense"], "segment at position 0: not an object"),
        (None, "'segments_info' is missing"),
    ],
)
def test_wrong_segments_are_named(segments: Any, message: str) -> None:
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    (problem,) = annotation_problems(annotation, {1}, {7})
    assert problem.startswith("image 1") and message in problem


def test_sound_annotation_has_no_problem_and_crowd_may_be_left_out() -> None:
    segment = _segment()
    del segment["iscrowd"]
    annotation = {"image_id": "a", "file_name": "a.png", "segments_info": [segment]}
    assert annotation_problems(annotation, {"a"}, {7}) == []


def test_what_follows_from_the_png_may_be_left_out_and_pandas_may_write_the_rest() -> None:
    for change in ({"area": None}, {"bbox": None}, {"bbox": []}, {"iscrowd": None}):
        annotation = {"image_id": 1, "file_name": "a", "segments_info": [_segment(**change)]}
        assert annotation_problems(annotation, {1}, {7}) == []
    assert image_problems([{"id": 1, "file_name": "a", "height": 96.0, "width": 2.0}]) == []


def test_an_id_as_text_and_as_a_number_are_told_apart() -> None:
    (problem,) = annotation_problems(
        {"image_id": "1", "file_name": "a", "segments_info": []}, {1}, {7}
    )
    assert "('1' is text, there it is a number)" in problem


def test_a_stuff_class_has_one_segment_per_image_besides_crowds() -> None:
    segments = [_segment(id=5), _segment(id=6), _segment(id=8, iscrowd=1)]
    annotation = {"image_id": 1, "file_name": "a", "segments_info": segments}
    assert annotation_problems(annotation, {1}, {7}) == []  # a thing
    (problem,) = annotation_problems(annotation, {1}, {7}, stuff_ids={7})
    assert problem.startswith("image 1, segment 6: second segment of stuff category 7 (the first")


def test_more_classes_than_the_number_of_void_are_refused() -> None:
    """Class 255 would be void in training, and its pixels lost without a word."""
    classes = [{"id": k, "name": f"c{k}", "isthing": 1} for k in range(256)]
    assert category_problems(classes[:255]) == []
    assert category_problems(classes) == ["categories: 256 classes, at most 255 can be used"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str, end: str) -> None:
    """PowerShell writes UTF-16, and lines that end as on Windows."""
    data = {"images": [], "annotations": [], "categories": [{"name": "straße"}]}
    text = json.dumps(data, ensure_ascii=False, indent=1).replace("\n", end)
    assert read_panoptic_json(_paths(tmp_path, text.encode(encoding))) == data


def test_true_is_no_id_though_python_counts_it() -> None:
    """True equals 1: as an id it would stand for an image, a segment or a class of that number."""
    assert "'id' is True" in image_problems([{"id": True, "file_name": "x"} | SIZE])[0]
    one = {"id": 1, "category_id": 1}
    for entry, sentence in (
        ({"id": True}, "'id' is not an integer"),
        ({"category_id": True}, "category True is not in categories[] (there it is 1: write ids"),
        ({"category_id": 1.0}, "category 1.0 is not in categories[] (there it is 1: write ids"),
    ):
        annotation = {"image_id": 1, "file_name": "x.png", "segments_info": [{**one, **entry}]}
        (problem,) = annotation_problems(annotation, {1}, {1})
        assert sentence in problem
    annotation = {"image_id": True, "file_name": "x.png", "segments_info": []}
    assert "'image_id' is True" in annotation_problems(annotation, {1}, {1})[0]


def test_annotation_without_image_or_png_is_named() -> None:
    problems = annotation_problems({"image_id": 3, "segments_info": []}, {1}, {7})
    assert len(problems) == 2
    assert "image 3: annotated, but not in images" in problems[0]
    assert "image 3: 'file_name'" in problems[1]
    (problem,) = annotation_problems({"file_name": "x.png", "segments_info": []}, {1}, {7})
    assert "x.png" in problem and "'image_id' is missing" in problem


def test_sound_file_is_read_as_it_is(tmp_path: Path) -> None:
    data = {"images": [], "annotations": [], "categories": [], "info": {"year": 2017}}
    assert read_panoptic_json(_paths(tmp_path, json.dumps(data))) == data
