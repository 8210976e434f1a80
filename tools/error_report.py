"""What PQ is lost to, for `evaluate_panoptic.py --errors`: tables, JSON and images.

The definitions stand in `panoptic_common/coco/errors.py`; docs/howto/errors.md shows an example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from panoptic_common.coco.errors import (
    KINDS,
    ErrorTotals,
    SegmentError,
    find_errors,
    image_costs,
)
from panoptic_common.coco.overlaps import FloatArray
from panoptic_common.coco.paired import image_pq
from panoptic_common.coco.quality import PanopticStatistics
from panoptic_common.files import write_atomically, write_json
from panoptic_tools.matched_files import Pair, match_files

MATCHED = "outline, matched"  # the row of what matched pairs lose


class ImageErrors(NamedTuple):
    """What became of one image."""

    image_id: Any
    statistics: PanopticStatistics
    errors: list[SegmentError]


class ErrorFigures(NamedTuple):
    """The errors of a prediction: by image, added up, and what each image costs.

    Attributes:
        images: in the order of the truth.
        totals: their sums.
        costs: (I, E) points of the data set's PQ.
    """

    images: Sequence[ImageErrors]
    totals: ErrorTotals
    costs: FloatArray


def examine(task: Pair) -> ImageErrors:
    """Compare one image and name its errors.

    Raises:
        ValueError: naming the image.
    """
    matches, overlaps = match_files(task)
    errors = find_errors(task.truth_segments, task.prediction_segments, overlaps, matches)
    return ImageErrors(task.image_id, matches.statistics(task.num_classes), errors)


def add_up(
    images: Sequence[ImageErrors], num_classes: int, size_bounds: Sequence[int]
) -> ErrorFigures:
    """Add up the errors of all images."""
    totals = ErrorTotals.zeros(num_classes, size_bounds)
    for image in images:
        totals.add(image.statistics, image.errors)
    costs = image_costs([image.errors for image in images], totals.statistics)
    return ErrorFigures(images, totals, costs)


# ------------------------------------------------------------------------------------ figures


def points_by_name(totals: ErrorTotals, table: Sequence[dict[str, Any]]) -> dict[str, FloatArray]:
    """Return (E, S) points that each kind and size costs, by group and then by class."""
    is_thing = np.array([bool(entry["isthing"]) for entry in table])
    groups = {"All": np.ones_like(is_thing), "Things": is_thing, "Stuff": ~is_thing}
    points = {name: totals.mean_points(group) for name, group in groups.items()}
    for entry, values in zip(table, totals.points(), strict=True):
        points[f"class {entry['name']}"] = values
    return points


def class_figures(points: dict[str, FloatArray]) -> dict[str, dict[str, float]]:
    """Return PQ and what each kind costs, by group, then by class; together they make 100."""
    return {
        name: {"PQ": 100 - float(values.sum()), **_by_kind(values.sum(axis=1))}
        for name, values in points.items()
    }


def kind_figures(totals: ErrorTotals) -> dict[str, dict[str, float]]:
    """Return, of each kind, how many segments it concerns and what it costs.

    The points are those of unmatched segments; what matched pairs lose stands by itself.
    """
    everything = np.ones(totals.statistics.num_classes, bool)
    unmatched, matched = (part.sum(axis=1) for part in totals.mean_points_apart(everything))
    rows: dict[str, dict[str, float]] = {
        kind: {
            "true segments": int(totals.truths[:, e].sum()),
            "predicted segments": int(totals.predictions[:, e].sum()),
            "points": float(unmatched[e]),
        }
        for e, kind in enumerate(KINDS)
    }
    tp = int(totals.statistics.tp.sum())
    rows[MATCHED] = {
        "true segments": tp,
        "predicted segments": tp,
        "points": float(matched.sum()),
    }
    return rows


def size_figures(points: FloatArray, bounds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the points that each kind costs, by range of areas.

    Args:
        points: (E, S) of a group or class.
        bounds: S - 1 areas, as of `ErrorTotals`.
    """
    names = [f"below {bound}" for bound in bounds] + [f"{bounds[-1]} and more" if bounds else "any"]
    for place in range(1, len(bounds)):
        names[place] = f"{bounds[place - 1]} to {bounds[place] - 1}"
    return {name: _by_kind(points[:, s]) for s, name in enumerate(names)}


