"""Pair the predictions of a panoptic JSON with the truth of another, image by image.

Two files that do not belong together, or halves of files, give figures like any others. So whatever
is missing, double or contradicts itself is an error that names the image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from panoptic_common.coco.annotations import (
    build_class_table,
    is_image_id,
    repeated_stuff,
    require_objects,
)
from panoptic_common.coco.user_files import read_json
from panoptic_common.values import is_integer


class AnnotatedPair(NamedTuple):
    """What two files say of one image; the segments have contiguous classes."""

    image_id: int | str
    truth_png: str
    truth_segments: list[dict[str, Any]]
    prediction_png: str
    prediction_segments: list[dict[str, Any]]


def pair_annotations(
    truth: Path, predictions: Path
) -> tuple[list[AnnotatedPair], list[dict[str, Any]], int]:
    """Read two files and pair their annotations by `image_id`.

    Args:
        truth: JSON with annotations and categories.
        predictions: JSON with annotations.

    Returns:
        pairs: one per image of the truth.
        table: see `build_class_table`.
        extra: how many predictions are of images that the truth does not have.

    Raises:
        ValueError, OSError: a file cannot be read, or an image has no prediction, two, or one that
            is named as that of another image. Also for a category that the truth does not know, or
            knows by the name of another one. Also for a truth without an image, or with two
            segments of one stuff class in an image.
    """
    content = read_lists(truth, "annotations", "categories")
    true_annotations = content["annotations"]
    table = build_class_table(content["categories"], str(truth))
    contiguous = {entry["id"]: k for k, entry in enumerate(table)}
    content_of_predictions = read_lists(predictions, "annotations")
    predicted = content_of_predictions["annotations"]
    if not true_annotations:
        raise ValueError(f"{truth}: no image is annotated, so that there is nothing to compare")
    _require_fields(true_annotations, truth)
    _require_one_stuff(true_annotations, table, truth)
    _require_fields(predicted, predictions)
    _require_same_names(table, content_of_predictions.get("categories"), predictions)
    _require_same_pairs(true_annotations, predicted, predictions)
    by_id = {annotation["image_id"]: annotation for annotation in predicted}
    pairs = []
    for annotation in true_annotations:
        image_id = annotation["image_id"]
        if image_id not in by_id:
            other = next((p for p in by_id if str(p) == str(image_id)), None)
            hint = "" if other is None else f" (there is {other!r}: a text is no number)"
            raise ValueError(f"{predictions}: no prediction for image {image_id!r}{hint}")
        pairs.append(
            AnnotatedPair(
                image_id,
                annotation["file_name"],
                _with_classes(annotation, contiguous, truth),
                by_id[image_id]["file_name"],
                _with_classes(by_id[image_id], contiguous, predictions),
            )
        )
    return pairs, table, len(by_id) - len(pairs)


def read_lists(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that holds the lists `keys`, and nothing but objects in each.

    Raises:
        ValueError, OSError: naming the file.
    """
    content = read_json(path)
    missing = [
        k for k in keys if not isinstance(content, dict) or not isinstance(content.get(k), list)
    ]
    if missing:
        raise ValueError(f"{path}: there is no list {missing[0]!r}; this is not a panoptic JSON")
    for key in keys:
        require_objects(content[key], f"{path}: {key}")
    return content


