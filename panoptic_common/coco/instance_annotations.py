"""Boxes and masks from an instances JSON of COCO, beside the panoptic files.

In COCO a panoptic PNG gives each pixel to one object. The instances JSON, from which those were
made, also knows what an object covers behind others. The papers train their detectors on it and
measure AP with it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from panoptic_common.coco.annotations import is_image_id
from panoptic_common.coco.user_files import read_json
from panoptic_common.values import is_integer, is_number


def read_instance_annotations(
    path: str, table: Sequence[Mapping[str, Any]], sizes: Mapping[Any, tuple[int, int]]
) -> dict[Any, list[dict[str, Any]]]:
    """Read the annotations of some images.

    Args:
        path: JSON with the lists `images`, `annotations` and `categories`.
        table: class table of the panoptic data set. Things have the ids and names of `categories`.
        sizes: (height, width) by image id of the panoptic data set. The JSON lists all of these
            images, and may list more.

    Returns:
        By image: annotations as they stand in the file, with ids of the data set. An image without
        any has an empty list.

    Raises:
        FileNotFoundError: naming the file.
        ValueError: naming the file, and the image, category or annotation that does not fit.
    """
    try:
        content: Any = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such instances JSON: {path}") from error
    lists: dict[str, list[dict[str, Any]]] = {}
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{path}: no instances JSON: there is no list {key!r} of objects")
        lists[key] = entries
    _compare_categories(path, lists["categories"], table)
    listed = {image.get("id") for image in lists["images"] if is_image_id(image.get("id"))}
    if absent := [key for key in sizes if key not in listed]:
        raise ValueError(
            f"{path}: lacks {len(absent)} images of the panoptic data set, the first is {absent[0]}"
        )
    found: dict[Any, list[dict[str, Any]]] = {key: [] for key in sizes}
    known = {entry["id"] for entry in table if entry["isthing"]}
    for annotation in lists["annotations"]:
        name = f"{path}: annotation {annotation.get('id')}"
        image_id = annotation.get("image_id")
        if not is_image_id(image_id) or image_id not in listed:
            raise ValueError(f"{name}: its 'image_id' is {image_id!r}, which is not in images[]")
        if image_id not in found:
            continue
        if problem := _problem(annotation, known, sizes[image_id]):
            raise ValueError(f"{name} {problem}")
        found[image_id].append({**annotation, "segmentation": _drawable(annotation)})
    return found


def _drawable(annotation: Mapping[str, Any]) -> Any:
    """Return the mask without polygons of two corners, if there are others; they cover nothing."""
    mask = annotation["segmentation"]
    if isinstance(mask, dict):
        return mask
    return [corners for corners in mask if len(corners) >= 6] or mask


def _problem(annotation: Mapping[str, Any], known: set[Any], size: tuple[int, int]) -> str:
    """Say what is wrong with an annotation of an image of (H, W) pixels; mostly ""."""
    for key in ("bbox", "segmentation", "area", "category_id"):
        if key not in annotation:
            return f"has no {key!r}"
    category, box, area = (annotation[key] for key in ("category_id", "bbox", "area"))
    if not is_integer(category) or category not in known:
        return f"is of category {category!r}, which is no thing"
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return f"has a 'bbox' of {box!r}: give [x, y, width, height]"
    if not is_number(area):
        return f"has an 'area' of {area!r}: give a number of pixels"
    if (crowd := annotation.get("iscrowd", 0)) not in (0, 1) or isinstance(crowd, float):
        return f"has an 'iscrowd' of {crowd!r}: give 0 or 1"
    return _mask_problem(annotation["segmentation"], size)


def _mask_problem(mask: Any, size: tuple[int, int]) -> str:
    if isinstance(mask, dict):
        if mask.get("size") != list(size):
            return f"has a mask of size {mask.get('size')!r}, and its image has {list(size)}"
        counts = mask.get("counts")
        if isinstance(counts, str):
            return ""
        runs = counts if isinstance(counts, list) else [-1]
        whole = all(is_integer(run) and run >= 0 for run in runs)
        if not whole or sum(runs) != size[0] * size[1]:
            return "has a mask whose 'counts' are no run lengths of its image"
        return ""
    if not isinstance(mask, list) or not mask:
        return "has a 'segmentation' that is neither a list of polygons nor a run-length mask"
    for corners in mask:
        numbers = isinstance(corners, list) and all(map(is_number, corners))
        if not numbers or len(corners) < 4 or len(corners) % 2:
            return "has a polygon that is no list of x and y by turns"
    return ""


def _compare_categories(
    path: str, categories: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse other things than those of the class table."""
    theirs = {(entry.get("id"), entry.get("name")) for entry in categories}
    ours = {(entry["id"], entry["name"]) for entry in table if entry["isthing"]}
    if theirs != ours:
        odd = sorted(theirs ^ ours, key=str)[:3]
        raise ValueError(f"{path}: its categories are not the things of the data set: {odd}")
