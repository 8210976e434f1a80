"""Means and spreads over seeds, and tables of them in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean, sample standard deviation, least and greatest of the values; None without a number."""
    numbers = [v for v in values if v is not None and not math.isnan(v)]
    if not numbers:
        return None
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else 0.0,
        "min": min(numbers),
        "max": max(numbers),
    }


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def plus_minus(value: Mapping[str, float] | None) -> str:
    """A spread as "mean ± standard deviation"."""
    return "-" if value is None else f"{value['mean']:.1f} ± {value['std']:.1f}"


def seed_gaps(entry: Mapping[str, Any]) -> str:
    """Differences as "**mean** (seed by seed)".

    Args:
        entry: "seeds", one difference or None a seed, and the keys of `spread`.
    """
    if "mean" not in entry:
        return "-"
    each = ", ".join("-" if gap is None else f"{gap:+.1f}" for gap in entry["seeds"])
    return f"**{entry['mean']:+.1f}** ({each})"
