"""An image per worst image, for `evaluate_panoptic.py --errors`: truth, prediction, errors."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.coco.annotations import is_image_id
from panoptic_common.coco.dataset_files import ImageFinder
from panoptic_common.coco.errors import (
    INVENTED,
    KINDS,
    MERGED,
    MISSED,
    OUTLINE,
    SPLIT,
    WRONG_CLASS,
    SegmentError,
)
from panoptic_common.coco.image_reading import ImageSizeError, read_image, read_image_size
from panoptic_common.coco.segment_ids import check_id_map_header, read_id_map
from panoptic_common.drawing.errors import draw_errors
from panoptic_common.drawing.overlays import draw_panoptic
from panoptic_common.drawing.sheets import contact_sheet, legend
from panoptic_common.drawing.strokes import ImageArray, legible_scale
from panoptic_common.files import write_atomically
from panoptic_tools.error_report import unmatched_counts
from panoptic_tools.matched_files import Pair

KIND_COLOURS = {
    MISSED: (235, 64, 52),
    INVENTED: (66, 135, 245),
    MERGED: (214, 70, 222),
    SPLIT: (38, 208, 206),
    WRONG_CLASS: (255, 152, 0),
    OUTLINE: (250, 230, 70),
}
_PANEL = 640  # pixels across
_KEY = "areas: true segments, lines: predicted ones"
ERRORS_TITLE = f"errors ({_KEY})"
_PAPER = 128  # grey of an image that is not there
_ALPHA, _ALPHA_ON_GREY = 0.6, 0.85
_LONGEST_NAME = 200  # bytes; file systems take 255, of which the rank and the ending need some
_MOST_NAMES = 40  # segments; the names of more, or always the same, would hide the image


def find_images(folder: Path, truth: dict[str, Any], path: Path) -> dict[Any, str]:
    """Find the file of every image, before time is spent on the evaluation.

    Args:
        folder: of the images.
        truth: content of the panoptic JSON, with the `image_id` and PNG of each annotation.
        path: of that JSON, for the errors.

    Returns:
        The file by image id.

    Raises:
        ValueError: the JSON lists no images, or one twice; or an image has no file, or that of
            another one.
    """
    listed = truth.get("images")
    if not isinstance(listed, list) or not all(
        isinstance(i, dict) and is_image_id(i.get("id")) and isinstance(i.get("file_name"), str)
        for i in listed
    ):
        raise ValueError(
            f"{path}: there is no list 'images' with id and file_name: --images cannot be used"
        )
    by_id, finder = {image["id"]: image for image in listed}, ImageFinder(str(folder))
    if len(by_id) < len(listed):
        ((twice, _),) = Counter(image["id"] for image in listed).most_common(1)
        raise ValueError(f"{path}: image {twice!r} is listed twice in 'images'")
    files: dict[Any, str] = {}
    owners: dict[str, Any] = {}
    for annotation in truth["annotations"]:
        name, image = annotation["image_id"], by_id.get(annotation["image_id"])
        found = None if image is None else finder.find(image, annotation["file_name"])
        if found is None:
            raise ValueError(f"--images {folder}: no file for image {name!r}")
        owner = owners.setdefault(os.path.normpath(found), name)
        if owner != name:
            raise ValueError(f"{path}: the file {found} of image {name!r} is that of {owner!r} too")
        files[name] = found
    return files


def check_sizes(tasks: Sequence[Pair], files: Mapping[Any, str]) -> None:
    """Refuse images that do not fit their truth, by the headers of both.

    Args:
        tasks: the images.
        files: by image id.

    Raises:
        ValueError, OSError: naming the file.
    """
    for task in tasks:
        file = files[task.image_id]
        found, expected = read_image_size(file), check_id_map_header(task.truth_png)
        if found != expected:
            raise ImageSizeError(file, found, expected)


def draw_sheet(
    task: Pair,
    errors: Sequence[SegmentError],
    table: Sequence[dict[str, Any]],
    image_file: str | None,
    *,
    other: tuple[Pair, Sequence[SegmentError]] | None = None,
) -> ImageArray:
    """Draw truth, prediction and errors of an image side by side.

    Args:
        task: the image.
        errors: what `find_errors` found in it.
        table: class table.
        image_file: the image itself; None draws on plain grey.
        other: another prediction of the image, whose errors then take the prediction's place.
    """
    panels = draw_panels(task, errors, table, image_file)
    if other is None:
        titles = ["truth", "prediction", ERRORS_TITLE]
        counts = unmatched_counts(errors)
    else:
        pair, found = other
        # Its errors: the last of its panels.
        panels[1] = draw_panels(pair, found, table, image_file)[-1]
        titles = [
            f"truth (errors: {_KEY})",
            "errors of the one compared with",
            "errors of the prediction",
        ]
        counts = {}
    footer = error_legend(len(panels) * _PANEL, counts)
    return contact_sheet([panels], titles, panel_width=_PANEL, footer=footer)


def draw_panels(
    task: Pair,
    errors: Sequence[SegmentError],
    table: Sequence[dict[str, Any]],
    image_file: str | None,
) -> list[ImageArray]:
    """Draw truth, prediction and errors of an image; see `draw_sheet`."""
    truth, prediction = read_id_map(task.truth_png), read_id_map(task.prediction_png)
    image = _background(image_file, truth.shape)
    scale = legible_scale(image, _PANEL)
    alpha = _ALPHA if image_file else _ALPHA_ON_GREY

    def segments(ids: npt.NDArray[Any], segments: list[dict[str, Any]]) -> ImageArray:
        classes = {segment["category_id"] for segment in segments}
        names = len(classes) > 2 and len(segments) <= _MOST_NAMES
        return draw_panoptic(image, ids, segments, table, alpha=alpha, scale=scale, names=names)

    return [
        segments(truth, task.truth_segments),
        segments(prediction, task.prediction_segments),
        _draw_marks(image, truth, prediction, errors, scale),
    ]


def error_legend(width: int, counts: Mapping[str, int]) -> ImageArray:
    """Draw the colours of the kinds of errors, with how many there are where that is known."""
    kinds = [
        {"name": f"{kind} {counts[kind]}" if kind in counts else kind, "color": KIND_COLOURS[kind]}
        for kind in KINDS
    ]
    return legend(kinds, width)


def _background(image_file: str | None, size: tuple[int, ...]) -> ImageArray:
    if image_file is None:
        return np.full((*size, 3), _PAPER, np.uint8)
    return read_image(image_file, (size[0], size[1]))


def _draw_marks(
    image: ImageArray,
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    errors: Sequence[SegmentError],
    scale: int,
) -> ImageArray:
    return draw_errors(
        image,
        truth,
        prediction,
        true_colours={e.truth_id: KIND_COLOURS[e.kind] for e in errors if not e.prediction_id},
        predicted_colours={e.prediction_id: KIND_COLOURS[e.kind] for e in errors if not e.truth_id},
        pairs={e.truth_id: e.prediction_id for e in errors if e.truth_id and e.prediction_id},
        inexact=KIND_COLOURS[OUTLINE],
        scale=scale,
    )


def save_sheet(folder: Path, rank: int, task: Pair, sheet: ImageArray) -> None:
    """Write a sheet as "<rank>_<name of the truth's PNG>.png"; the rank begins with 1."""
    name = re.sub(r"[^\w.-]", "_", Path(task.truth_png).stem)
    name = name.encode()[:_LONGEST_NAME].decode(errors="ignore")  # the rank tells them apart
    image = Image.fromarray(sheet)
    path = folder / f"{rank:03d}_{name}.png"
    write_atomically(path, lambda file: image.save(file, format="PNG"), flush=False)
