"""How two predictions of the same images differ, for `evaluate_panoptic.py --compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from panoptic_common.coco.errors import KINDS
from panoptic_common.coco.paired import PairedComparison, compare_paired, image_pq
from panoptic_common.files import write_atomically, write_json
from panoptic_tools.error_report import ErrorFigures, class_figures, points_by_name

RESAMPLES = 1000


def compare(first: ErrorFigures, second: ErrorFigures, seed: int) -> PairedComparison:
    """Compare two predictions of the same images, in the same order."""
    sums = [[image.statistics for image in figures.images] for figures in (first, second)]
    return compare_paired(sums[0], sums[1], resamples=RESAMPLES, seed=seed)


def extremes(comparison: PairedComparison, number: int) -> tuple[list[int], list[int]]:
    """Return the places of the images with the largest gains, and with the largest losses."""
    order = np.argsort(comparison.by_image, kind="stable").tolist()
    gains = [i for i in reversed(order) if comparison.by_image[i] > 0]
    losses = [i for i in order if comparison.by_image[i] < 0]
    return gains[:number], losses[:number]


def comparison_text(
    first: ErrorFigures,
    second: ErrorFigures,
    comparison: PairedComparison,
    table: Sequence[dict[str, Any]],
    number: int,
) -> str:
    """Lay out the comparison in Markdown, with the `number` largest gains and losses."""
    figures = [class_figures(points_by_name(side.totals, table)) for side in (first, second)]
    groups = [name for name in figures[0] if not name.startswith("class ")]
    rows = [[name, *(f[name]["PQ"] for f in figures)] for name in groups]
    rows += [[f"lost to: {kind}", *(f["All"][kind] for f in figures)] for kind in KINDS]
    rows += [[name, *(f[name]["PQ"] for f in figures)] for name in figures[0] if name not in groups]
    lines = [[name, a, b, f"{b - a:+.2f}"] for name, a, b in rows]
    c = comparison
    same = len(c.by_image) - c.better - c.worse
    parts = [
        f"## PQ {c.first:.2f} -> {c.second:.2f} ({c.second - c.first:+.2f})",
        f"{100 * c.level:g} % of {RESAMPLES} resamples of the images: {c.low:+.2f} to"
        f" {c.high:+.2f}. The prediction is better on {c.better} images, worse on {c.worse}, the"
        f" same on {same} (sign test: p = {c.p_value:.2g}).",
        _table(lines, ["", "compared with", "prediction", "difference"]),
    ]
    own = [image_pq([image.statistics for image in side.images]) for side in (first, second)]
    for title, places in zip(("gains", "losses"), extremes(c, number), strict=True):
        if places:
            lines = [
                [str(first.images[i].image_id), own[0][i], own[1][i], f"{c.by_image[i]:+.2f}"]
                for i in places
            ]
            headers = ["image", "compared with", "prediction", "difference"]
            parts += [f"## Largest {title} of an image's own PQ", _table(lines, headers)]
    return "\n\n".join(parts) + "\n"


def _table(lines: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    # The last column has signs, which tabulate would drop from what it takes for numbers.
    texts = {"disable_numparse": [0, 3], "colalign": ("left", "right", "right", "right")}
    return str(tabulate(lines, headers, floatfmt=".2f", tablefmt="pipe", **texts))


def write_comparison(
    folder: Path,
    first: ErrorFigures,
    second: ErrorFigures,
    comparison: PairedComparison,
    table: Sequence[dict[str, Any]],
    text: str,
) -> None:
    """Write comparison.json, with the PQ of every image, and comparison.md."""
    c = comparison
    own = [image_pq([image.statistics for image in side.images]) for side in (first, second)]
    figures = [class_figures(points_by_name(side.totals, table)) for side in (first, second)]
    content = {
        "PQ": {"compared with": c.first, "prediction": c.second, "difference": c.second - c.first},
        "interval": {"level": c.level, "resamples": RESAMPLES, "low": c.low, "high": c.high},
        "sign test": {"better": c.better, "worse": c.worse, "p": c.p_value},
        "compared with": figures[0],
        "prediction": figures[1],
        "images": [
            {
                "image_id": image.image_id,
                "compared with": float(own[0][i]),
                "prediction": float(own[1][i]),
            }
            for i, image in enumerate(second.images)
        ],
    }
    write_json(folder / "comparison.json", content)
    write_atomically(folder / "comparison.md", lambda file: file.write(text.encode()))
