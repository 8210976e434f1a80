"""Read a COCO instances JSON, with or without a folder of semantic PNGs for the stuff.

Instances overlap in COCO; smaller ones are laid on top. What a semantic PNG says counts where no
instance lies. CVAT's export "COCO 1.0" is such a JSON, too, as is Label Studio's.
"""

from __future__ import annotations

import functools
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from panoptic_common.coco.annotated_images import (
    AnnotatedImage,
    FoundImages,
    Region,
    mark_shared_files,
    name_of,
    stated_size,
)
from panoptic_common.coco.annotations import class_name_fault
from panoptic_common.coco.instance_masks import IntMap, read_label_image
from panoptic_common.coco.shapes import BoolMap, Size, as_points, box_mask, coco_mask
from panoptic_common.coco.user_files import read_json
from panoptic_common.values import is_integer, is_number

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
            found[entry["id"]] = _image(entry, Path(images), f"{path}: images[{position}]")
        except ValueError as error:
            problems.append(f"{path}: images[{position}]: {error}")
    stuff = list((values or {}).keys())
    mark_shared_files(found.values())
    if semantic is not None:
        _add_stuff(found.values(), Path(images), Path(semantic), values or {})
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
        if fault := _fault_of(entry):
            owner.problems.append(f"{path}: annotation {entry.get('id')} has {fault}")
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
        if not isinstance(name, str) or class_name_fault(name):
            raise ValueError(f"{where} has the name {name!r}, no text that can be printed")
        names[number] = name
    return names


def _can_be_id(value: Any) -> bool:
    """Tell whether a value is a text or a number; pandas writes whole ones as 4.0."""
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _known(entries: Mapping[Any, _Entry], key: Any) -> _Entry | None:
    """Look an id up, whatever a file gives as one."""
    return entries.get(key) if _can_be_id(key) else None


def _image(entry: Mapping[str, Any], folder: Path, source: str) -> AnnotatedImage:
    """Start an image without regions; a folder in its name becomes a part of its name."""
    name = name_of(entry.get("file_name"))
    image = AnnotatedImage(name, folder / entry["file_name"], None, source=source)
    try:
        image.size = stated_size(entry, "height", "width")
    except ValueError as error:
        image.faults.append(f"{source} ({entry['file_name']}): {error}")
    return image


def _fault_of(annotation: Mapping[str, Any]) -> str | None:
    """Return what an annotation has in place of a number, of what is read before it is drawn."""
    if annotation.get("iscrowd") not in (None, 0, 1):
        return f"iscrowd {annotation['iscrowd']!r}, neither 0 nor 1"
    area = annotation.get("area")
    if area is not None and not is_integer(area) and not isinstance(area, float):
        return f"the area {area!r}, no number"  # it decides which of two lies on top
    return None


def _area(annotation: Mapping[str, Any]) -> float:
    """Return the area that an annotation states, or else that of its box."""
    area, box = annotation.get("area"), annotation.get("bbox")
    sides = box[2:] if isinstance(box, list) and len(box) == 4 else []
    for factors in ([area], sides):
        numbers = [x for x in factors if is_number(x) and abs(x) < _LARGEST]
        if numbers and len(numbers) == len(factors):
            return float(math.prod(numbers))
    return 0.0


def _draw(annotation: Mapping[str, Any], size: Size) -> BoolMap:
    """Draw an annotation: its segmentation, or its box where it has none."""
    if annotation.get("segmentation") not in (None, []):
        return coco_mask(annotation["segmentation"], size)
    box = annotation.get("bbox")
    if box in (None, []):
        raise ValueError("it has neither segmentation nor box")
    points = as_points(box)
    if len(box) != 4 or len(points) != 2:
        raise ValueError("its box is not [x, y, width, height]")
    (left, top), (width, height) = points
    if min(width, height) < 0:
        raise ValueError("a side of its box is negative")
    return box_mask([(left, top), (left + width, top + height)], size)


def _add_stuff(
    images: Iterable[AnnotatedImage], root: Path, semantic: Path, values: Mapping[str, int]
) -> None:
    """Add a region per stuff class from the semantic PNG of each image.

    Args:
        images: of the JSON.
        root: folder of the images.
        semantic: folder of the PNGs; below it they lie as the images do, or all in one folder.
        values: numbers of the stuff classes.
    """
    groups: dict[Path, list[AnnotatedImage]] = defaultdict(list)
    for image in images:
        below = Path(os.path.relpath(image.image, root)).with_suffix(".png")
        path = semantic / below
        if ".." in below.parts or not os.path.isfile(path):
            path = semantic / f"{image.image.stem}.png"
        groups[path].append(image)
    for path, group in groups.items():
        for image in group:
            if not os.path.isfile(path):
                image.problems.append(f"{path}: there is no semantic PNG for {image.image}")
            elif len(group) > 1:
                first, second = group[0].image, group[1].image
                image.faults.append(f"{path}: is it the semantic PNG of {first} or {second}?")
            else:
                image.regions += [
                    Region(name, functools.partial(_draw_stuff, path, value))
                    for name, value in values.items()
                ]


def _draw_stuff(path: Path, value: int, size: Size) -> BoolMap:
    return _read_semantic(path, size) == value


@functools.lru_cache(maxsize=2)  # all classes of an image are drawn one after another
def _read_semantic(path: Path, size: Size) -> IntMap:
    return read_label_image(path, size)
