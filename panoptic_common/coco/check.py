"""Is a COCO-panoptic data set sound? Compare images, PNGs and JSON with one another.

One wrong file among a hundred thousand shows as a crash in the third night of training, or as a
PQ of zero. `check_dataset` reads everything once and lists all that is wrong,
each sentence naming the image and the segment. `tools/check_dataset.py` is the program for it.

Shape shorthand: H, W image size in pixels; K number of classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from panoptic_common.coco.annotations import (
    PanopticPaths,
    annotation_problems,
    build_class_table,
    category_problems,
    image_problems,
    is_image_id,
    known_ids,
    read_panoptic_json,
)
from panoptic_common.coco.dataset_files import DatasetFiles, list_folder, why_missing
from panoptic_common.coco.image_reading import (
    ImageSizeError,
    read_image,
    read_image_size,
    size_text,
)
from panoptic_common.coco.segment_ids import (
    VOID_ID,
    read_id_map,
    segment_areas_and_boxes,
    segment_problems,
)
from panoptic_common.processes.worker_pool import map_in_processes
from panoptic_common.values import is_integer

_CHUNK = 16  # images that a worker process gets at a time


@dataclass(frozen=True)
class CheckTask:
    """What `check_image` needs to know about one image; small, so that it travels to a worker.

    Attributes:
        image_id: id of the image.
        image: its file, or None if there is none (reported elsewhere).
        png: its panoptic PNG, or None likewise.
        size: (height, width) according to the JSON.
        segments_info: its segments.
    """

    image_id: int | str
    image: str | None
    png: str | None
    size: tuple[int, int]
    segments_info: list[dict[str, Any]]


@dataclass
class ImageFindings:
    """What `check_image` found.

    Attributes:
        problems: sentences, each naming the image.
        pixels: pixels by segment id, void (0) included; empty if the PNG cannot be read.
    """

    problems: list[str] = field(default_factory=list)
    pixels: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class DatasetReport:
    """The result of `check_dataset`.

    Attributes:
        problems: everything that is wrong, one sentence each; empty for a sound data set.
        notes: what is unusual and harmless.
        num_images: number of annotated images.
        class_table: K classes; empty if the categories are wrong.
        segments: (K,) segments of each class, crowds not counted.
        crowds: (K,) crowd segments of each class.
        pixels: (K,) pixels of each class, crowds included.
        void_pixels: pixels that belong to no segment.
    """

    problems: list[str]
    notes: list[str]
    num_images: int
    class_table: list[dict[str, Any]]
    segments: npt.NDArray[np.int64]
    crowds: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    void_pixels: int = 0


def check_dataset(
    paths: PanopticPaths,
    workers: int = 1,
    decode_images: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Check one split of a data set.

    Args:
        paths: where it lies.
        workers: processes that read images; 1 reads them in this process.
        decode_images: decode every image, which finds damaged files; otherwise only their
            headers are read, which finds missing files and wrong sizes.
        progress: called as ``progress(done, total)`` after every image.

    Returns:
        The report. Nothing that is wrong with the data raises, except the following.

    Raises:
        FileNotFoundError: if the annotation file does not exist.
        ValueError: if it is damaged or in another format.
    """
    data = read_panoptic_json(paths)
    problems = category_problems(data["categories"])
    table = [] if problems else build_class_table(data["categories"], paths.panoptic_json)
    problems += image_problems(data["images"])
    report = DatasetReport(
        problems=problems,
        notes=[],
        num_images=len(data["annotations"]),
        class_table=table,
        segments=np.zeros(len(table), np.int64),
        crowds=np.zeros(len(table), np.int64),
        pixels=np.zeros(len(table), np.int64),
    )
    if not data["annotations"]:
        report.problems.append("annotations: the list is empty")
    tasks = list(_plan(data, paths, report))
    contiguous = {entry["id"]: k for k, entry in enumerate(table)}
    check = functools.partial(check_image, decode_image=decode_images)
    for done, (task, findings) in enumerate(_run(check, tasks, workers), start=1):
        report.problems += findings.problems
        _count(task, findings, report, contiguous)
        if progress is not None:
            progress(done, len(tasks))
    if table and report.void_pixels and not report.pixels.any():
        report.problems.append("not one pixel of the data set is labelled: every PNG is void")
    return report


def _plan(
    data: Mapping[str, Any], paths: PanopticPaths, report: DatasetReport
) -> Iterator[CheckTask]:
    """Check what the JSON and the folders alone show; yield what is left to check in the files."""
    images = {image["id"]: image for image in data["images"] if not image_problems([image])}
    image_ids, categories = known_ids(data["images"]), known_ids(data["categories"])
    stuff = frozenset(entry["id"] for entry in report.class_table if not entry["isthing"])
    files = DatasetFiles(paths)
    annotated: set[Any] = set()
    used_pngs: set[str] = set()
    for annotation in data["annotations"]:
        report.problems += annotation_problems(annotation, image_ids, categories, stuff)
        image_id, png_name = annotation.get("image_id"), annotation.get("file_name")
        if not is_image_id(image_id):
            continue
        if image_id in annotated:
            report.problems.append(f"image {image_id}: annotated more than once")
        annotated.add(image_id)
        if image_id not in images or not isinstance(png_name, str):
            continue
        used_pngs.add(png_name)
        file_name = _find_file(files, images[image_id], png_name, report)
        png = files.find_png(png_name)
        if png is None:
            path = files.png_path(png_name)
            report.problems.append(f"image {image_id}: no panoptic PNG {path}{why_missing(path)}")
        report.problems += files.sharing_problems(image_id, file_name, png)
        size = (int(images[image_id]["height"]), int(images[image_id]["width"]))
        yield CheckTask(image_id, file_name, png, size, _well_formed(annotation))
    _note_leftovers(data, paths, report, annotated, used_pngs)


