"""From a COCO-panoptic data set on disk to the list of dicts that Detectron2 works with.

The strict reader: the first thing that is wrong in the JSON, or missing on the disk, is an error
that names it. `check.check_dataset` is the patient one, which lists everything and looks
into the files too. Both apply the rules of `annotations`. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from panoptic_common.coco.annotations import (
    ImageFinder,
    PanopticPaths,
    annotation_problems,
    build_class_table,
    image_problems,
    known_ids,
    list_folder,
    read_panoptic_json,
)


def read_records(paths: PanopticPaths) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read one split.

    Args:
        paths: where it lies.

    Returns:
        class_table: see `build_class_table`.
        records: one dict per annotated image, in the order of the JSON. Its keys are `file_name`,
        `image_id`,
            `height`, `width`, `pan_seg_file_name` and `segments_info`, a list of ``{"id",
            "category_id" (contiguous), "isthing", "iscrowd"}`` and, where the JSON
            has them, "area" and "bbox".

    Raises:
        ValueError: naming the file and the place in it, if the JSON is wrong.
        FileNotFoundError: naming the first missing file, how many there are, and the expected tree.
    """
    data = read_panoptic_json(paths)
    table = build_class_table(data["categories"], paths.panoptic_json)
    _refuse_problems(data, paths.panoptic_json)
    contiguous = {entry["id"]: position for position, entry in enumerate(table)}
    images = {image["id"]: image for image in data["images"]}
    finder = ImageFinder(paths.images)
    listings: dict[str, frozenset[str]] = {}
    missing: list[str] = []
    records = []
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        file_name = finder.find(image, annotation["file_name"])
        if file_name is None:
            missing.append(os.path.join(paths.images, image["file_name"]))
        png = os.path.join(paths.panoptic_png, annotation["file_name"])
        if os.path.basename(png) not in list_folder(os.path.dirname(png), listings):
            missing.append(png)
        segments = [_make_segment(s, contiguous, table) for s in annotation["segments_info"]]
        records.append(
            {
                "file_name": file_name,
                "image_id": image["id"],
                "height": int(image["height"]),
                "width": int(image["width"]),
                "pan_seg_file_name": png,
                "segments_info": segments,
            }
        )
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files are missing, the first is {missing[0]}\n{paths.expected_tree()}"
        )
    return table, records


def _refuse_problems(data: Mapping[str, Any], path: str) -> None:
    """Raise the first problems that the JSON alone shows; the categories are checked elsewhere."""
    problems = image_problems(data["images"])
    if not data["annotations"]:
        problems.append("no image is annotated")
    elif not any(a.get("segments_info", True) for a in data["annotations"]):
        problems.append("no image has a segment, so that not one pixel is labelled")
    image_ids, category_ids = known_ids(data["images"]), known_ids(data["categories"])
    seen: set[int | str] = set()
    for annotation in data["annotations"]:
        if problems:
            break
        problems = annotation_problems(annotation, image_ids, category_ids)
        if not problems and annotation["image_id"] in seen:
            problems = [f"image {annotation['image_id']}: annotated more than once"]
        elif not problems:
            seen.add(annotation["image_id"])
    if problems:
        raise ValueError(
            f"{path}: {'; '.join(problems[:3])}. tools/check_dataset.py lists everything"
        )


def _make_segment(
    segment: Mapping[str, Any], contiguous: Mapping[int, int], table: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Convert one segment of the JSON; the category becomes the contiguous id."""
    category = contiguous[segment["category_id"]]
    entry = {
        "id": segment["id"],
        "category_id": category,
        "isthing": bool(table[category]["isthing"]),
        "iscrowd": int(segment.get("iscrowd") or 0),
    }
    if segment.get("area") is not None:
        entry["area"] = int(segment["area"])
    if segment.get("bbox"):
        entry["bbox"] = list(segment["bbox"])
    return entry
