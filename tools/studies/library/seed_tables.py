"""Means and spreads over seeds, differences seed by seed, and tables of them in Markdown."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from panoptic_tools.studies.library.training_queue import Finished


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    result: str  # its name among the results of a training
    of_output: bool  # of a panoptic output, else of the network, the same for all its outputs


class SeedTable:
    """What trainings with several seeds have given, as rows and columns.

    Args:
        finished: results of each (model, seed).
        rows: name -> (model, panoptic output).
        seeds: in this order.
    """

    def __init__(
        self, finished: Finished, rows: Mapping[str, tuple[str, str]], seeds: Sequence[int]
    ) -> None:
        self._finished = finished
        self.rows = rows
        self._seeds = seeds

    def values(self, row: str, column: Column) -> list[float | None]:
        """A number for each seed; None where there is none."""
        model, output = self.rows[row]
        name = f"{output}/{column.result}" if column.of_output else column.result
        runs = [self._finished.get((model, seed)) for seed in self._seeds]
        return [None if run is None else run["results"].get(name) for run in runs]

    def spreads(self, row: str, columns: Sequence[Column]) -> dict[str, dict[str, float] | None]:
        """The `spread` of a row in each column, by its heading."""
        return {column.heading: spread(self.values(row, column)) for column in columns}

    def differences(
        self, more: str, less: str, columns: Sequence[Column]
    ) -> dict[str, dict[str, Any]]:
        """What the row `more` has more than `less`, as `seed_gaps` takes it, by heading."""
        entries = {}
        for column in columns:
            pairs = zip(self.values(more, column), self.values(less, column), strict=True)
            gaps = [None if a is None or b is None else a - b for a, b in pairs]
            entries[column.heading] = {"seeds": gaps, **(spread(gaps) or {})}
        return entries


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


def comparison_in_markdown(
    tables: Mapping[str, Any],
    headings: Sequence[str],
    compared: Sequence[str],
    texts: Mapping[str, str],
) -> list[str]:
    """Lines of the table of means and of that of differences, with a sentence above each.

    Args:
        tables: "seeds"; "rows", the spreads of each row by heading; and "differences", a list of
            dicts with texts and, by heading, what `seed_gaps` takes.
        headings: of the first table.
        compared: of the second one.
        texts: heading -> key of the texts that stand before the numbers of the second one.
    """
    rows = [
        [name, *(plus_minus(row[heading]) for heading in headings)]
        for name, row in tables["rows"].items()
    ]
    differences = [
        [
            *(entry[key] for key in texts.values()),
            *(seed_gaps(entry[heading]) for heading in compared),
        ]
        for entry in tables["differences"]
    ]
    return [
        f"Mean ± standard deviation over the seeds {tables['seeds']}, in percent.",
        "",
        *markdown_rows(["", *headings], rows),
        "",
        "Differences, seed by seed (mean in bold).",
        "",
        *markdown_rows([*texts, *compared], differences),
    ]


def write_tables(folder: Path, tables: Mapping[str, Any], text: str) -> str:
    """Write table.json and table.md.

    Args:
        folder: where to.
        tables: plain numbers.
        text: the same in Markdown.

    Returns:
        The text and where it is, for the user.
    """
    files = {"table.md": text, "table.json": json.dumps(tables, indent=1)}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return f"\n{text}\nWritten to " + " and ".join(str(folder / name) for name in files)
