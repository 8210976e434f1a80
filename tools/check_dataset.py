#!/usr/bin/env python3
"""Check a panoptic data set: images, PNGs and JSON against one another.

    python tools/check_dataset.py coco_2017_val_panoptic --workers 8
    python tools/check_dataset.py my_streets --images images --json truth.json --png truth

With a registered name the files are looked for below $DETECTRON2_DATASETS. With --images, --json
and --png any data set is checked, and the name is only a title. Exit status: 0 if the data set is
sound, 1 if something is wrong with it (everything is listed). It is 2 if the command line is wrong,
or the data set is not there.
"""

from __future__ import annotations

import argparse
import os
import sys

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

from tabulate import tabulate
from tqdm import tqdm

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import DatasetReport, check_dataset
from panoptic_tools.arguments import (
    FAULTY,
    input_file,
    input_folder,
    make_parser,
    orderly,
    refuse,
    require_at_least,
)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("name", help="registered name of the data set, or a title")
    parser.add_argument("--images", type=input_folder, metavar="DIR", help="folder of the images")
    parser.add_argument("--json", type=input_file, metavar="FILE", help="panoptic JSON")
    parser.add_argument(
        "--png", type=input_folder, metavar="DIR", help="folder of the panoptic PNGs"
    )
    parser.add_argument(
        "--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes that read files"
    )
    parser.add_argument(
        "--headers-only",
        action="store_true",
        help="do not decode the images: faster, but an image damaged inside is not found",
    )
    parser.add_argument(
        "--max-problems", type=int, default=50, metavar="N", help="problems to print; 0 prints all"
    )
    options = parser.parse_args(arguments)
    given = [options.images, options.json, options.png]
    if any(given) and not all(given):
        parser.error("--images, --json and --png belong together")
    require_at_least(parser, options, 1, "workers")
    require_at_least(parser, options, 0, "max_problems")
    return options


def find_paths(options: argparse.Namespace) -> PanopticPaths:
    """Return where the data set lies. Only a registered name needs Detectron2."""
    if options.json:
        return PanopticPaths(str(options.images), str(options.json), str(options.png))
    from panoptic_common.data.catalog import dataset_paths, has_truth, register_builtin

    register_builtin()
    if not has_truth(options.name):
        raise ValueError(f"{options.name} has images only, and no annotations to check")
    return dataset_paths(options.name)


def print_report(name: str, report: DatasetReport, max_problems: int) -> None:
    """Print the counts of every class, and what is wrong."""
    if report.class_table:
        print_counts(name, report)
    for note in [*report.notes, *kind_notes(report)]:
        print(f"note: {note}")
    if not report.problems:
        print(f"{name}: {report.num_images} images, nothing wrong")
        return
    shown = report.problems[: max_problems or None]
    print(f"{name}: {len(report.problems)} problems in {report.num_images} images")
    for problem in shown:
        print(f"  {problem}")
    if len(shown) < len(report.problems):
        print(f"  ... and {len(report.problems) - len(shown)} more (--max-problems 0 prints all)")


def kind_notes(report: DatasetReport) -> list[str]:
    """Note that classes of one kind suffice for one of the systems only."""
    kinds = {entry["isthing"] for entry in report.class_table}
    if len(kinds) != 1:
        return []
    missing = "stuff" if kinds == {1} else "thing"
    return [f"there is no {missing} class, without which COPS can be trained, but not Unified"]


def print_counts(name: str, report: DatasetReport) -> None:
    """Print the class table with segments, crowds and pixels."""
    total = max(1, int(report.pixels.sum()) + report.void_pixels)
    things = sum(entry["isthing"] for entry in report.class_table)
    print(
        f"{name}: {report.num_images} images, {len(report.class_table)} classes"
        f" ({things} things, {len(report.class_table) - things} stuff)"
    )
    rows: list[list[object]] = [
        [
            *(k, entry["id"], entry["name"], "thing" if entry["isthing"] else "stuff"),
            *(report.segments[k], report.crowds[k], 100 * report.pixels[k] / total),
        ]
        for k, entry in enumerate(report.class_table)
    ]
    rows.append([None, None, "void", None, None, None, 100 * report.void_pixels / total])
    headers = ["no.", "id", "class", "kind", "segments", "crowds", "pixels %"]
    # Names are text, also a class that is called "7".
    print(tabulate(rows, headers, tablefmt="plain", floatfmt=".3f", disable_numparse=[2, 3]))


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Check a data set and return the exit status."""
    options = parse_args(arguments)
    try:
        paths = find_paths(options)
    except ValueError as error:  # an unknown name
        return refuse(__file__, error)
    try:
        # In a log file, one line with the remaining time every half minute.
        interval = 0.1 if sys.stderr.isatty() else 30
        with tqdm(unit="image", desc=options.name, mininterval=interval) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            report = check_dataset(
                paths, options.workers, decode_images=not options.headers_only, progress=progress
            )
    except FileNotFoundError as error:  # of a registered name: there is no data set to check
        return refuse(__file__, error)
    except (OSError, ValueError) as error:
        return refuse(__file__, error, FAULTY)
    print_report(options.name, report, options.max_problems)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
