#!/usr/bin/env python3
"""Processor time of PQ, ours beside panopticapi, hotcoco and vernier, and whether all agree.

    python tools/studies/benchmark_quality.py
    python tools/studies/benchmark_quality.py --sizes 480x640 --whole 300 3000 --peers PYTHON

The maps are random Voronoi cells with void and crowd, and predictions that follow part of them.
The first table is one process each. Both read the same PNG files; "in memory" leaves reading out
(panopticapi is given arrays in place of its PNG reader). The second, with --whole, is of whole
programs that read files of the first size, start included, run in turn. PYTHON is that of an
environment with hotcoco, vernier and Pillow; without it they are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from panopticapi import evaluation as panopticapi

from panoptic_common.coco.quality import PanopticStatistics, match_segments
from panoptic_common.coco.segment_ids import id_to_rgb, read_id_map, update_segments, write_id_map
from panoptic_tools.arguments import FAULTY, make_parser, refuse, require_at_least
from panoptic_tools.studies.library import quality_programs
from panoptic_tools.studies.library.measure import CLOCKS, Stopwatch, times_in_turn
from panoptic_tools.studies.library.quality_peers import RATIO
from panoptic_tools.studies.library.tables import markdown_table

NUM_CLASSES = 20


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    sizes = ["192x384", "480x640", "1024x2048"]
    parser.add_argument("--sizes", nargs="+", default=sizes, metavar="HxW")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--segments", type=int, default=20, help="in each true map")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", type=int, nargs="*", default=[], help="images for programs")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="programs, as the table has them")
    parser.add_argument("--peers", metavar="PYTHON", help="of an environment with the other ones")
    options = parser.parse_args(arguments)
    require_at_least(parser, options, 1, "images", "segments", "repeats", "whole", "workers")
    for size in options.sizes:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
            parser.error(f"--sizes: {size!r} is not HxW, such as 480x640")
    return options


def label_cells(centres: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the number of the nearest centre for every pixel, (H, W) int32.

    Args:
        centres: (S, 2) of row and column.
        height: H.
        width: W.
    """
    best = np.full((height, width), np.inf, np.float32)
    label = np.zeros((height, width), np.int32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    for number, (y, x) in enumerate(centres.astype(np.float32)):
        distance = (rows - y) ** 2 + (columns - x) ** 2
        closer = distance < best
        best[closer], label[closer] = distance[closer], number
    return label


def make_image(
    rng: np.random.Generator, height: int, width: int, segments: int
) -> tuple[np.ndarray, list[dict[str, Any]], np.ndarray, list[dict[str, Any]]]:
    """Draw a true map with void and crowd, and a prediction: cells moved or of another class.

    Returns:
        Truth (H, W), its segments_info, prediction (H, W), its segments_info.
    """
    centres = rng.uniform(0, [height, width], (segments, 2))
    moved = centres + rng.normal(0, 0.02, centres.shape) * [height, width]
    ids = rng.choice(2**24 - 1, segments, replace=False).astype(np.int32) + 1
    classes = rng.integers(NUM_CLASSES, size=segments)
    truth, prediction = (ids[label_cells(c, height, width)] for c in (centres, moved))
    truth[np.isin(truth, ids[rng.random(segments) < 0.1])] = 0
    crowd = rng.random(segments) < 0.1
    wrong = rng.random(segments) < 0.1
    true_segments = [
        {"id": int(i), "category_id": int(c), "iscrowd": int(g)}
        for i, c, g in zip(ids, classes, crowd, strict=True)
    ]
    predicted = [
        {"id": int(i), "category_id": int((c + w) % NUM_CLASSES)}
        for i, c, w in zip(ids, classes, wrong, strict=True)
    ]
    return (
        truth,
        update_segments(truth, true_segments),
        prediction,
        update_segments(prediction, predicted),
    )


class Comparison:
    """The same images for both programs, on disk and in memory."""

    def __init__(self, folder: Path, images: list) -> None:
        self._folder = str(folder)
        self._images = images
        self._colours: dict[str, np.ndarray] = {}
        self._pairs = []
        for number, (truth, true_segments, prediction, predicted) in enumerate(images):
            pair = []
            for name, ids, segments in (
                (f"{number}_truth.png", truth, true_segments),
                (f"{number}_prediction.png", prediction, predicted),
            ):
                write_id_map(folder / name, ids)
                self._colours[name] = id_to_rgb(ids)
                pair.append({"image_id": number, "file_name": name, "segments_info": segments})
            self._pairs.append(tuple(pair))

    def ours(self, read: bool, boundary_ratio: float | None = None) -> PanopticStatistics:
        """Measure by this project, in one process."""
        total = PanopticStatistics.zeros(NUM_CLASSES)
        for (truth, true_segments, prediction, predicted), pair in zip(
            self._images, self._pairs, strict=True
        ):
            if read:
                truth, prediction = (
                    read_id_map(Path(self._folder, annotation["file_name"])) for annotation in pair
                )
            matches = match_segments(
                truth,
                true_segments,
                prediction,
                predicted,
                NUM_CLASSES,
                boundary_ratio=boundary_ratio,
            )
            total += matches.statistics(NUM_CLASSES)
        return total

    def theirs(self, read: bool) -> panopticapi.PQStat:
        """Measure by panopticapi, in one process."""
        categories = {k: {"id": k, "isthing": 1} for k in range(NUM_CLASSES)}

        def from_memory(path: str) -> np.ndarray:
            return self._colours[Path(path).name]

        instead = (
            contextlib.nullcontext()
            if read
            else mock.patch.object(panopticapi.Image, "open", from_memory)
        )
        with instead, contextlib.redirect_stdout(io.StringIO()):
            return panopticapi.pq_compute_single_core(
                0, self._pairs, self._folder, self._folder, categories
            )


def largest_difference(ours: PanopticStatistics, theirs: panopticapi.PQStat) -> float:
    """Return the largest difference of summed IoU; infinite if a count differs."""
    for k in range(NUM_CLASSES):
        if (ours.tp[k], ours.fp[k], ours.fn[k]) != (theirs[k].tp, theirs[k].fp, theirs[k].fn):
            return float("inf")
    return max(abs(float(ours.iou[k]) - theirs[k].iou) for k in range(NUM_CLASSES))


def draw_images(size: str, number: int, options: argparse.Namespace) -> list:
    """Draw images of a size "HxW"."""
    height, width = (int(n) for n in size.split("x"))
    rng = np.random.default_rng(options.seed)
    return [make_image(rng, height, width, options.segments) for _ in range(number)]


def compare_at(size: str, options: argparse.Namespace) -> list[list[Any]]:
    """Return rows for images in memory, with PNGs, and for boundary PQ in memory.

    Args:
        size: "HxW".
        options: of the command line.
    """
    images = draw_images(size, options.images, options)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        comparison = Comparison(folder, images)
        difference = largest_difference(comparison.ours(True), comparison.theirs(True))
        for where, read, ratio in (
            ("in memory", False, None),
            ("with PNGs", True, None),
            ("boundary PQ, in memory", False, RATIO),
        ):
            runs: list[Any] = [partial(comparison.ours, read, ratio)]
            runs += [] if ratio else [partial(comparison.theirs, read)]
            seconds = times_in_turn(runs, options.repeats, partial(Stopwatch, clock=CLOCKS["cpu"]))
            seconds += [[]] * (2 - len(runs))
            files = folder / where.replace(" ", "_")
            if options.peers and not read:
                quality_programs.write_data_set(files, images, len(images), NUM_CLASSES)
                seconds.append(
                    quality_programs.vernier_in_memory(
                        options.peers, files, images, bool(ratio), options.repeats
                    )
                )
            times = [[1000 * value / len(images) for value in values] for values in seconds]
            rows.append([size, where, *times, difference])
    return rows


def compare_programs(options: argparse.Namespace) -> tuple[list[list[str]], float]:
    """Run whole programs in turn.

    Returns:
        A row per program, and the largest difference of PQ among those that must agree.
    """
    drawn = min(quality_programs.DISTINCT, max(options.whole))
    images = draw_images(options.sizes[0], drawn, options)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name, "packages")
        scratch.mkdir()
        programs = quality_programs.programs(options.peers, scratch)
        programs = [p for p in programs if not options.only or p.name in options.only]
        if not programs:
            raise SystemExit(f"--only: there is none of {', '.join(options.only)}")
        rows, difference = [[program.name] for program in programs], 0.0
        for number in options.whole:
            folder = Path(name, str(number))
            quality_programs.write_data_set(folder, images, number, NUM_CLASSES)
            for workers in options.workers:
                seconds: list[list[float]] = [[] for _ in programs]
                for _ in range(options.repeats):
                    found = []
                    for times, program in zip(seconds, programs, strict=True):
                        spent, quality = quality_programs.measure(program, folder, workers)
                        times.append(spent)
                        found += [quality] if program.compared else []
                    difference = max(difference, *(abs(value - found[0]) for value in found), 0.0)
                for row, times in zip(rows, seconds, strict=True):
                    row.append(quality_programs.spread(times))
    return rows, difference


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 if the numbers differ."""
    options = parse_arguments(arguments)
    rows = [row for size in options.sizes for row in compare_at(size, options)]
    print(f"{options.images} images per size, {options.segments} segments each; milliseconds of")
    print(f"processor time per image, median (range) of {options.repeats}\n")
    headers = ["size", "", "ours", "panopticapi", *(["vernier"] if options.peers else [])]
    texts = [
        [*row[:2], *(quality_programs.spread(times) if times else "-" for times in row[2:-1])]
        for row in rows
    ]
    print(markdown_table(headers, [row + ["-"] * (len(headers) - len(row)) for row in texts]))
    difference = max(row[-1] for row in rows)
    print(f"\nlargest difference of a summed IoU from panopticapi: {difference:.1e}")
    if options.whole:
        programs, apart = compare_programs(options)
        headers = [f"{n} images, {w} workers" for n in options.whole for w in options.workers]
        print(f"\nWhole programs on PNGs of {options.sizes[0]}: seconds of processor time\n")
        print(markdown_table(["", *headers], programs))
        print(f"\nlargest difference of PQ among them: {apart:.1e}")
        difference = max(difference, apart)
    if difference > 1e-9:
        return refuse(__file__, "the numbers differ", FAULTY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
