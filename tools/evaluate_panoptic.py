#!/usr/bin/env python3
"""PQ of a folder of predictions (JSON and PNGs, as panopticapi reads them) against the truth.

    python tools/evaluate_panoptic.py --truth panoptic_val.json --predictions predictions.json

PNGs are looked for in the folder with the JSON's name without `.json`, unless --truth-png and
--predictions-png say otherwise. No model, torch or Detectron2 is needed. The figures are those of
panopticapi; an empty group is nan. --errors FOLDER says what PQ is lost to, and draws the worst
images; --compare JSON says how another prediction of the same images differs
(docs/howto/errors.md). Exit status: 0 if all images were evaluated, 1 if a prediction is missing or
wrong (the first such image is named), 2 if the command line is.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Any, NamedTuple

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

from tabulate import tabulate

from panoptic_common.coco.pairing import pair_annotations
from panoptic_common.coco.quality import PanopticQuality, PanopticStatistics, match_segments
from panoptic_common.files import write_json
from panoptic_tools import evaluation_reports, hotcoco_engine
from panoptic_tools.arguments import (
    FAULTY,
    input_file,
    input_folder,
    make_parser,
    orderly,
    output_file,
    refuse,
    require_at_least,
)
from panoptic_tools.matched_files import naming_image, read_maps, try_truth
from panoptic_tools.outputs import refuse_own_inputs
from panoptic_tools.value_types import finite
from panoptic_tools.worker_pool import map_tasks


class Task(NamedTuple):
    """One image to evaluate; segments have contiguous classes."""

    image_id: Any
    truth_png: str
    truth_segments: list[dict[str, Any]]
    prediction_png: str
    prediction_segments: list[dict[str, Any]]
    num_classes: int
    boundary_ratio: float | None


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("--truth", required=True, type=input_file, metavar="JSON")
    parser.add_argument("--truth-png", type=input_folder, metavar="DIR")
    parser.add_argument("--predictions", required=True, type=input_file, metavar="JSON")
    parser.add_argument("--predictions-png", type=input_folder, metavar="DIR")
    parser.add_argument(
        "--boundary-ratio",
        type=finite,
        metavar="R",
        help="also compute boundary PQ, with a band of R times the diagonal (usual: 0.02)",
    )
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    text = "write the figures to a file"
    parser.add_argument("--output", type=output_file, metavar="JSON", help=text)
    evaluation_reports.add_report_options(parser)
    hotcoco_engine.add_engine_option(parser)
    options = parser.parse_args(arguments)
    require_at_least(parser, options, 1, "workers")
    ratio = options.boundary_ratio
    if ratio is not None and not 0 < ratio < 1:
        parser.error("--boundary-ratio lies between 0 and 1; usual is 0.02")
    for name in ("truth", "predictions"):
        if getattr(options, f"{name}_png") is None:
            folder = getattr(options, name).with_suffix("")
            if not folder.is_dir():
                parser.error(f"there is no folder {folder}: name that of the PNGs by --{name}-png")
            setattr(options, f"{name}_png", folder)
    evaluation_reports.check_report_options(parser, options)
    refuse_own_inputs(
        parser,
        [("--output", options.output), *evaluation_reports.files_written(options)],
        [
            ("--truth", options.truth),
            ("--truth-png", options.truth_png),
            ("--predictions", options.predictions),
            ("--predictions-png", options.predictions_png),
            *evaluation_reports.files_read(options),
        ],
    )
    options.engine = hotcoco_engine.choose_engine(parser, options)
    return options


def make_tasks(options: argparse.Namespace) -> tuple[list[Task], list[dict[str, Any]]]:
    """Pair predictions with truth.

    Returns:
        One task per image of the truth, and the class table.

    Raises:
        ValueError, OSError: as `pair_annotations`.
    """
    pairs, table, extra = pair_annotations(options.truth, options.predictions)
    if extra:
        print(f"note: {extra} predictions are of images without truth", file=sys.stderr)
    tasks = [
        Task(
            pair.image_id,
            str(options.truth_png / pair.truth_png),
            pair.truth_segments,
            str(options.predictions_png / pair.prediction_png),
            pair.prediction_segments,
            len(table),
            options.boundary_ratio,
        )
        for pair in pairs
    ]
    return tasks, table


def evaluate(task: Task) -> tuple[PanopticStatistics, PanopticStatistics]:
    """Compare one image and return the sums for PQ and for boundary PQ (0 if not asked for)."""
    boundary = PanopticStatistics.zeros(task.num_classes)
    with naming_image(task):
        truth, prediction, overlaps = read_maps(task)
        arguments = (truth, task.truth_segments, prediction, task.prediction_segments)
        match = partial(match_segments, *arguments, task.num_classes, overlaps=overlaps)
        plain = match().statistics(task.num_classes)
        if task.boundary_ratio is not None:
            boundary += match(boundary_ratio=task.boundary_ratio).statistics(task.num_classes)
    return plain, boundary


def evaluate_all(tasks: list[Task], num_classes: int, workers: int) -> list[PanopticStatistics]:
    """Add up all images: the sums for PQ and for boundary PQ."""
    totals = [PanopticStatistics.zeros(num_classes) for _ in range(2)]
    for parts in map_tasks(evaluate, tasks, workers):
        for total, part in zip(totals, parts, strict=True):
            total += part
    return totals


def describe(quality: PanopticQuality, table: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the figures in percent, by group and then by class."""
    figures: dict[str, dict[str, float]] = {}
    for name, group in (("All", quality.all), ("Things", quality.things), ("Stuff", quality.stuff)):
        pq, sq, rq = (100 * value for value in group[:3])
        figures[name] = {"PQ": pq, "SQ": sq, "RQ": rq, "classes": group.num_classes}
    for k, entry in enumerate(table):
        pq, sq, rq = (100 * float(values[k]) for values in (quality.pq, quality.sq, quality.rq))
        figures[f"class {entry['name']}"] = {"PQ": pq, "SQ": sq, "RQ": rq}
    return figures


def count_and_report(options: argparse.Namespace) -> None:
    """Do the work: count, print the tables, and write what is asked for.

    Raises:
        ValueError, OSError: naming the image or the file.
    """
    report = ""
    tasks, table = make_tasks(options)
    try_truth(tasks)
    if options.engine == "hotcoco":
        totals = hotcoco_engine.count_or(evaluate_all, tasks, len(table), options.workers)
    elif options.errors or options.compare:
        others = options.compare and make_tasks(evaluation_reports.options_of_other(options))[0]
        totals, report = evaluation_reports.make_reports(options, tasks, others, table)
    else:
        totals = evaluate_all(tasks, len(table), options.workers)
    is_thing = [bool(entry["isthing"]) for entry in table]
    results = {"PQ": describe(totals[0].quality(is_thing), table)}
    if options.boundary_ratio is not None:
        name = f"boundary PQ (ratio {options.boundary_ratio:g})"
        results[name] = describe(totals[1].quality(is_thing), table)
    if options.output:  # first: whoever reads the tables may have gone
        write_json(options.output, results, indent=1)
    for name, figures in results.items():
        rows = [[group, *values.values()] for group, values in figures.items()]
        print(f"\n{name}, {len(tasks)} images")
        print(tabulate(rows, ["", "PQ", "SQ", "RQ", "classes"], floatfmt=".2f", tablefmt="pipe"))
    if report:
        print(f"\n{report}", end="")


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Evaluate the predictions and return the exit status."""
    options = parse_args(arguments)
    try:
        count_and_report(options)
    except (ValueError, OSError) as error:
        return refuse(__file__, error, FAULTY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
