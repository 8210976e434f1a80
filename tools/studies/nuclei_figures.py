#!/usr/bin/env python3
r"""Figures of a prediction of cell nuclei, by kind of microscopy and by size, and three sheets.

    python tools/studies/nuclei_figures.py --truth datasets/nuclei/panoptic_val.json \
        --images datasets/nuclei/val \
        --predictions output/cops/nuclei/pretrain/inference/nuclei_val/predictions.json \
        --sheets sheets

The prediction is what `train_net.py --eval-only` leaves. Measures and the rule that tells the kinds
apart stand in tools/studies/library/nuclei_measures.py. --sheets draws the best, the median and the
worst image by their PQ, with errors marked; what else went wrong is told by
`tools/evaluate_panoptic.py --errors`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from panoptic_common.coco.errors import SegmentError, find_errors
from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.pairing import read_lists
from panoptic_common.drawing.sheets import contact_sheet
from panoptic_common.files import write_json
from panoptic_tools.arguments import make_parser
from panoptic_tools.error_images import (
    ERRORS_TITLE,
    draw_panels,
    draw_sheet,
    error_legend,
    find_images,
)
from panoptic_tools.evaluate_panoptic import Task, make_tasks
from panoptic_tools.matched_files import match_files
from panoptic_tools.outputs import refuse_own_inputs
from panoptic_tools.studies.library.nuclei_measures import (
    ImageNuclei,
    list_nuclei,
    microscopy_of,
    table_rows,
)

ROLES = ("best", "median", "worst")
_PANEL = 320  # pixels across, in a contact sheet


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("--truth", required=True, type=Path, metavar="JSON")
    parser.add_argument("--truth-png", type=Path, metavar="DIR", help="default: JSON without .json")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR")
    parser.add_argument("--predictions", required=True, type=Path, metavar="JSON")
    parser.add_argument("--predictions-png", type=Path, metavar="DIR")
    parser.add_argument("--thing", default="nucleus", help="name of the class (default: nucleus)")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="draw three images into it")
    parser.add_argument(
        "--contact-sheet", type=Path, metavar="FILE", help="draw five into one image"
    )
    parser.add_argument("--output", type=Path, metavar="JSON", help="write the figures to a file")
    options = parser.parse_args(arguments)
    options.truth_png = options.truth_png or options.truth.with_suffix("")
    options.predictions_png = options.predictions_png or options.predictions.with_suffix("")
    options.boundary_ratio = None
    sheets = [options.sheets / f"{role}.png" for role in ROLES] if options.sheets else []
    refuse_own_inputs(
        parser,
        [("--output", options.output), ("--contact-sheet", options.contact_sheet)]
        + [("--sheets", path) for path in sheets],
        [("--truth", options.truth), ("--truth-png", options.truth_png)]
        + [("--predictions", options.predictions), ("--predictions-png", options.predictions_png)]
        + [("--images", options.images)],
    )
    return options


def examine(task: Task, category: int, image_file: str) -> tuple[ImageNuclei, list[SegmentError]]:
    """Match one image; returns its nuclei, and its errors for the sheets."""
    matches, overlaps = match_files(task)
    image = ImageNuclei(Path(image_file).name, microscopy_of(read_image(image_file)))
    image.nuclei = list_nuclei(matches, category, overlaps.areas())
    return image, find_errors(task.truth_segments, task.prediction_segments, overlaps, matches)


def category_of(table: list[dict[str, Any]], name: str) -> int:
    """Return the contiguous class of a name.

    Raises:
        ValueError: naming the classes that there are.
    """
    names = [entry["name"] for entry in table]
    if name not in names:
        raise ValueError(f"--thing is {name!r}, but the classes are {', '.join(names)}")
    return names.index(name)


def draw_sheets(
    folder: Path,
    tasks: list[Task],
    found: list[tuple[ImageNuclei, list[SegmentError]]],
    table: list[dict[str, Any]],
    files: dict[Any, str],
) -> list[tuple[str, str, float]]:
    """Draw the best, the median and the worst image; returns role, name and PQ of each."""
    folder.mkdir(parents=True, exist_ok=True)
    order = by_quality(found)
    drawn = []
    for role, place in zip(ROLES, (0, len(order) // 2, -1), strict=True):
        k = order[place]
        image, errors = found[k]
        sheet = draw_sheet(tasks[k], errors, table, files[tasks[k].image_id])
        Image.fromarray(sheet).save(folder / f"{role}.png")
        drawn.append((role, image.name, image.pq))
    return drawn


def draw_contact_sheet(
    file: Path,
    tasks: list[Task],
    found: list[tuple[ImageNuclei, list[SegmentError]]],
    table: list[dict[str, Any]],
    files: dict[Any, str],
) -> list[tuple[str, str, float]]:
    """Draw image, truth, prediction and errors of five images below one another.

    They are the best and the median of each kind of microscopy, and the worst of all. Returns role,
    name and PQ of each.
    """
    order = by_quality(found)
    chosen = []
    for kind in sorted({found[k][0].kind for k in order}):
        places = [k for k in order if found[k][0].kind == kind]
        chosen += [(f"best, {kind}", places[0]), (f"median, {kind}", places[len(places) // 2])]
    chosen.append(("worst", order[-1]))
    rows = []
    for _, k in chosen:
        image_file = files[tasks[k].image_id]
        rows.append(
            [read_image(image_file), *draw_panels(tasks[k], found[k][1], table, image_file)]
        )
    titles = ["image", "truth", "prediction", ERRORS_TITLE]
    footer = error_legend(len(titles) * _PANEL, {})
    sheet = contact_sheet(rows, titles, panel_width=_PANEL, footer=footer)
    Image.fromarray(sheet).save(file, quality=85)
    return [(role, found[k][0].name, found[k][0].pq) for role, k in chosen]


def by_quality(found: list[tuple[ImageNuclei, list[SegmentError]]]) -> list[int]:
    """Return the places of images from the best PQ to the worst.

    Of equals the first in the order of the set comes first; images without a nucleus have no PQ,
    and are left out.
    """
    qualities = np.array([image.pq for image, _ in found])
    return [int(k) for k in np.argsort(-qualities, kind="stable") if not np.isnan(qualities[k])]


def print_figures(rows: dict[str, dict[str, Any]]) -> None:
    """Print the table, shares in percent."""
    names = list(rows["all"])
    lines = [
        [name, *(v if isinstance(v, int) else f"{100 * v:.1f}" for v in row.values())]
        for name, row in rows.items()
    ]
    print(tabulate(lines, ["", *names], stralign="right", disable_numparse=True))


def main(arguments: list[str] | None = None) -> int:
    """Compute and print the figures; returns the exit status."""
    options = parse_args(arguments)
    try:
        tasks, table = make_tasks(options)
        category = category_of(table, options.thing)
        truth = read_lists(options.truth, "annotations")
        files = find_images(options.images, truth, options.truth)
        found = [
            examine(task, category, files[task.image_id])
            for task in tqdm(tasks, unit="image", disable=None)
        ]
        rows = table_rows([image for image, _ in found])
        print_figures(rows)
        if options.sheets:
            for role, name, pq in draw_sheets(options.sheets, tasks, found, table, files):
                print(f"{role}: {name}, PQ {100 * pq:.1f}, {options.sheets / role}.png")
        if options.contact_sheet:
            drawn = draw_contact_sheet(options.contact_sheet, tasks, found, table, files)
            for role, name, pq in drawn:
                print(f"{options.contact_sheet}: {role}: {name}, PQ {100 * pq:.1f}")
    except (OSError, ValueError) as error:
        print(f"nuclei_figures.py: {error}", file=sys.stderr)
        return 2
    if options.output:
        per_image = {image.name: {"kind": image.kind, "PQ": image.pq} for image, _ in found}
        write_json(options.output, {"figures": rows, "images": per_image}, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
