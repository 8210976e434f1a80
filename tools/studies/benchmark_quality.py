#!/usr/bin/env python3
"""Time of `panoptic_common.coco.quality` against panopticapi, and whether both agree.

    python tools/studies/benchmark_quality.py
    python tools/studies/benchmark_quality.py --sizes 480x640 1024x2048 --images 20 --repeats 5

The maps are random Voronoi cells with void and crowd, and predictions that follow part of them.
Both read the same PNG files; "in memory" leaves reading out for both (panopticapi is given arrays
in place of its PNG reader). One process each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import statistics
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
from panoptic_tools.studies.library.measure import times_in_turn
from panoptic_tools.studies.library.options import make_parser, require_at_least
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
    options = parser.parse_args(arguments)
    require_at_least(parser, options, 1, "images", "segments", "repeats")
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

    def ours(self, read: bool) -> PanopticStatistics:
        """Measure by this project, in one process."""
        total = PanopticStatistics.zeros(NUM_CLASSES)
        for (truth, true_segments, prediction, predicted), pair in zip(
            self._images, self._pairs, strict=True
        ):
            if read:
                truth, prediction = (
                    read_id_map(Path(self._folder, annotation["file_name"])) for annotation in pair
                )
            matches = match_segments(truth, true_segments, prediction, predicted, NUM_CLASSES)
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


def compare_at(size: str, options: argparse.Namespace) -> list[list[Any]]:
    """Return a row for images in memory and one with PNGs.

    Args:
        size: "HxW".
        options: of the command line.
    """
    height, width = (int(n) for n in size.split("x"))
    rng = np.random.default_rng(options.seed)
    images = [make_image(rng, height, width, options.segments) for _ in range(options.images)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder), images)
        difference = largest_difference(comparison.ours(True), comparison.theirs(True))
        for where, read in (("in memory", False), ("with PNGs", True)):
            runs = [partial(method, read) for method in (comparison.ours, comparison.theirs)]
            ours, theirs = (
                1000 / options.images * statistics.median(seconds)
                for seconds in times_in_turn(runs, options.repeats)
            )
            rows.append([size, where, ours, theirs, theirs / ours, difference])
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 if the numbers differ."""
    options = parse_arguments(arguments)
    rows = [row for size in options.sizes for row in compare_at(size, options)]
    print(f"{options.images} images per size, {options.segments} segments each;", end=" ")
    print(f"milliseconds per image, medians of {options.repeats}")
    headers = ["size", "", "ours", "panopticapi", "times faster", "difference in IoU sum"]
    formats = ("", "", ".2f", ".2f", ".1f", ".1e")
    texts = [[format(*cell) for cell in zip(row, formats, strict=True)] for row in rows]
    print(markdown_table(headers, texts))
    if max(row[-1] for row in rows) > 1e-9:
        print("error: the numbers differ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