def worst_images(figures: ErrorFigures, number: int) -> list[int]:
    """Return the places of the images that cost most, the worst first; none that costs nothing."""
    costs = figures.costs.sum(axis=1)
    order = np.argsort(-costs, kind="stable")[:number]
    return [int(place) for place in order if costs[place] > 0]


def _by_kind(points: FloatArray) -> dict[str, float]:
    return {kind: float(value) for kind, value in zip(KINDS, points, strict=True)}


# ------------------------------------------------------------------------------------- output


def report_text(
    figures: ErrorFigures, table: Sequence[dict[str, Any]], worst: Sequence[int]
) -> str:
    """Lay out all tables in Markdown."""
    points = points_by_name(figures.totals, table)
    by_class = class_figures(points)
    by_size = size_figures(points["All"], figures.totals.size_bounds)
    by_kind = kind_figures(figures.totals)
    lost, number = 100 - by_class["All"]["PQ"], len(figures.images)
    kind_headers = ["", "true segments", "predicted segments", "points of PQ"]
    parts = [
        f"## {lost:.2f} points of PQ are lost, {number} images",
        _table([[k, *row.values()] for k, row in by_kind.items()], kind_headers),
        "## Points by class: PQ and the rest of a row make 100",
        _table([[k, *row.values()] for k, row in by_class.items()], ["", "PQ", *KINDS]),
        "## Points by area of the segment in pixels",
        _table(
            [[k, *row.values(), sum(row.values())] for k, row in by_size.items()],
            ["", *KINDS, "all"],
        ),
    ]
    if worst:
        headers = ["image", "its own PQ", "points of all", "mostly", "unmatched segments"]
        parts += ["## Images that cost most", _table(_worst_rows(figures, worst), headers)]
    return "\n\n".join(parts) + "\n"


def _worst_rows(figures: ErrorFigures, worst: Sequence[int]) -> list[list[Any]]:
    """Return a row per image; two may have ids that are written alike, 1 and "1"."""
    pq = image_pq([image.statistics for image in figures.images])
    rows = []
    for i in worst:
        image, costs = figures.images[i], figures.costs[i]
        counts = [f"{kind} {count}" for kind, count in unmatched_counts(image.errors).items()]
        mostly = KINDS[int(costs.argmax())]
        rows.append([str(image.image_id), pq[i], costs.sum(), mostly, ", ".join(counts)])
    return rows


def unmatched_counts(errors: Sequence[SegmentError]) -> dict[str, int]:
    """Count the unmatched segments of an image by kind; kinds without one are left out."""
    counts = Counter(e.kind for e in errors if not (e.truth_id and e.prediction_id))
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    return str(tabulate(rows, headers, floatfmt=".2f", tablefmt="pipe", disable_numparse=[0]))


def write_report(
    folder: Path, figures: ErrorFigures, table: Sequence[dict[str, Any]], text: str
) -> None:
    """Write errors.json, with every error, and errors.md into an existing folder."""
    pq = image_pq([image.statistics for image in figures.images])
    points = points_by_name(figures.totals, table)
    bounds = figures.totals.size_bounds
    content = {
        "kinds": kind_figures(figures.totals),
        "classes": class_figures(points),
        "areas": {name: size_figures(values, bounds) for name, values in points.items()},
        "images": [
            {
                "image_id": image.image_id,
                "PQ": float(pq[i]),
                "points": _by_kind(figures.costs[i]),
                "errors": [
                    {**error._asdict(), "category_id": table[error.category_id]["id"]}
                    for error in image.errors
                    if error.loss > 0
                ],
            }
            for i, image in enumerate(figures.images)
        ],
    }
    write_json(folder / "errors.json", content)
    write_atomically(folder / "errors.md", lambda file: file.write(text.encode()))
