"""Values of an instances JSON that are of another kind than COCO's; each is named."""

from __future__ import annotations

from typing import Any

import drawn_annotations as drawn
import numpy as np
import pytest
from PIL import Image

from panoptic_common.coco.annotated_images import make_classes, prepare_image
from panoptic_common.coco.from_coco import read_coco
from panoptic_common.coco.splits import PreparedSample

BOX = {"id": 3, "image_id": 7, "category_id": 5, "bbox": [1, 2, 4, 4]}
IMAGE = {"id": 7, "file_name": "one.png", "height": 10, "width": 12}


def prepared(root, semantic: bool = False, **changes: Any) -> list[PreparedSample]:
    """What becomes of the images of the drawn scene with other entries."""
    path = drawn.write_coco(root, changes)
    stuff = {"road": 3} if semantic else {}
    found = read_coco(path, root / "images", root / "semantic" if semantic else None, stuff)
    classes = make_classes(found.labels, list(stuff))
    return [prepare_image(image, 1, classes) for image in found.images]


@pytest.mark.parametrize("value", ["10", None, True, 10.5])
def test_a_size_that_cannot_be_read_leaves_its_image_out(tmp_path, value) -> None:
    (sample,) = prepared(tmp_path, images=[{**IMAGE, "height": value}])
    assert sample.id_map is None
    assert sample.problems == [
        f"{tmp_path}/instances.json: images[0] (one.png): 'height' is {value!r}, no positive whole "
        "number"
    ]


def test_a_whole_float_is_the_size(tmp_path) -> None:
    (sample,) = prepared(tmp_path, images=[{**IMAGE, "height": 10.0, "width": 12.0}])
    assert sample.problems == [] and sample.id_map is not None
    (sample,) = prepared(tmp_path, images=[{**IMAGE, "height": 20.0, "width": 24.0}])
    assert "its annotations are for 20 x 24" in sample.problems[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bbox": ["1", "2", "3", "4"]}, "no pairs of numbers"),
        ({"bbox": [None] * 4}, "no pairs of numbers"),
        ({"bbox": [1, "2", 3, 4]}, "no pairs of numbers"),
        ({"bbox": [True] * 4}, "no pairs of numbers"),
        ({"bbox": "1234"}, "no pairs of numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "not finite"),
        ({"bbox": [0.5, 0, 10**400, 1]}, "no pairs of numbers"),
        ({"bbox": [[1, 2], [3, 4]]}, "is not [x, y, width, height]"),
        ({"bbox": [5, 5, -2, 2]}, "a side of its box is negative"),
        ({"bbox": None}, "neither segmentation nor box"),
        ({"area": "16"}, "the area '16', no number"),
        ({"area": True}, "the area True, no number"),
        ({"segmentation": ""}, "neither polygons nor run lengths"),
        ({"segmentation": {"counts": [0, 120], "size": None}}, "is None, not [height, width]"),
        ({"segmentation": {"counts": [0, 120], "size": 120}}, "is 120, not [height, width]"),
    ],
)
def test_numbers_of_another_kind_are_named(tmp_path, changes, sentence) -> None:
    (sample,) = prepared(tmp_path, annotations=[{**BOX, **changes}])
    assert len(sample.problems) == 1 and sentence in sample.problems[0]
    assert "one.png" in sample.problems[0] or "instances.json" in sample.problems[0]


def test_a_box_is_where_it_was(tmp_path) -> None:
    (sample,) = prepared(tmp_path, annotations=[BOX])
    expected = np.zeros((10, 12), np.int32)
    expected[2:6, 1:5] = 1
    np.testing.assert_array_equal(sample.id_map, expected)


def test_two_images_of_one_file_or_one_semantic_png_are_named(tmp_path) -> None:
    other = {**IMAGE, "id": 8, "file_name": "../images/one.png"}
    samples = prepared(tmp_path / "a", images=[IMAGE, other])
    assert [sample.id_map for sample in samples] == [None, None]
    assert "images[1]: its image" in samples[1].problems[0]
    images = [{**IMAGE, "file_name": "x/one.png"}, {**IMAGE, "id": 8, "file_name": "y/one.png"}]
    for folder in "xy":
        drawn.write_image(tmp_path / "b/images" / folder)
    samples = prepared(tmp_path / "b", semantic=True, images=images)
    assert [sample.id_map for sample in samples] == [None, None]
    assert "is it the semantic PNG of" in samples[0].problems[0]
    for number, folder in enumerate("xy"):  # one for each: below the folder as the images are
        (tmp_path / "b/semantic" / folder).mkdir()
        values = np.full((10, 12), 3 * number, np.uint8)
        Image.fromarray(values).save(tmp_path / "b/semantic" / folder / "one.png")
    samples = prepared(tmp_path / "b", semantic=True, images=images, annotations=[])
    assert [int((sample.id_map > 0).sum()) for sample in samples] == [0, 120]
