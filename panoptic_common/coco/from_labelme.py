"""Read the JSON files of labelme, one per image beside it.

Polygons, rectangles, circles and masks are regions. Points and lines have no area and are none.
Shapes of one label and one group_id are parts of one thing, such as a car behind a post.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from panoptic_common.coco.annotated_images import AnnotatedImage, FoundImages, Region
from panoptic_common.coco.dataset_files import IMAGE_SUFFIXES
from panoptic_common.coco.image_reading import check_pixels
from panoptic_common.coco.shapes import (
    BoolMap,
    Size,
    as_points,
    box_mask,
    ellipse_mask,
    polygon_mask,
)
from panoptic_common.coco.user_files import read_json


def read_labelme(folder: str | os.PathLike[str]) -> FoundImages:
    """Read all labelme files of a folder.

    Args:
        folder: with NAME.json files; images lie where these say, or beside them.

    Returns:
        The images by name; labels in alphabetical order.

    Raises:
        FileNotFoundError: there is no such folder, or no labelme file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    problems: list[str] = []
    images = []
    for path in sorted(root.glob("*.json")):
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            problems.append(f"{path}: is no file of labelme: there is no list 'shapes'")
            continue
        images.append(_read_one(path, content))
    if not images:
        raise FileNotFoundError(f"{root} holds no JSON file of labelme")
    labels = sorted({region.label for image in images for region in image.regions})
    return FoundImages(images, labels, problems)


def _read_one(path: Path, content: Mapping[str, Any]) -> AnnotatedImage:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    image = AnnotatedImage(path.stem, _find_image(path, content.get("imagePath")), size)
    for number, shape in enumerate(content["shapes"], start=1):
        kind = shape.get("shape_type") or "polygon" if isinstance(shape, dict) else None
        name = f"{path}, shape {number}"
        if kind not in _DRAW or not isinstance(shape.get("label"), str):
            fault = f"a {kind} has no area" if kind in _WITHOUT_AREA else "is no region"
            image.problems.append(f"{name}: {fault}")
            continue
        draw = functools.partial(_DRAW[kind], shape)
        image.regions.append(Region(shape["label"], draw, shape.get("group_id")))
    return image


def _find_image(path: Path, stated: Any) -> Path:
    """Find the image of a file: as it says, also if it was written on Windows, or by its name."""
    if isinstance(stated, str):
        place = path.parent / PurePosixPath(stated.replace("\\", "/"))
        if place.is_file():
            return place
    beside = (path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)
    return next((file for file in beside if file.is_file()), path.with_suffix(".jpg"))


def _polygon(shape: Mapping[str, Any], size: Size) -> BoolMap:
    return polygon_mask([shape.get("points")], size)


def _rectangle(shape: Mapping[str, Any], size: Size) -> BoolMap:
    return box_mask(shape.get("points"), size)


def _circle(shape: Mapping[str, Any], size: Size) -> BoolMap:
    points = as_points(shape.get("points"))
    if len(points) != 2:
        raise ValueError(f"a circle has its centre and a point of its rim, not {len(points)}")
    radius = float(np.hypot(*(points[1] - points[0])))
    return ellipse_mask(points[0], (radius, radius), size)


def _mask(shape: Mapping[str, Any], size: Size) -> BoolMap:
    """Read a PNG inside the JSON, whose top left corner is the first point."""
    points = as_points(shape.get("points"))
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as image:
            check_pixels("the mask", (image.size[1], image.size[0]))
            part = np.asarray(image).astype(bool)
    except (KeyError, TypeError, binascii.Error, OSError, SyntaxError) as error:
        raise ValueError(f"its mask is damaged ({error})") from error
    left, top = (round(float(value)) for value in points[0])
    whole = np.zeros(size, np.bool_)
    height, width = part.shape[:2]
    if part.ndim != 2 or min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError("its mask does not lie within the image")
    whole[top : top + height, left : left + width] = part
    return whole


_DRAW: dict[str, Callable[[Mapping[str, Any], Size], BoolMap]] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _mask,
}
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
