"""Read a COCO instances JSON, with or without a folder of semantic PNGs for the stuff.

Instances overlap in COCO; smaller ones are laid on top. What a semantic PNG says counts where no
instance lies. CVAT's export "COCO 1.0" is such a JSON, too, as is Label Studio's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from panoptic_common.coco.annotated_images import AnnotatedImage, FoundImages, Region
from panoptic_common.coco.instance_masks import IntMap, read_label_image
from panoptic_common.coco.shapes import BoolMap, Size, box_mask, coco_mask
from panoptic_common.coco.user_files import read_json


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
    names = {entry.get("id"): str(entry.get("name")) for entry in data["categories"]}
    problems: list[str] = []
    found: dict[Any, AnnotatedImage] = {}
    for entry in data["images"]:
        if "id" not in entry or not isinstance(entry.get("file_name"), str):
            problems.append(f"{path}: an image has no id or no file_name: {entry}")
            continue
        found[entry["id"]] = _image(entry, Path(images))
    stuff = list((values or {}).keys())
    if semantic is not None:
        for image in found.values():
            image.regions += _stuff_of(Path(semantic), image, values or {})
    # From the largest to the smallest, so that a small one lies on a large one.
    for entry in sorted(data["annotations"], key=_area, reverse=True):
        owner = found.get(entry.get("image_id"))
        label = names.get(entry.get("category_id"))
        if owner is None or label is None:
            what = "image_id" if owner is None else "category_id"
            problems.append(
                f"{path}: annotation {entry.get('id')} has an unknown {what} {entry.get(what)!r}"
            )
            continue
        draw = functools.partial(_draw, entry)
        owner.regions.append(Region(label, draw, crowd=bool(entry.get("iscrowd"))))
    return FoundImages(list(found.values()), [*names.values(), *stuff], problems)


def _image(entry: Mapping[str, Any], folder: Path) -> AnnotatedImage:
    """Start an image without regions; a folder in its name becomes a part of its name."""
    name = "_".join(PurePath(entry["file_name"]).with_suffix("").parts)
    height, width = entry.get("height"), entry.get("width")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return AnnotatedImage(name, folder / entry["file_name"], size)


def _area(annotation: Mapping[str, Any]) -> float:
    """Return the area that an annotation states, or else that of its box."""
    area, box = annotation.get("area"), annotation.get("bbox")
    if isinstance(area, (int, float)):
        return float(area)
    if isinstance(box, list) and len(box) == 4:
        return float(box[2]) * float(box[3])
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