def _find_file(
    files: DatasetFiles,
    image: Mapping[str, Any],
    png_name: str,
    report: DatasetReport,
) -> str | None:
    """Find an image; report it if there is none or more than one."""
    try:
        file_name = files.find_image(image, png_name)
    except ValueError as error:
        report.problems.append(str(error))
        return None
    if file_name is None:
        path = files.image_path(image)
        report.problems.append(f"image {image['id']}: no image file {path}{why_missing(path)}")
    return file_name


def _well_formed(annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the segments that can be compared with a PNG: one for each id, id and class given."""
    segments: dict[int, dict[str, Any]] = {}
    listed = annotation.get("segments_info")
    for segment in listed if isinstance(listed, list) else []:
        if isinstance(segment, dict) and all(
            is_integer(segment.get(key)) for key in ("id", "category_id")
        ):
            segments.setdefault(segment["id"], segment)
    return list(segments.values())


def _note_leftovers(
    data: Mapping[str, Any],
    paths: PanopticPaths,
    report: DatasetReport,
    annotated: set[Any],
    used_pngs: set[str],
) -> None:
    """Note images without annotation and PNGs that nothing mentions; neither is an error."""
    idle = len(known_ids(data["images"]) - annotated)
    if idle:
        report.notes.append(f"{idle} entries of images[] have no annotation and are not used")
    present = list_folder(paths.panoptic_png, {})
    extra = sum(name.endswith(".png") and name not in used_pngs for name in present)
    if extra:
        report.notes.append(f"{extra} PNGs in {paths.panoptic_png} are not mentioned in the JSON")


# ------------------------------------------------------------------------------- one image


def check_image(task: CheckTask, decode_image: bool = True) -> ImageFindings:
    """Compare one image, its PNG and its JSON entry.

    Args:
        task: the image.
        decode_image: see `check_dataset`.

    Returns:
        What is wrong, and the pixels of every id.
    """
    findings = ImageFindings()
    name = f"image {task.image_id}"
    if task.image is not None:
        problem = _image_problem(task.image, task.size, decode_image)
        if problem:
            findings.problems.append(f"{name}: {problem}")
    if task.png is None:
        return findings
    try:
        id_map = read_id_map(task.png, task.size)
    except ImageSizeError as error:
        findings.problems.append(
            f"{name}: the PNG {task.png} has {size_text(error.size)},"
            f" the JSON says {size_text(task.size)}"
        )
        return findings
    except (OSError, ValueError) as error:
        findings.problems.append(f"{name}: {error}")
        return findings
    extents = segment_areas_and_boxes(id_map)
    problems = segment_problems(extents, task.segments_info)
    findings.problems += [f"{name}, {problem}" for problem in problems]
    findings.pixels = dict(zip(extents.ids.tolist(), extents.areas.tolist(), strict=True))
    findings.pixels[VOID_ID] = id_map.size - int(extents.areas.sum())
    return findings


def _image_problem(path: str, size: tuple[int, int], decode: bool) -> str:
    """Return what is wrong with an image file, "" for nothing, as training would find it."""
    try:
        if decode:
            read_image(path, size)
            return ""
        found = read_image_size(path)
    except ImageSizeError as error:
        found = error.size
    except (OSError, ValueError) as error:
        return str(error)
    if found == size:
        return ""
    return f"the image {path} has {size_text(found)}, the JSON says {size_text(size)}"


# ---------------------------------------------------------------------------------- all of it


def _run(
    check: Callable[[CheckTask], ImageFindings], tasks: Sequence[CheckTask], workers: int
) -> Iterator[tuple[CheckTask, ImageFindings]]:
    """Yield each task with its findings, in order."""
    workers = min(workers, -(-len(tasks) // _CHUNK))  # no process that would find nothing to do
    yield from zip(tasks, map_in_processes(check, tasks, workers, _CHUNK), strict=True)


def _count(
    task: CheckTask, findings: ImageFindings, report: DatasetReport, contiguous: Mapping[int, int]
) -> None:
    """Add one image to the counts of the report; `contiguous` gives the class of a category id."""
    report.void_pixels += findings.pixels.get(VOID_ID, 0)
    for segment in task.segments_info:
        k = contiguous.get(segment["category_id"])
        if k is not None:
            counts = report.crowds if segment.get("iscrowd") else report.segments
            counts[k] += 1
            report.pixels[k] += findings.pixels.get(segment["id"], 0)
