"""What `label_images.py` writes: label images of a data set, beside copies of its images."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from panoptic_common.coco.annotations import build_class_table
from panoptic_common.coco.image_reading import read_image_size
from panoptic_common.coco.instance_masks import number_instances
from panoptic_common.coco.pairing import read_lists
from panoptic_common.coco.records import image_size_problem, read_record_ids, refuse_problems
from panoptic_tools.error_images import find_images
from panoptic_tools.outputs import require_apart


def class_of(table: Sequence[dict[str, Any]], name: str, *, isthing: bool, option: str) -> int:
    """Return the contiguous class of a name.

    Raises:
        ValueError: there is no such class of that kind; the sentence lists them.
    """
    names = [entry["name"] for entry in table if bool(entry["isthing"]) == isthing]
    if name not in names:
        kind = "thing" if isthing else "stuff"
        raise ValueError(f"{option} is {name!r}, but the {kind} classes are {', '.join(names)}")
    return next(k for k, entry in enumerate(table) if entry["name"] == name)


def read_data_set(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[Any, Any]]:
    """Read the JSON by the rules of a training.

    Returns:
        The content, the class table, and the entries of `images` by id.

    Raises:
        ValueError, OSError: it cannot be read, or something in it is wrong; says where.
    """
    content = read_lists(path, "images", "annotations", "categories")
    table = build_class_table(content["categories"], str(path))
    refuse_problems(content, table, str(path))
    return content, table, {image["id"]: image for image in content["images"]}


class Labelled(NamedTuple):
    """An image of the data set and what is written of it; the record is one of `read_records`."""

    record: dict[str, Any]
    copy: Path
    labels: Path


def write_labels(options: argparse.Namespace) -> int:
    """Write a label image per image, and a copy of the image; returns how many."""
    content, table, images = read_data_set(options.json)
    thing = table[class_of(table, options.thing, isthing=True, option="--thing")]["id"]
    files = find_images(options.images, content, options.json)
    plan = []
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        record = {**image, **annotation, "file_name": files[image["id"]]}
        record["pan_seg_file_name"] = str(options.png / annotation["file_name"])
        plan.append(Labelled(record, *places(options, Path(record["file_name"]))))
    refuse_equal_names([(item.record["file_name"], (item.copy, item.labels)) for item in plan])
    require_apart(
        [("FOLDER", path) for item in plan for path in (item.copy, item.labels)],
        [("--images", item.record["file_name"]) for item in plan]
        + [("--png", item.record["pan_seg_file_name"]) for item in plan]
        + [("JSON", options.json)],
    )
    for item in plan:
        found = read_image_size(item.record["file_name"])
        if found != (item.record["height"], item.record["width"]):
            raise ValueError(image_size_problem(item.record, found))
    for item in tqdm(plan, unit="image", disable=None):
        ids = [s["id"] for s in item.record["segments_info"] if s["category_id"] == thing]
        size = int(item.record["height"]), int(item.record["width"])
        labels = number_instances(read_record_ids(item.record, size), ids)
        item.copy.parent.mkdir(parents=True, exist_ok=True)
        item.labels.parent.mkdir(exist_ok=True)
        shutil.copyfile(item.record["file_name"], item.copy)
        Image.fromarray(labels).save(item.labels)
    return len(plan)


def places(options: argparse.Namespace, image: Path) -> tuple[Path, Path]:
    """Return where the copy of an image and its label image go, by --layout."""
    if options.layout == "pairs":
        folders = options.folder / "images", options.folder / "masks"
        return folders[0] / image.name, folders[1] / f"{image.stem}.png"
    return options.folder / image.name, options.folder / f"{image.stem}_masks.png"


def refuse_equal_names(images: Sequence[tuple[str, Sequence[Path]]]) -> None:
    """Refuse images of which a file would be one, as images of several folders may be.

    Args:
        images: name of each, and its files.

    Raises:
        ValueError: naming two.
    """
    seen: dict[Path, int] = {}
    for number, (name, files) in enumerate(images):
        for file in files:
            other = seen.setdefault(file, number)
            if other != number:
                raise ValueError(
                    f"{images[other][0]} and {name} would have the same label image,"
                    f" {file.name}: rename one"
                )
