"""Points of learning curves: their table, their comparison at equal time, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from panoptic_tools.studies.library.seed_tables import plus_minus, spread
from panoptic_tools.studies.library.tables import markdown_table

# Heading, and the name of the result.
FIGURES = {
    "PQ": "panoptic_seg/PQ",
    "things": "panoptic_seg/PQ_th",
    "stuff": "panoptic_seg/PQ_st",
    "mIoU": "panoptic_seg/mIoU",
    "AP box": "bbox/AP",
    "AP mask": "segm/AP",
}
COMPARED = ("PQ", "things", "stuff")


@dataclass(frozen=True)
class CurvePoint:
    """One finished training.

    Attributes:
        model: whose curve it is on.
        length: iterations that name the point.
        seed: of the training.
        seconds: of processor time, evaluation and everything before included.
        images: seen in training.
        results: of the evaluation, by name.
    """

    model: str
    length: int
    seed: int
    seconds: float
    images: int
    results: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


def _grouped(points: Sequence[CurvePoint]) -> dict[tuple[str, int], list[CurvePoint]]:
    groups: dict[tuple[str, int], list[CurvePoint]] = {}
    for point in points:
        groups.setdefault((point.model, point.length), []).append(point)
    return groups


def figure_at(curve: Sequence[tuple[float, float]], seconds: float) -> float | None:
    """Read a curve at some processor time, linearly in its logarithm.

    Args:
        curve: (seconds, figure) of its points.
        seconds: where to read.

    Returns:
        The figure; None outside the points, as nothing is known there.
    """
    curve = sorted(curve)
    for (t0, y0), (t1, y1) in zip(curve[:-1], curve[1:], strict=True):
        if t0 <= seconds <= t1:
            if t1 == t0:
                return y1
            share = math.log(seconds / t0) / math.log(t1 / t0)
            return y0 + share * (y1 - y0)
    return next((y for t, y in curve if t == seconds), None)


def gaps_at_equal_time(points: Sequence[CurvePoint]) -> list[list[str]]:
    """Return rows of what each model has more than the first one at its own processor times.

    Args:
        points: of all models.

    Returns:
        (model, length, seconds, gap of each of `COMPARED`), seed by seed; rows of which the first
        model's curve knows nothing are left out.
    """
    if not points:
        return []
    first, rows = points[0].model, []
    for (model, length), group in _grouped(points).items():
        if model == first:
            continue
        gaps: dict[str, list[float]] = {name: [] for name in COMPARED}
        for point in group:
            for name in COMPARED:
                curve = [
                    (p.seconds, p.results[FIGURES[name]])
                    for p in points
                    if (p.model, p.seed) == (first, point.seed)
                ]
                other = figure_at(curve, point.seconds)
                if other is not None:
                    gaps[name].append(point.results[FIGURES[name]] - other)
        if gaps[COMPARED[0]]:
            each = [", ".join(f"{gap:+.1f}" for gap in gaps[name]) for name in COMPARED]
            seconds = spread([point.seconds for point in group])
            rows.append([model, str(length), f"{seconds['mean']:.0f}" if seconds else "-", *each])
    return rows


def curves_in_markdown(points: Sequence[CurvePoint]) -> str:
    """Return the table of all points, and that of the gaps at equal processor time."""
    groups, rows = _grouped(points), []
    first = points[0].model
    for (model, length), group in groups.items():
        seconds = spread([point.seconds for point in group])
        base = spread([point.seconds for point in groups.get((first, length), [])])
        ratio = seconds["mean"] / base["mean"] if seconds and base else float("nan")
        cells = [plus_minus(spread([p.results.get(r) for p in group])) for r in FIGURES.values()]
        time = f"{seconds['mean']:.0f}" if seconds else "-"
        rows.append([model, str(length), str(group[0].images), time, f"{ratio:.2f}", *cells])
    headings = ["", "iterations", "images", "processor s", f"s / {first}", *FIGURES]
    parts = [
        "Mean ± standard deviation over the seeds, in percent; processor time with evaluation.",
        markdown_table(headings, rows),
    ]
    if gaps := gaps_at_equal_time(points):
        parts += [
            f"What each has more than {first} at equal processor time, seed by seed; {first} is "
            "read between its points, linearly in the logarithm of time.",
            markdown_table(["", "iterations", "processor s", *COMPARED], gaps),
        ]
    return "\n\n".join(parts) + "\n"


def draw_curves(points: Sequence[CurvePoint], path: Path) -> None:
    """Draw PQ, things and stuff against processor time and against images seen.

    Args:
        points: of all models; seeds are dots, their mean is the line.
        path: of the PNG.
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(COMPARED), sharey="col")
    models = list(dict.fromkeys(point.model for point in points))
    for row, (attribute, label) in enumerate(
        (("seconds", "processor time (s)"), ("images", "images seen"))
    ):
        for column, name in enumerate(COMPARED):
            ax = axes[row][column]
            for number, model in enumerate(models):
                own = [point for point in points if point.model == model]
                line = []
                for group in _grouped(own).values():
                    x = [getattr(point, attribute) for point in group]
                    y = [point.results[FIGURES[name]] for point in group]
                    ax.plot(x, y, ".", color=f"C{number}", alpha=0.5)
                    line.append((sum(x) / len(x), sum(y) / len(y)))
                ax.plot(*zip(*sorted(line), strict=True), "-o", color=f"C{number}", label=model)
            ax.set(xscale="log", xlabel=label, title=name if name == "PQ" else f"PQ of {name}")
            ax.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