def _require_fields(annotations: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Refuse entries that lack what an evaluation reads, and images or PNGs that are listed twice.

    Raises:
        ValueError: naming the file, and the image or the place of the entry.
    """
    seen = set()
    owners: dict[str, Any] = {}
    for place, entry in enumerate(annotations):
        where = f"{path}: annotations[{place}]"
        image_id = entry.get("image_id")
        if not is_image_id(image_id):
            found = "" if image_id is None else f" that is a whole number or a text: {image_id!r}"
            raise ValueError(f"{where} has no image_id{found}")
        where += f" (image {entry['image_id']!r})"
        if entry["image_id"] in seen:
            raise ValueError(f"{where}: the image is listed twice")
        seen.add(entry["image_id"])
        png = entry.get("file_name")
        if not isinstance(png, str):
            raise ValueError(f"{where} has no file_name of its PNG")
        owner = owners.setdefault(os.path.normpath(png), entry["image_id"])
        if owner != entry["image_id"]:
            raise ValueError(f"{where}: its PNG {png} is that of image {owner!r} too")
        segments = entry.get("segments_info")
        if not isinstance(segments, list):
            raise ValueError(f"{where} has no list segments_info")
        for segment in segments:
            if wrong := _segment_fault(segment):
                raise ValueError(f"{where}: {wrong}")


def _require_one_stuff(
    annotations: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Refuse a truth that has two segments of one stuff class in an image, as training does.

    Raises:
        ValueError: naming the file, the image and both segments.
    """
    stuff = frozenset(entry["id"] for entry in table if not entry["isthing"])
    for entry in annotations:
        if wrong := repeated_stuff(entry["segments_info"], stuff):
            raise ValueError(f"{path}: image {entry['image_id']!r}, {wrong[0]}")


def _segment_fault(segment: Any) -> str:
    """Return what is wrong with the fields of a segment that an evaluation reads, or ""."""
    for key in ("id", "category_id"):
        value = segment.get(key) if isinstance(segment, dict) else None
        if not is_integer(value):
            found = "" if value is None else f" that is whole: {value!r}"
            return f"a segment has no number {key!r}{found}"
    if segment.get("iscrowd") not in (None, 0, 1):
        return f"segment {segment['id']} has iscrowd {segment['iscrowd']!r}, neither 0 nor 1"
    return ""


def _require_same_names(
    table: Sequence[Mapping[str, Any]], categories: Any, predictions: Path
) -> None:
    """Refuse predictions whose own categories give the name of one class to the id of another.

    Names may differ: programs abbreviate them. But a name of the truth says which class is meant.

    Raises:
        ValueError: naming the file and the category.
    """
    id_of = {entry["name"]: entry["id"] for entry in table}
    known = set(id_of.values())
    for category in categories if isinstance(categories, list) else []:
        name = category.get("name") if isinstance(category, dict) else None
        number = category.get("id") if isinstance(category, dict) else None
        if not isinstance(name, str) or not is_integer(number) or number not in known:
            continue
        if id_of.get(name, number) != number:
            raise ValueError(
                f"{predictions}: category {number} is {name!r} there, which is category"
                f" {id_of[name]} of the truth: give both files the same categories"
            )


def _require_same_pairs(
    truth: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Refuse predictions whose numbers say another image than the names of their PNGs.

    A program that counts images in an order of its own gives the number of one image to another.
    PNGs have any names; but one that has the name of another image's true PNG is that image's.

    Raises:
        ValueError: naming the file and both images.
    """
    image_of = {os.path.normpath(a["file_name"]): a["image_id"] for a in truth}
    known = set(image_of.values())
    for entry in predictions:
        named = image_of.get(os.path.normpath(entry["file_name"]), entry["image_id"])
        if named != entry["image_id"] and entry["image_id"] in known:
            raise ValueError(
                f"{path}: by its image_id an entry is of image {entry['image_id']!r}, by its"
                f" file_name {entry['file_name']} of image {named!r}; correct one of them"
            )


def _with_classes(
    annotation: Mapping[str, Any], contiguous: Mapping[int, int], path: Path
) -> list[dict[str, Any]]:
    """Copy the segments of an image, with contiguous classes."""
    segments = []
    for segment in annotation["segments_info"]:
        if segment["category_id"] not in contiguous:
            raise ValueError(
                f"{path}: image {annotation['image_id']!r}, segment {segment['id']}: unknown"
                f" category_id {segment['category_id']}"
            )
        segments.append({**segment, "category_id": contiguous[segment["category_id"]]})
    return segments
