"""Images without truth: an "image info" JSON, as COCO gives for its test sets.

    {"images": [{"id", "file_name", "height", "width"}, ...], "categories": [...]}

The categories of COCO's own files are those of its instances, without stuff and "isthing". So the
class table comes from elsewhere: another file, or the data set's known classes. Standard library
only.
"""

from __future__ import annotations

import os
from typing import Any

from panoptic_common.coco.annotations import build_class_table, image_problems
from panoptic_common.coco.dataset_files import ImageFinder, why_missing
from panoptic_common.coco.user_files import read_json


def read_image_records(images: str, info_json: str) -> list[dict[str, Any]]:
    """Read the images of a set without truth.

    Args:
        images: folder of the images; subfolders are searched, as for annotated sets.
        info_json: file with the list `images`. Any other list in it is left alone, annotations
            too.

    Returns:
        One dict per image in the order of the file: `file_name`, `image_id`, `height`, `width`.

    Raises:
        ValueError: naming the file and the image, if it is wrong.
        FileNotFoundError: naming the file, or the first image that is missing.
    """
    listed = _list_of(info_json, "images")
    problems = image_problems(listed) if listed else ["the list 'images' is empty"]
    if problems:
        raise ValueError(f"{info_json}: {'; '.join(problems[:3])}")
    finder = ImageFinder(images)
    records, missing = [], []
    owners: dict[str, Any] = {}
    for image in listed:
        path = finder.find(image, image["file_name"])
        if path is None:
            missing.append(f"{images.rstrip('/')}/{image['file_name']}")
            continue
        owner = owners.setdefault(os.path.normpath(path), image["id"])
        if owner != image["id"]:
            raise ValueError(
                f"{info_json}: image {image['id']}: its file {path} is that of image {owner} too"
            )
        records.append(
            {
                "file_name": path,
                "image_id": image["id"],
                "height": int(image["height"]),
                "width": int(image["width"]),
            }
        )
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images that {info_json} lists are missing, the first is "
            f"{missing[0]}{why_missing(missing[0])}"
        )
    return records


def read_class_table(path: str) -> list[dict[str, Any]]:
    """Read the class table of any JSON with panoptic categories, such as that of the training set.

    Args:
        path: of the file.

    Returns:
        As `build_class_table`.

    Raises:
        ValueError: naming the file, if its categories do not tell things from stuff, say.
        FileNotFoundError: there is no such file.
    """
    categories = _list_of(path, "categories")
    if categories and not any("isthing" in category for category in categories):
        raise ValueError(
            f"{path}: its categories do not say what is a thing ('isthing'): name the panoptic JSON"
            " of the data set that the model was trained on"
        )
    return build_class_table(categories, path)


def _list_of(path: str, key: str) -> list[dict[str, Any]]:
    """Return a list of objects that a JSON file holds under a key."""
    try:
        content: Any = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {path}") from error
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: there is no list {key!r} of objects")
    return entries
