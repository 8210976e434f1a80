"""Read the JSON files of labelme, one per image beside it.

Polygons, rectangles, circles and masks are regions. Points and lines have no area and are none.
Shapes of one label and one group_id are parts of one thing, such as a car behind a post. An image
belongs to one file: of several that name it, to the one that is called as it is.
"""

from __future__ import annotations

import base64
import functools
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from panoptic_common.coco.annotated_images import (
    AnnotatedImage,
    FoundImages,
    Region,
    mark_shared_files,
    stated_size,
)
from panoptic_common.coco.annotations import class_name_fault
from panoptic_common.coco.dataset_files import IMAGE_SUFFIXES
from panoptic_common.coco.image_reading import check_pixels, open_unlimited
from panoptic_common.coco.shapes import (
    BoolMap,
    Size,
    as_points,
    box_mask,
    ellipse_mask,
    polygon_mask,
)
from panoptic_common.coco.user_files import error_text, read_json, require_utf8_name
from panoptic_common.values import is_whole


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
    for path in sorted(root.glob("[!.]*.json")):  # none that a system hides (._NAME)
        try:
            require_utf8_name(path)  # the image is called by it
            content = read_json(path)
        except (OSError, ValueError) as error:
            problems.append(error_text(error))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            problems.append(f"{path}: is no file of labelme: there is no list 'shapes'")
            continue
        images.append(_read_one(path, content))
    if not images:
        first = f"; {problems[0]}" if problems else ""
        raise FileNotFoundError(f"{root} holds no JSON file of labelme{first}")
    mark_shared_files(images, lambda image: image.name == image.image.stem)
    labels = sorted({region.label for image in images for region in image.regions})
    return FoundImages(images, labels, problems)


def _read_one(path: Path, content: Mapping[str, Any]) -> AnnotatedImage:
    stated = content.get("imagePath")
    image = AnnotatedImage(path.stem, _find_image(path, stated), None, source=str(path))
    if stated is not None and not isinstance(stated, str):
        image.faults.append(f"{path}: 'imagePath' is {stated!r}, no text")
    try:
        image.size = stated_size(content, "imageHeight", "imageWidth")
    except ValueError as error:
        image.faults.append(f"{path}: {error}")
    for number, shape in enumerate(content["shapes"], start=1):
        try:
            image.regions.append(_region(shape))
        except ValueError as error:
            image.problems.append(f"{path}, shape {number}: {error}")
    return image


def _region(shape: Any) -> Region:
    """Return the region that a shape is.

    Raises:
        ValueError: it is none, or its label or group cannot be used.
    """
    kind = shape.get("shape_type") if isinstance(shape, dict) else ""
    kind = "polygon" if kind is None else kind
    if isinstance(kind, str) and kind in _WITHOUT_AREA:
        raise ValueError(f"a {kind} has no area")
    if not isinstance(kind, str) or kind not in _DRAW:
        raise ValueError(f"is no region: its shape_type is {kind!r}")
    label, group = shape.get("label"), shape.get("group_id")
    if fault := class_name_fault(label):
        raise ValueError(f"is no region: its label is {fault}")
    if not (group is None or is_whole(group) or (isinstance(group, str) and group)):
        raise ValueError(f"its group_id is {group!r}, neither a whole number nor a text")
    return Region(label, functools.partial(_DRAW[kind], shape), group)


def _find_image(path: Path, stated: Any) -> Path:
    """Find the image of a file: as it says, also if it was written on Windows, or by its name."""
    if isinstance(stated, str):
        place = path.parent / PurePosixPath(stated.replace("\\", "/"))
        if os.path.isfile(place):  # False, too, for what can be the name of no file
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
    if not len(points):
        raise ValueError("a mask has its top left corner as a point, this one has none")
    try:
        data = base64.b64decode(shape["mask"], validate=True)
        with open_unlimited(io.BytesIO(data)) as image:
            check_pixels("the mask", (image.size[1], image.size[0]))
            part = np.asarray(image).astype(bool)
    except Exception as error:  # Pillow raises many types for damaged files
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
