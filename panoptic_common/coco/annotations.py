"""The JSON half of a COCO-panoptic data set: read it and check it.

    {"images":      [{"id", "file_name", "height", "width"}, ...],
     "annotations": [{"image_id", "file_name": PNG, "segments_info": [segment, ...]}, ...],
     "categories":  [{"id", "name", "isthing", "color" (optional)}, ...]}

with ``segment = {"id", "category_id", "area", "bbox": [x, y, width, height], "iscrowd"}``. Training
and `tools/check_dataset.py` both read data sets through this module, so that a file which the tool
calls clean is one that training accepts. Standard library only.

Source of the format: https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panoptic_common.coco.segment_ids import MAX_ID, VOID_ID
from panoptic_common.coco.user_files import read_json
from panoptic_common.values import is_colour, is_integer, is_number, is_whole

_NO_IMAGE_ID = "neither an integer nor a text"
MAX_CLASSES = 255  # training numbers the classes from 0, and void has the number 255


@dataclass(frozen=True)
class PanopticPaths:
    """Where one split of a data set lies.

    Attributes:
        images: folder of the images (subfolders are searched where a name alone does not lead to
            a file, as in Cityscapes with its folder per city).
        panoptic_json: the annotation file.
        panoptic_png: folder of the panoptic PNGs.
    """

    images: str
    panoptic_json: str
    panoptic_png: str

    def expected_tree(self) -> str:
        """Describe the files that have to exist, for error messages."""
        return (
            "expected:\n"
            f"  {os.path.join(self.images, '')}  the images named in images[].file_name\n"
            f"  {os.path.join(self.panoptic_png, '')}  the PNGs named in annotations[].file_name\n"
            f"  {self.panoptic_json}  images, annotations and categories"
        )


def read_panoptic_json(paths: PanopticPaths) -> dict[str, Any]:
    """Read the annotation file and check its outermost structure.

    Args:
        paths: the split; only `panoptic_json` is opened.

    Returns:
        The parsed file, with the lists `images`, `annotations` and `categories`.

    Raises:
        FileNotFoundError: with the expected tree, if there is no such file.
        ValueError: naming the file, if it is damaged or not in the panoptic format.
    """
    path = paths.panoptic_json
    try:
        data: Any = read_json(path)
    except FileNotFoundError as error:
        text = f"no such annotation file: {path}\n{paths.expected_tree()}"
        raise FileNotFoundError(text) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(
                f"{path}: not in the COCO panoptic format: there is no list {key!r}"
                " (an instances JSON is another format)"
            )
        require_objects(data[key], f"{path}: {key}")
    return dict(data)


def require_objects(entries: Sequence[Any], name: str) -> None:
    """Refuse a list that holds anything but objects.

    Raises:
        ValueError: with the name of the list and the place of the entry.
    """
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{name}[{position}] is {repr(entry)[:60]}, but must be an object")


# ------------------------------------------------------------------------------------ classes


def build_class_table(categories: Sequence[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    """Make the class table: the classes in ascending order of their ids in the data set.

    The position in the table is the contiguous class id 0..K-1.

    Args:
        categories: the `categories` of the JSON.
        source: name of the file, for error messages.

    Returns:
        K dicts ``{"id", "name", "isthing": 0 or 1, "color": [r, g, b]}``. A class without a colour
        gets one from a fixed sequence of hues, the same in every run.

    Raises:
        ValueError: naming `source` and the category that is wrong.
    """
    problems = category_problems(categories)
    if problems:
        raise ValueError(f"{source}: " + "; ".join(problems[:5]))
    ordered = sorted(categories, key=lambda category: category["id"])
    return [
        {
            "id": category["id"],
            "name": category["name"],
            "isthing": int(category["isthing"]),
            "color": list(category.get("color") or palette_colour(position)),
        }
        for position, category in enumerate(ordered)
    ]


def category_problems(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """List what is wrong with the categories, one sentence each, naming the category."""
    problems = [] if categories else ["categories: the list is empty"]
    if len(categories) > MAX_CLASSES:
        problems.append(f"categories: {len(categories)} classes, at most {MAX_CLASSES} can be used")
    seen_ids: set[int] = set()
    seen_names: set[str] = set()
    for position, category in enumerate(categories):
        name = f"category {category.get('id', f'at position {position}')}"
        if not is_integer(category.get("id")):
            problems.append(f"{name}: 'id' is {_shown(category.get('id'), 'no integer')}")
        elif category["id"] in seen_ids:
            problems.append(f"{name}: the id occurs more than once")
        else:
            seen_ids.add(category["id"])
        if fault := class_name_fault(category.get("name")):
            problems.append(f"{name}: 'name' is {fault}")
        elif category["name"] in seen_names:
            problems.append(f"{name}: the name {category['name']!r} occurs more than once")
        else:
            seen_names.add(category["name"])
        if category.get("isthing") not in (0, 1):  # True and False are 1 and 0
            problems.append(f"{name}: 'isthing' is missing or neither 0 nor 1")
        if category.get("color") is not None and not is_colour(category["color"]):
            problems.append(f"{name}: 'color' is not three integers from 0 to 255")
    return problems


def palette_colour(position: int) -> list[int]:
    """Return a colour, [r, g, b] of 0..255, for the class at this position of the table.

    Steps of the golden ratio round the hue circle keep neighbours apart for any number of classes.
    Three rows of brightness separate hues that come close again.
    """
    hue = (position * 0.6180339887498949) % 1.0
    value = (0.95, 0.75, 0.55)[position % 3]
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.65, value)]


def is_image_id(value: Any) -> bool:
    """Tell whether a value can be the id of an image: a whole number or a text."""
    return isinstance(value, str) or is_integer(value)


def _shown(value: Any, wrong: str) -> str:
    """Say that a value is missing, or show it and what is wrong with it."""
    text = repr(value)
    return "missing" if value is None else f"{text if len(text) < 60 else text[:60]}, {wrong}"


def class_name_fault(name: Any) -> str:
    """Return why a value can be no name of a class, as it would spoil a table; "" if it can."""
    if not isinstance(name, str) or not name:
        return "missing"
    if not name.strip():
        return f"{name!r}, nothing but spaces"
    return "" if name.isprintable() else f"{name!r}, which has characters that cannot be printed"


# -------------------------------------------------------------------------------- annotations


def known_ids(entries: Iterable[Mapping[str, Any]]) -> frozenset[int | str]:
    """Return the ids in `images` or `categories`, leaving out those that can be no id."""
    return frozenset(e["id"] for e in entries if is_image_id(e.get("id")))


def image_problems(images: Iterable[Mapping[str, Any]]) -> list[str]:
    """List what is wrong with the `images` of the JSON, one sentence each, naming the image."""
    problems = []
    seen: set[Any] = set()
    for position, image in enumerate(images):
        name = f"image {image.get('id', f'at position {position}')}"
        if not is_image_id(image.get("id")):
            problems.append(f"{name}: 'id' is {_shown(image.get('id'), _NO_IMAGE_ID)}")
        elif image["id"] in seen:
            problems.append(f"{name}: the id occurs more than once in images[]")
        else:
            seen.add(image["id"])
        if not isinstance(image.get("file_name"), str):
            problems.append(f"{name}: 'file_name' is missing")
        for key in ("height", "width"):
            value: Any = image.get(key)
            if not is_whole(value) or value < 1:
                problems.append(f"{name}: {key!r} is {value!r}, no positive integer")
    texts = [key for key in seen if isinstance(key, str)]
    if 0 < len(texts) < len(seen):
        number = next(key for key in seen if not isinstance(key, str))
        problems.append(
            f"images[] has ids that are numbers, such as {number}, and ids that are texts, such as "
            f"{texts[0]!r}: give one kind"
        )
    return problems


def annotation_problems(
    annotation: Mapping[str, Any],
    image_ids: Collection[int | str],
    category_ids: Collection[int | str],
    stuff_ids: Collection[int] = (),
) -> list[str]:
    """List what is wrong with one annotation as far as the JSON alone shows it.

    Args:
        annotation: one of `annotations`.
        image_ids: the ids in `images`.
        category_ids: the ids in `categories`.
        stuff_ids: those of stuff, of which an image has one segment each, crowds aside.

    Returns:
        One sentence per problem, each naming the image and, where there is one, the segment.
    """
    name = f"image {annotation.get('image_id')}"
    problems = []
    if not is_image_id(annotation.get("image_id")):
        found = _shown(annotation.get("image_id"), _NO_IMAGE_ID)
        problems.append(f"annotation of {annotation.get('file_name')}: 'image_id' is {found}")
    elif annotation["image_id"] not in image_ids:
        kind = _other_kind(annotation["image_id"], image_ids)
        problems.append(f"{name}: annotated, but not in images[]{kind}")
    if not isinstance(annotation.get("file_name"), str):
        problems.append(f"{name}: 'file_name' (of the panoptic PNG) is missing")
    segments = annotation.get("segments_info")
    if not isinstance(segments, list):
        return [*problems, f"{name}: 'segments_info' is missing"]
    seen: set[int] = set()
    for position, segment in enumerate(segments):
        wrong = _segment_problem(segment, seen, category_ids)
        if wrong:
            label = segment.get("id") if isinstance(segment, dict) else None
            label = f"at position {position}" if label is None else label
            problems.append(f"{name}, segment {label}: {wrong}")
    return problems + [f"{name}, {problem}" for problem in repeated_stuff(segments, stuff_ids)]


def repeated_stuff(segments: Sequence[Any], stuff_ids: Collection[int]) -> list[str]:
    """Return a sentence per segment of a stuff class that has one already, crowds aside."""
    problems = []
    first: dict[int, Any] = {}
    for segment in segments:
        category: Any = segment.get("category_id") if isinstance(segment, dict) else None
        if not is_integer(category) or category not in stuff_ids or segment.get("iscrowd"):
            continue
        other = first.setdefault(category, segment.get("id"))
        if other != segment.get("id"):
            problems.append(
                f"segment {segment.get('id')}: second segment of stuff category {category} (the"
                f" first is {other}); a stuff class has one segment per image: give both one id"
            )
    return problems


def _segment_problem(
    segment: Any, seen: set[int], category_ids: Collection[int | str]
) -> str | None:
    """Return the first thing that is wrong with a segment; adds its id to `seen`."""
    if not isinstance(segment, dict):
        return "not an object"
    segment_id = segment.get("id")
    if not is_integer(segment_id) or not VOID_ID < segment_id <= MAX_ID:
        return f"'id' is not an integer of 1..{MAX_ID} (0 is void)"
    if segment_id in seen:
        return "the id is listed more than once in this image"
    seen.add(segment_id)
    category = segment.get("category_id")
    if not is_integer(category) or category not in category_ids:
        return f"category {category} is not in categories[]{_other_kind(category, category_ids)}"
    if segment.get("iscrowd") not in (None, 0, 1):
        return f"'iscrowd' is {segment['iscrowd']}, neither 0 nor 1"
    # Area and box follow from the PNG, so they may be left out.
    area, box = segment.get("area"), segment.get("bbox")
    if area is not None and not is_number(area):
        return f"'area' is {area!r}, no number of pixels"
    if box is not None and box != [] and not _is_box(box):
        return "'bbox' is not [x, y, width, height] of four numbers"
    return None


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _other_kind(value: Any, ids: Collection[int | str]) -> str:
    """Say so if ids hold the value as text where it is a number, or the other way round."""
    if isinstance(value, str) and any(str(known) == value for known in ids):
        return f" ({value!r} is text, there it is a number)"
    if is_integer(value) and str(value) in ids:
        return f" ({value} is a number, there it is the text {str(value)!r})"
    if isinstance(value, (float, bool)) and value in ids:  # pandas writes 4.0 where a row had none
        return f" (there it is {int(value)}: write ids as whole numbers)"
    return ""
