"""Files of labelme with values of another kind, and two that name one image."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import drawn_annotations as drawn
import numpy as np
import pytest
from PIL import Image

from panoptic_common.coco.annotated_images import make_classes, prepare_image
from panoptic_common.coco.from_labelme import read_labelme

CAR = {"label": "car", "points": drawn.A, "shape_type": "polygon"}


def change(path: Path, **entries: Any) -> None:
    """Change entries of a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def problems_of(folder: Path) -> list[str]:
    """All that is said of the images of a folder."""
    found = read_labelme(folder)
    classes = make_classes([*found.labels, "car"], ())
    samples = [prepare_image(image, 1, classes) for image in found.images]
    return [*found.problems, *(problem for sample in samples for problem in sample.problems)]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"imageHeight": "10"}, "'imageHeight' is '10', no positive whole number"),
        ({"imageWidth": None}, "'imageWidth' is None, no positive whole number"),
        ({"imageHeight": 5.0, "imageWidth": 6.0}, "its annotations are for 5 x 6"),
        ({"imagePath": ["one.png"]}, "'imagePath' is ['one.png'], no text"),
    ],
)
def test_what_is_wrong_with_all_of_a_file_is_named(tmp_path, entries, sentence) -> None:
    drawn.write_labelme(tmp_path, "one", [CAR])
    change(tmp_path / "one.json", imageHeight=10.0, imageWidth=12.0)
    assert problems_of(tmp_path) == []
    change(tmp_path / "one.json", **entries)
    (problem,) = problems_of(tmp_path)
    assert sentence in problem and "/one." in problem


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


# Its header states 2^31 - 1 pixels a side, for which Pillow has an error of its own kind.
HUGE = png(np.ones((2, 2), np.uint8))
HUGE = HUGE[:16] + b"\x7f\xff\xff\xff" * 2 + HUGE[24:]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"group_id": [1]}, "its group_id is [1], neither"),
        ({"group_id": ""}, "its group_id is '', neither"),
        ({"group_id": True}, "its group_id is True, neither"),
        ({"shape_type": ["polygon"]}, "its shape_type is ['polygon']"),
        ({"shape_type": 0}, "its shape_type is 0"),
        ({"shape_type": "mask", "points": [], "mask": "AA=="}, "this one has none"),
        ({"shape_type": "mask", "mask": base64.b64encode(HUGE).decode()}, "its mask is damaged"),
        ({"shape_type": "mask", "mask": "ä"}, "its mask is damaged"),
        ({"label": ""}, "its label is missing"),
        ({"label": " "}, "its label is ' ', nothing but spaces"),
        ({"label": "a\nb"}, "its label is 'a\\nb', which has characters"),
        ({"label": 5}, "its label is missing"),
        ({"points": [["1", "1"], ["4", "1"], ["4", "4"]]}, "no pairs of numbers"),
        ({"points": [[1, 1, 0], [4, 1, 0]]}, "no pairs of numbers"),
        ({"points": None}, "no pairs of numbers"),
        ({"points": {"x": 1}}, "no pairs of numbers"),
    ],
)
def test_shapes_of_another_kind_are_named(tmp_path, changes, sentence) -> None:
    drawn.write_labelme(tmp_path, "one", [{**CAR, **changes}])
    (problem,) = problems_of(tmp_path)
    assert sentence in problem and "shape 1" in problem and "/one." in problem


def test_an_image_belongs_to_the_file_of_its_name(tmp_path) -> None:
    for name in "abc":
        drawn.write_labelme(tmp_path, name, [CAR])
    change(tmp_path / "b.json", imagePath="./a.png")
    problems = [f"{tmp_path}/b.json: its image {tmp_path}/a.png is that of {tmp_path}/a.json, too"]
    assert problems_of(tmp_path) == problems
    (tmp_path / "a.json").rename(tmp_path / "x.json")  # neither is called as the image is
    said = problems_of(tmp_path)
    assert len(said) == 2 and "b.json: its image" in said[0] and "x.json: its image" in said[1]


def test_a_name_of_no_file_is_looked_for_beside(tmp_path) -> None:
    drawn.write_labelme(tmp_path, "one", [CAR])
    for name in ("a\0b", 5000 * "a"):
        change(tmp_path / "one.json", imagePath=name)
        assert problems_of(tmp_path) == []


def test_a_name_that_is_no_utf8_is_named_in_escapes(tmp_path) -> None:
    drawn.write_labelme(tmp_path, "one", [CAR])
    other = os.fsencode(tmp_path) + b"/caf\xe9.json"
    Path(os.fsdecode(other)).write_text((tmp_path / "one.json").read_text())
    (tmp_path / "._one.json").write_bytes(b"a Mac's shadow file")
    assert problems_of(tmp_path) == [rf"{tmp_path}/caf\xe9.json: its name is no UTF-8, rename it"]
