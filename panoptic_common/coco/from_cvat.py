"""Read CVAT's export "CVAT for images 1.1": one XML file for all images.

Polygons, boxes, ellipses and masks are regions, from the lowest z_order to the highest. Shapes of
one label and one group_id are parts of one thing. Points, lines and cuboids have no area, and tags
belong to whole images. Tracks ("CVAT for video") are refused.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from panoptic_common.coco.annotated_images import (
    AnnotatedImage,
    FoundImages,
    Region,
    mark_shared_files,
    name_of,
    stated_size,
)
from panoptic_common.coco.annotations import class_name_fault
from panoptic_common.coco.shapes import (
    BoolMap,
    Size,
    box_mask,
    ellipse_mask,
    polygon_mask,
    runs_mask,
)
from panoptic_common.coco.user_files import open_regular
from panoptic_common.values import is_whole

Attributes = Mapping[str, str]


def read_cvat(path: str | os.PathLike[str], images: str | os.PathLike[str]) -> FoundImages:
    """Read all images of an export.

    Args:
        path: annotations.xml.
        images: folder of the images.

    Returns:
        The images in the order of the file, labels in the order of the task.

    Raises:
        FileNotFoundError, OSError: the file cannot be read.
        ValueError: it is damaged, or another export.
    """
    root = _read_xml(path)
    if root.tag != "annotations":
        raise ValueError(f"{path}: is no export of CVAT: its root is <{root.tag}>")
    if root.find("track") is not None:
        raise ValueError(f"{path}: holds tracks of a video: export it as 'CVAT for images 1.1'")
    nodes = list(root.iter("image"))
    found = [_read_image(node, Path(images), os.fspath(path)) for node in nodes if node.get("name")]
    nameless = len(nodes) - len(found)
    problems = [f"{path}: {nameless} of {len(nodes)} <image> have no name"] if nameless else []
    if not found:
        raise ValueError(f"{path}: holds no image: is it an export of 'CVAT for images 1.1'?")
    listed = [node.text or "" for node in root.findall("./meta//labels/label/name")]
    drawn = sorted({region.label for image in found for region in image.regions})
    mark_shared_files(found)
    return FoundImages(found, list(dict.fromkeys([*listed, *drawn])), problems)


def _read_xml(path: str | os.PathLike[str]) -> ElementTree.Element:
    """Parse a file without entities, by which a small one could grow without end."""
    with open_regular(path) as file:
        data = file.read()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError(f"{path}: declares entities, which no export of CVAT does")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path}: damaged XML file ({error})") from error


def _read_image(node: ElementTree.Element, folder: Path, source: str) -> AnnotatedImage:
    file_name = node.get("name", "")
    try:
        name = name_of(file_name)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    where = f"{source}, {file_name}"
    image = AnnotatedImage(name, folder / file_name, None, source=where)
    try:
        sides = ("height", "width")
        stated = {key: _number(node.attrib, key) for key in sides if key in node.attrib}
        image.size = stated_size(stated, *sides)
    except ValueError as error:
        image.faults.append(f"{where}: {error}")
    regions: list[tuple[int, Region]] = []
    for number, shape in enumerate((shape for shape in node if shape.tag != "tag"), start=1):
        try:
            regions.append((_whole(shape.attrib, "z_order", "0"), _region(shape)))
        except ValueError as error:
            image.problems.append(f"{where}, shape {number}: {error}")
    image.regions = [region for _, region in sorted(regions, key=lambda pair: pair[0])]
    return image


def _region(shape: ElementTree.Element) -> Region:
    """Return the region that a shape is.

    Raises:
        ValueError: it is none, or its label or group cannot be used.
    """
    label = shape.get("label", "")
    if not label:
        raise ValueError("it has no label")
    if fault := class_name_fault(label):
        raise ValueError(f"its label is {fault}")
    if shape.tag not in _DRAW:
        raise ValueError(f"a <{shape.tag}> has no area")
    draw = functools.partial(_draw, _DRAW[shape.tag], dict(shape.attrib))
    return Region(label, draw, _whole(shape.attrib, "group_id", "0") or None)


def _draw(kind: Callable[[Attributes, Size], BoolMap], shape: Attributes, size: Size) -> BoolMap:
    """Draw a shape; what its attributes lack is a ValueError."""
    try:
        return kind(shape, size)
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]!r}") from None


def _number(shape: Attributes, key: str) -> float:
    """Return an attribute that must be there.

    Raises:
        KeyError: it is not there.
        ValueError: it is no finite number.
    """
    try:
        value = float(shape[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{key!r} is {shape[key]!r}, no number")
    return value


def _numbers(shape: Attributes, *keys: str) -> list[float]:
    try:
        return [_number(shape, key) for key in keys]
    except ValueError as error:
        raise ValueError(f"{', '.join(keys)} are no numbers ({error})") from None


def _whole(shape: Attributes, key: str, default: str | None = None) -> int:
    """Return an attribute as a whole number.

    Args:
        shape: all attributes.
        key: of this one.
        default: its text where it is missing.

    Raises:
        KeyError: it is missing, and there is no default.
        ValueError: it is no whole number.
    """
    value = _number(shape if default is None else {key: default, **shape}, key)
    if not is_whole(value):
        raise ValueError(f"{key!r} is {shape[key]!r}, no whole number")
    return int(value)


def _polygon(shape: Attributes, size: Size) -> BoolMap:
    try:
        points = [[float(x) for x in pair.split(",")] for pair in shape["points"].split(";")]
    except ValueError:
        points = []
    if not points or any(len(point) != 2 for point in points):
        raise ValueError("its points are no pairs of numbers x,y")
    return polygon_mask([points], size)


def _box(shape: Attributes, size: Size) -> BoolMap:
    left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    return box_mask([(left, top), (right, bottom)], size, _turn(shape))


def _ellipse(shape: Attributes, size: Size) -> BoolMap:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return ellipse_mask((x, y), (rx, ry), size, _turn(shape))


def _turn(shape: Attributes) -> float:
    return _number({"rotation": "0", **shape}, "rotation")


def _mask(shape: Attributes, size: Size) -> BoolMap:
    """Expand run lengths along the rows of a window, the first of background."""
    left, top, width, height = (_whole(shape, key) for key in ("left", "top", "width", "height"))
    if min(left, top, width, height) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError("its mask does not lie within the image")
    try:
        counts = [int(count) for count in shape["rle"].split(",")]
    except ValueError:
        raise ValueError("its run lengths are no whole numbers") from None
    whole = np.zeros(size, np.bool_)
    part = runs_mask(counts, (height, width), by_columns=False)
    whole[top : top + height, left : left + width] = part
    return whole


_DRAW: dict[str, Callable[[Attributes, Size], BoolMap]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}
