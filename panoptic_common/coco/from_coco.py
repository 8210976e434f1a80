"""Read a COCO instances JSON, with or without a folder of semantic PNGs for the stuff.

Instances overlap in COCO; smaller ones are laid on top. What a semantic PNG says counts where no
instance lies. CVAT's export "COCO 1.0" is such a JSON, too, as is Label Studio's.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from panoptic_common.coco.annotated_images import AnnotatedImage, FoundImages, Region, name_of
from panoptic_common.coco.instance_masks import IntMap, read_label_image
from panoptic_common.coco.shapes import BoolMap, Size, box_mask, coco_mask
from panoptic_common.coco.user_files import read_json

_LARGEST = 1e15  # of areas and sides, in pixels; NaN is not below it either
_Entry = TypeVar("_Entry")


def read_coco(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    semantic: str | os.PathLike[str] | None = None,
    values: Mapping[str, int] | None = None,
) -> FoundImages:
    """Read all images of an instances JSON.

    Args:
        path: the JSON.
        images: folder of the images.
        semantic: folder of semantic PNGs, NAME.png for NAME.jpg; None: no stuff but what the JSON
            itself holds.
        values: the number that each stuff class has in them; other numbers are void.

    Returns:
        The images in the order of the JSON, labels in the order of its categories.

    Raises:
        FileNotFoundError, OSError: the JSON cannot be read.
        ValueError: it is damaged, or no instances JSON.
    """
    data = read_json(path)
    for key in ("images", "annotations", "categories"):
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{path}: is no COCO instances JSON: there is no list {key!r}")
    if any("segments_info" in entry for entry in data["annotations"][:1]):
        raise ValueError(f"{path}: is a panoptic JSON already: it can be used as it is")
    names = _names_by_id(data["categories"], path)
    problems: list[str] = []
    found: dict[Any, AnnotatedImage] = {}
    for position, entry in enumerate(data["images"]):
        try:
            if entry.get("id") in (None, *found) or not _can_be_id(entry["id"]):
                raise ValueError(f"an image has the id {entry.get('id')!r}, no id of its own")
            found[entry["id"]] = _image(entry, Path(images))
        except ValueError as error:
            problems.append(f"{path}: images[{position}]: {error}")
    stuff = list((values or {}).keys())
    if semantic is not None:
        for image in found.values():
            image.regions += _stuff_of(Path(semantic), image, values or {})
    # From the largest to the smallest, so that a small one lies on a large one.
    for entry in sorted(data["annotations"], key=_area, reverse=True):
        owner = _known(found, entry.get("image_id"))
        label = _known(names, entry.get("category_id"))
        if owner is None or label is None:
            what = "image_id" if owner is None else "category_id"
            problems.append(
                f"{path}: annotation {entry.get('id')} has an unknown {what} {entry.get(what)!r}"
            )
            continue
        if entry.get("iscrowd") not in (None, 0, 1):
            owner.problems.append(
                f"{path}: annotation {entry.get('id')} has iscrowd {entry['iscrowd']!r}, neither 0 "
                "nor 1"
            )
            continue
        draw = functools.partial(_draw, entry)
        owner.regions.append(Region(label, draw, crowd=bool(entry.get("iscrowd"))))
    return FoundImages(list(found.values()), [*names.values(), *stuff], problems)


def _names_by_id(categories: Sequence[Mapping[str, Any]], path: object) -> dict[Any, str]:
    """Return the name of each category.

    Raises:
        ValueError: a category has no id of its own, or no name that can be printed.
    """
    names: dict[Any, str] = {}
    for position, category in enumerate(categories):
        number, name = category.get("id"), category.get("name")
        where = f"{path}: categories[{position}]"
        if not _can_be_id(number) or number in names:
            raise ValueError(f"{where} has the id {number!r}, no id of its own")
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"{where} has the name {name!r}, no text that can be printed")
        names[number] = name
    return names


def _can_be_id(value: Any) -> bool:
    """Tell whether a value is a text or a number; pandas writes whole ones as 4.0."""
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _known(entries: Mapping[Any, _Entry], key: Any) -> _Entry | None:
    """Look an id up, whatever a file gives as one."""
    return entries.get(key) if _can_be_id(key) else None


def _image(entry: Mapping[str, Any], folder: Path) -> AnnotatedImage:
    """Start an image without regions; a folder in its name becomes a part of its name."""
    name = name_of(entry.get("file_name"))
    height, width = entry.get("height"), entry.get("width")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return AnnotatedImage(name, folder / entry["file_name"], size)


def _area(annotation: Mapping[str, Any]) -> float:
    """Return the area that an annotation states, or else that of its box."""
    area, box = annotation.get("area"), annotation.get("bbox")
    sides = box[2:] if isinstance(box, list) and len(box) == 4 else []
    for factors in ([area], sides):
        numbers = [x for x in factors if isinstance(x, (int, float)) and abs(x) < _LARGEST]
        if numbers and len(numbers) == len(factors):
            return float(math.prod(numbers))
    return 0.0


def _draw(annotation: Mapping[str, Any], size: Size) -> BoolMap:
    """Draw an annotation: its segmentation, or its box where it has none."""
    if annotation.get("segmentation"):
        return coco_mask(annotation["segmentation"], size)
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError("it has neither segmentation nor box")
    left, top, width, height = box
    return box_mask([(left, top), (left + width, top + height)], size)


def _stuff_of(folder: Path, image: AnnotatedImage, values: Mapping[str, int]) -> list[Region]:
    """Make a region per stuff class from the semantic PNG of an image."""
    path = folder / f"{image.image.stem}.png"
    if not path.is_file():
        image.problems.append(f"{path}: there is no semantic PNG for {image.image}")
        return []

    def draw(value: int, size: Size) -> BoolMap:
        return _read_semantic(path, size) == value

    return [Region(name, functools.partial(draw, value)) for name, value in values.items()]


@functools.lru_cache(maxsize=2)  # all classes of an image are drawn one after another
def _read_semantic(path: Path, size: Size) -> IntMap:
    return read_label_image(path, size)
