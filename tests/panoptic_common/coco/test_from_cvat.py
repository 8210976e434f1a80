"""Attributes of CVAT's XML that are no numbers; each is named."""

from __future__ import annotations

from pathlib import Path

import drawn_annotations as drawn
import numpy as np
import pytest

from panoptic_common.coco.annotated_images import make_classes, prepare_image
from panoptic_common.coco.from_cvat import read_cvat
from panoptic_common.coco.splits import PreparedSample

BOX = '<box label="car" xtl="1" ytl="2" xbr="5" ybr="6"{more}/>'
MASK = '<mask label="car" rle="0,4" left="{left}" top="0" width="2" height="2"/>'


def prepared(root: Path, shapes: str, size: str = 'width="12" height="10"') -> PreparedSample:
    """What becomes of an image with these shapes."""
    drawn.write_image(root)
    path = root / "a.xml"
    path.write_text(f'<annotations><image name="one.png" {size}>{shapes}</image></annotations>')
    found = read_cvat(path, root)
    return prepare_image(found.images[0], 1, make_classes([*found.labels, "car"], ()))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (MASK.format(left="inf"), "'left' is 'inf', no number"),
        (MASK.format(left="1.5"), "'left' is '1.5', no whole number"),
        (MASK.format(left="0").replace("0,4", "0,x"), "run lengths are no whole numbers"),
        (MASK.format(left="0").replace('left="0"', ""), "it has no 'left'"),
        (BOX.format(more=' z_order="--1"'), "'z_order' is '--1', no number"),
        (BOX.format(more=' z_order="²"'), "'z_order' is '²', no number"),
        (BOX.format(more=' group_id=""'), "'group_id' is '', no number"),
        (BOX.format(more=' rotation="nan"'), "'rotation' is 'nan', no number"),
        (BOX.format(more="").replace('"car"', '""'), "it has no label"),
        (BOX.format(more="").replace('"car"', '" "'), "its label is ' ', nothing but spaces"),
        ('<polygon label="car" points="1,1;9,1;9,nan"/>', "not finite"),
        ('<polygon label="car" points="1,1,9;1,9,9"/>', "no pairs of numbers"),
    ],
)
def test_attributes_of_another_kind_are_named(tmp_path, shape, sentence) -> None:
    (problem,) = prepared(tmp_path, shape).problems
    assert sentence in problem and "one.png" in problem and "shape 1" in problem


def test_z_order_decides_what_lies_on_top(tmp_path) -> None:
    low, high = BOX.format(more=' z_order="-1"'), BOX.format(more=' z_order="2.0"')
    shapes = high + low.replace('xbr="5"', 'xbr="7"')
    id_map = prepared(tmp_path, shapes).id_map
    assert id_map is not None
    np.testing.assert_array_equal(id_map[3], [0, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ('width="12" height="10.0"', None),
        ("", None),
        ('width="24" height="20.0"', "its annotations are for 20 x 24"),
        ('width="" height="10"', "'width' is '', no number"),
        ('width="12" height="10.5"', "'height' is 10.5, no positive whole number"),
        ('width="-12" height="10"', "'width' is -12.0, no positive whole number"),
        ('width="12"', "'height' is missing"),
    ],
)
def test_a_stated_size_is_the_size_or_named(tmp_path, size, sentence) -> None:
    sample = prepared(tmp_path, BOX.format(more=""), size)
    if sentence is None:
        assert sample.problems == [] and sample.id_map is not None
    else:
        (problem,) = sample.problems
        assert sentence in problem and "one.png" in problem and sample.id_map is None


def test_images_of_one_file_and_images_without_name_are_named(tmp_path) -> None:
    drawn.write_image(tmp_path)
    names = ('name="one.png"', 'name="./x/../one.png"', "")
    images = "".join(f"<image {name}>{BOX.format(more='')}</image>" for name in names)
    path = tmp_path / "a.xml"
    path.write_text(f"<annotations>{images}</annotations>")
    found = read_cvat(path, tmp_path)
    assert found.problems == [f"{path}: 1 of 3 <image> have no name"]
    assert [len(image.faults) for image in found.images] == [1, 1]
