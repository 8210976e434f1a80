"""From a COCO-panoptic data set on disk to the list of dicts that Detectron2 works with.

The strict reader: the first thing that is wrong in the JSON, or missing on the disk, is an error
that names it. `check.check_dataset` is the patient one, which lists everything and looks
into the files too. Both apply the rules of `annotations`. What training does about each fault is in
`docs/howto/data_faults.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from panoptic_common.coco.annotations import (
    PanopticPaths,
    annotation_problems,
    build_class_table,
    image_problems,
    known_ids,
    read_panoptic_json,
)
from panoptic_common.coco.dataset_files import DatasetFiles, why_missing
from panoptic_common.coco.image_reading import ImageSizeError, read_image_size, size_text
from panoptic_common.coco.segment_ids import VOID_ID, IntArray, present_ids, read_id_map
from panoptic_common.coco.user_files import error_text


class DataFileError(ValueError):
    """A file of a data set cannot be used; the message is one sentence for the user."""

    def __str__(self) -> str:
        """Return the sentence alone; a loader puts the traceback of its worker before it."""
        return super().__str__().rpartition("DataFileError: ")[2].strip()


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
    _refuse(_empty_problems(data), paths.panoptic_json)
    refuse_problems(data, table, paths.panoptic_json)
    contiguous = {entry["id"]: position for position, entry in enumerate(table)}
    images = {image["id"]: image for image in data["images"]}
    files = DatasetFiles(paths)
    missing: list[str] = []
    shared: list[str] = []
    records = []
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        file_name = files.find_image(image, annotation["file_name"])
        png = files.find_png(annotation["file_name"])
        if file_name is None:
            missing.append(files.image_path(image))
        if png is None:
            missing.append(files.png_path(annotation["file_name"]))
        shared += files.sharing_problems(image["id"], file_name, png)
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
            f"{len(missing)} files are missing, the first is {missing[0]}{why_missing(missing[0])}"
            f"\n{paths.expected_tree()}"
        )
    _refuse(shared, paths.panoptic_json)
    return table, records


def _refuse(problems: Sequence[str], path: str) -> None:
    """Raise the first problems, if there is any."""
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems[:3])}. panoptic-check lists everything")


def _empty_problems(data: Mapping[str, Any]) -> list[str]:
    """Say that there is nothing to learn in a set; else []."""
    if not data["annotations"]:
        return ["no image is annotated"]
    if not any(a.get("segments_info", True) for a in data["annotations"]):
        return ["no image has a segment, so that not one pixel is labelled"]
    return []


def refuse_problems(data: Mapping[str, Any], table: Sequence[Mapping[str, Any]], path: str) -> None:
    """Refuse a JSON by what it shows alone; the categories are checked by `build_class_table`.

    Args:
        data: lists of objects, `images`, `annotations` and `categories`.
        table: class table.
        path: of the file, for the error.

    Raises:
        ValueError: with the first problems.
    """
    problems = image_problems(data["images"])
    image_ids, category_ids = known_ids(data["images"]), known_ids(data["categories"])
    stuff = frozenset(entry["id"] for entry in table if not entry["isthing"])
    seen: set[int | str] = set()
    for annotation in data["annotations"]:
        if problems:
            break
        problems = annotation_problems(annotation, image_ids, category_ids, stuff)
        if not problems and annotation["image_id"] in seen:
            problems = [f"image {annotation['image_id']}: annotated more than once"]
        elif not problems:
            seen.add(annotation["image_id"])
    _refuse(problems, path)


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


# ------------------------------------------------------------------------- the files of a record


def try_records(records: Sequence[Mapping[str, Any]], count: int = 8) -> None:
    """Look into a few images, spread over a data set, for a fault that all of them have.

    Reading all files would take as long as an epoch; a converter's mistake shows in the first ones.

    Args:
        records: of `read_records`, or images without truth.
        count: images to look into.

    Raises:
        DataFileError: naming the first file that training would refuse. Or saying that no PNG has
            a pixel of a segment, so that there is nothing to learn.
    """
    count = min(count, len(records))
    chosen = [records[k * len(records) // count] for k in range(count)]
    listed, labelled = [], 0  # those that list segments, and those of them that show one
    for record in chosen:
        size = record["height"], record["width"]
        try:
            found = read_image_size(record["file_name"])
        except (OSError, ValueError) as error:
            raise DataFileError(error_text(error)) from error
        if found != size:
            raise DataFileError(image_size_problem(record, found))
        if "pan_seg_file_name" not in record:
            continue
        ids = present_ids(read_record_ids(record, size))
        if record["segments_info"]:
            listed.append(record)
            labelled += bool(ids.any())
    if listed and not labelled:
        raise DataFileError(
            f"{listed[0]['pan_seg_file_name']}: not one pixel belongs to a segment, as in all"
            f" {len(listed)} PNGs that were looked at; the JSON lists segments there, so the PNGs"
            " were written wrongly"
        )


def image_size_problem(record: Mapping[str, Any], size: tuple[int, int]) -> str:
    """Say that an image has another (height, width) than its record gives."""
    return (
        f"{record['file_name']}: the image is {size_text(size)}, but the JSON gives image"
        f" {record.get('image_id')} {record['height']} x {record['width']}"
    )


def read_record_ids(record: Mapping[str, Any], size: tuple[int, int]) -> IntArray:
    """Read the panoptic map of a record, and compare it with the JSON and the image.

    Args:
        record: of `read_records`.
        size: (height, width) of its image.

    Returns:
        (H, W) segment ids.

    Raises:
        DataFileError: naming it, if it is missing or no panoptic map, has another size, or holds
            an id that the JSON does not list.
    """
    path = record.get("pan_seg_file_name")
    if path is None:
        raise DataFileError(
            f"image {record.get('image_id')} ({record['file_name']}) has no truth"
            " ('pan_seg_file_name'): name a data set that register_panoptic has registered"
        )
    try:
        id_map = read_id_map(path, size)
    except ImageSizeError as error:
        raise DataFileError(
            f"{path} is {size_text(error.size)}, but its image {record['file_name']} is"
            f" {size[0]} x {size[1]}"
        ) from error
    except (OSError, ValueError) as error:
        raise DataFileError(error_text(error)) from error
    # An id of the JSON without a pixel is harmless (it drops out); the reverse would be a class
    # that nobody knows.
    unknown = unknown_ids(present_ids(id_map), record)
    if unknown:
        raise DataFileError(
            f"{path}: ids {unknown[:5]} ({len(unknown)} in all) are not in segments_info of image"
            f" {record.get('image_id')}. panoptic-check lists everything"
        )
    return id_map


def unknown_ids(ids: IntArray, record: Mapping[str, Any]) -> list[int]:
    """List the ids that the JSON of an image does not know."""
    known = {segment["id"] for segment in record["segments_info"]} | {VOID_ID}
    return [segment_id for segment_id in ids.tolist() if segment_id not in known]
