"""Means and spreads over seeds, differences seed by seed, and tables of them in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from panoptic_common.files import write_json
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.studies.library.training_queue import Finished

MAIN_OUTPUT = "panoptic_seg"


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    result: str  # its name among the results of a training
    of_output: bool  # of a panoptic output, else of the network, the same for all its outputs


# What every study compares first.
QUALITIES = (
    Column("PQ", "PQ", True),
    Column("PQ th", "PQ_th", True),
    Column("PQ st", "PQ_st", True),
    Column("SQ", "SQ", True),
    Column("RQ", "RQ", True),
)
COMPARED = QUALITIES[:3]


class Difference(NamedTuple):
    """A line of the table of differences: what `more` has more than `less`, and what that shows."""

    more: str
    less: str
    meaning: str = ""


class SeedTable:
    """What trainings with several seeds have given, as rows and columns.

    Args:
        finished: results of each (config, seed).
        rows: name -> (config, panoptic output).
        seeds: in this order.
    """

    def __init__(
        self, finished: Finished, rows: Mapping[str, tuple[str, str]], seeds: Sequence[int]
    ) -> None:
        self._finished = finished
        self.rows = rows
        self._seeds = seeds

    def values(self, row: str, column: Column) -> list[float | None]:
        """Return a number per seed; None where there is none."""
        config, output = self.rows[row]
        name = f"{output}/{column.result}" if column.of_output else column.result
        runs = [self._finished.get((config, seed)) for seed in self._seeds]
        return [None if run is None else run["results"].get(name) for run in runs]

    def spreads(self, row: str, columns: Sequence[Column]) -> dict[str, dict[str, float] | None]:
        """Return the `spread` of a row in each column, by its heading."""
        return {column.heading: spread(self.values(row, column)) for column in columns}

    def seconds(self, row: str) -> dict[str, float] | None:
        """Return the `spread` of the wall times of a row's trainings."""
        runs = [self._finished.get((self.rows[row][0], seed)) for seed in self._seeds]
        return spread([None if run is None else run["seconds"] for run in runs])

    def differences(
        self, more: str, less: str, columns: Sequence[Column]
    ) -> dict[str, dict[str, Any]]:
        """Return what the row `more` has more than `less`, as `seed_gaps` takes it, by heading."""
        entries = {}
        for column in columns:
            pairs = zip(self.values(more, column), self.values(less, column), strict=True)
            gaps = [None if a is None or b is None else a - b for a, b in pairs]
            entries[column.heading] = {"seeds": gaps, **(spread(gaps) or {})}
        return entries

    def difference_entries(self, wanted: Iterable[Difference]) -> list[dict[str, Any]]:
        """Return the entries of those differences whose two rows are there."""
        return [
            {
                "of": f"{more} - ({less})" if "," in less else f"{more} - {less}",
                **({"meaning": meaning} if meaning else {}),
                **self.differences(more, less, COMPARED),
            }
            for more, less, meaning in wanted
            if more in self.rows and less in self.rows
        ]


def panoptic_outputs(finished: Finished) -> dict[str, list[str]]:
    """Return the panoptic outputs that the trainings of each config were evaluated with, sorted."""
    outputs: dict[str, set[str]] = {}
    for (config, _), done in finished.items():
        names = {name.split("/")[0] for name in done["results"]}
        outputs.setdefault(config, set()).update(n for n in names if n.startswith(MAIN_OUTPUT))
    return {config: sorted(names) for config, names in outputs.items()}


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return mean, sample standard deviation, least and greatest; None without a number.

    One number has no deviation ("std").
    """
    numbers = [v for v in values if v is not None and not math.isnan(v)]
    if not numbers:
        return None
    deviation = {"std": statistics.stdev(numbers)} if len(numbers) > 1 else {}
    return {
        "mean": statistics.fmean(numbers),
        **deviation,
        "min": min(numbers),
        "max": max(numbers),
    }


def plus_minus(value: Mapping[str, float] | None) -> str:
    """Return a spread as "mean ± standard deviation", or the mean if it is of one number."""
    if value is None:
        return "-"
    deviation = f" ± {value['std']:.1f}" if "std" in value else ""
    return f"{value['mean']:.1f}{deviation}"


def seed_gaps(entry: Mapping[str, Any]) -> str:
    """Return differences as "**mean** (seed by seed)".

    Args:
        entry: "seeds", one difference or None per seed, and the keys of `spread`.
    """
    if "mean" not in entry:
        return "-"
    each = ", ".join("-" if gap is None else f"{gap:+.1f}" for gap in entry["seeds"])
    return f"**{entry['mean']:+.1f}** ({each})"


def comparison_in_markdown(
    tables: Mapping[str, Any], headings: Sequence[str], texts: Mapping[str, str]
) -> str:
    """Return the table of means and that of differences, with a sentence above each.

    Args:
        tables: "seeds"; "rows", the spreads of each row by heading; "differences", a list of
            dicts with texts and, by the headings of `COMPARED`, what `seed_gaps` takes.
        headings: of the first table.
        texts: heading -> key of the texts that stand before the numbers of the second one.
    """
    rows = [
        [name, *(plus_minus(row[heading]) for heading in headings)]
        for name, row in tables["rows"].items()
    ]
    compared = [column.heading for column in COMPARED]
    differences = [
        [
            *(entry[key] for key in texts.values()),
            *(seed_gaps(entry[heading]) for heading in compared),
        ]
        for entry in tables["differences"]
    ]
    parts = [
        f"Mean ± standard deviation over the seeds {tables['seeds']}, in percent.",
        markdown_table(["", *headings], rows),
        "Differences, seed by seed (mean in bold).",
        markdown_table([*texts, *compared], differences),
    ]
    return "\n\n".join(parts) + "\n"


def write_tables(folder: Path, tables: Mapping[str, Any], text: str) -> str:
    """Write table.json and table.md.

    Args:
        folder: where to.
        tables: plain numbers.
        text: the same in Markdown.

    Returns:
        The text and where it is, for the user.
    """
    (folder / "table.md").write_text(text, encoding="utf-8")
    write_json(folder / "table.json", tables, indent=1)
    return f"\n{text}\nWritten to {folder / 'table.md'} and {folder / 'table.json'}"
