"""Boxes and masks from an instances JSON of COCO, beside the panoptic files.

In COCO a panoptic PNG gives each pixel to one object. The instances JSON, from which those were
made, also knows what an object covers behind others. The papers train their detectors on it and
measure AP with it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from panoptic_common.coco.user_files import read_json


def read_instance_annotations(
    path: str, table: Sequence[Mapping[str, Any]], image_ids: Collection[Any]
) -> dict[Any, list[dict[str, Any]]]:
    """Read the annotations of some images.

    Args:
        path: JSON with the lists `images`, `annotations` and `categories`.
        table: class table of the panoptic data set. Things have the ids and names of `categories`.
        image_ids: of the panoptic data set; the JSON lists them all, and may list more.

    Returns:
        By image: annotations as they stand in the file, with ids of the data set. An image without
        any has an empty list.

    Raises:
        FileNotFoundError: naming the file.
        ValueError: naming the file, and the image or category that does not fit.
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
    listed = {image.get("id") for image in lists["images"]}
    if absent := [key for key in image_ids if key not in listed]:
        raise ValueError(
            f"{path}: lacks {len(absent)} images of the panoptic data set, the first is {absent[0]}"
        )
    found: dict[Any, list[dict[str, Any]]] = {key: [] for key in image_ids}
    known = {entry["id"] for entry in table if entry["isthing"]}
    for annotation in lists["annotations"]:
        if annotation.get("image_id") not in found:
            continue
        for key in ("bbox", "segmentation", "area", "category_id"):
            if key not in annotation:
                raise ValueError(f"{path}: annotation {annotation.get('id')} has no {key!r}")
        if annotation["category_id"] not in known:
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} is of category "
                f"{annotation['category_id']}, which is no thing"
            )
        found[annotation["image_id"]].append(annotation)
    return found


def _compare_categories(
    path: str, categories: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse other things than those of the class table."""
    theirs = {(entry.get("id"), entry.get("name")) for entry in categories}
    ours = {(entry["id"], entry["name"]) for entry in table if entry["isthing"]}
    if theirs != ours:
        odd = sorted(theirs ^ ours, key=str)[:3]
        raise ValueError(f"{path}: its categories are not the things of the data set: {odd}")
