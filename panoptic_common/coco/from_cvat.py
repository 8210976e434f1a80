"""Read CVAT's export "CVAT for images 1.1": one XML file for all images.

Polygons, boxes, ellipses and masks are regions, from the lowest z_order to the highest. Shapes of
one label and one group_id are parts of one thing. Points, lines and cuboids have no area, and tags
belong to whole images. Tracks ("CVAT for video") are refused.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from panoptic_common.coco.annotated_images import AnnotatedImage, FoundImages, Region, name_of
from panoptic_common.coco.shapes import (
    BoolMap,
    Size,
    box_mask,
    ellipse_mask,
    polygon_mask,
    runs_mask,
)
from panoptic_common.coco.user_files import open_regular

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
    found = [
        _read_image(node, Path(images), os.fspath(path))
        for node in root.iter("image")
        if node.get("name")
    ]
    if not found:
        raise ValueError(f"{path}: holds no image: is it an export of 'CVAT for images 1.1'?")
    listed = [node.text or "" for node in root.findall("./meta//labels/label/name")]
    drawn = sorted({region.label for image in found for region in image.regions})
    return FoundImages(found, list(dict.fromkeys([*listed, *drawn])))


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
    image = AnnotatedImage(name, folder / file_name, _size(node))
    shapes = [shape for shape in node if shape.tag != "tag"]
    for number, shape in enumerate(sorted(shapes, key=_height), start=1):
        label = shape.get("label")
        if shape.tag not in _DRAW or label is None:
            fault = f"a <{shape.tag}> has no area" if label else "it has no label"
            image.problems.append(f"{source}, {file_name}, shape {number}: {fault}")
            continue
        group = shape.get("group_id", "0")
        draw = functools.partial(_draw, _DRAW[shape.tag], dict(shape.attrib))
        image.regions.append(Region(label, draw, None if group == "0" else group))
    return image


def _size(node: ElementTree.Element) -> Size | None:
    try:
        return int(node.get("height", "")), int(node.get("width", ""))
    except ValueError:
        return None


def _height(shape: ElementTree.Element) -> int:
    """Return z_order; 0 where it is missing or no number."""
    text = shape.get("z_order", "0")
    return int(text) if text.lstrip("-").isdigit() else 0


def _draw(kind: Callable[[Attributes, Size], BoolMap], shape: Attributes, size: Size) -> BoolMap:
    """Draw a shape; what its attributes lack is a ValueError."""
    try:
        return kind(shape, size)
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]!r}") from None


def _numbers(shape: Attributes, *keys: str) -> list[float]:
    try:
        return [float(shape[key]) for key in keys]
    except ValueError:
        raise ValueError(f"{', '.join(keys)} are no numbers") from None


def _polygon(shape: Attributes, size: Size) -> BoolMap:
    return polygon_mask([[pair.split(",") for pair in shape["points"].split(";")]], size)


def _box(shape: Attributes, size: Size) -> BoolMap:
    left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    return box_mask([(left, top), (right, bottom)], size, float(shape.get("rotation", 0)))


def _ellipse(shape: Attributes, size: Size) -> BoolMap:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return ellipse_mask((x, y), (rx, ry), size, float(shape.get("rotation", 0)))


def _mask(shape: Attributes, size: Size) -> BoolMap:
    """Expand run lengths along the rows of a window, the first of background."""
    left, top, width, height = (int(v) for v in _numbers(shape, "left", "top", "width", "height"))
    if min(left, top, width, height) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError("its mask does not lie within the image")
    counts = [int(count) for count in shape["rle"].split(",")]
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
