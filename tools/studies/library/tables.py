"""Tables in Markdown, and numbers in the unit that their heading names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

MIB, GIB = 2**20, 2**30
Row = dict[str, Any]
Table = list[Row]


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose cells stay as they are.

    Args:
        headings: of the columns.
        rows: texts, as many in each row.
    """
    return tabulate(rows, headings, tablefmt="github", disable_numparse=True)


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table; a column for each key that occurs, in order of appearance."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[format_value(key, row[key]) if key in row else "" for key in keys] for row in rows]
    return markdown_table(keys, cells)


def format_value(key: str, value: Any) -> str:
    """Return a reading, or the spread of several, in the unit that its key names.

    Args:
        key: the heading of its column.
        value: a text, a number, or what `measure.median_range` gives.
    """
    if isinstance(value, dict):
        median, least, greatest = (format_value(key, value[k]) for k in ("median", "min", "max"))
        return f"{median} ({least} to {greatest})"
    if isinstance(value, str):
        return value
    if key.endswith("share"):
        return f"{100 * value:.2f} %"
    if key == "peak bytes" and isinstance(value, int):
        return f"{value / MIB:.1f} MiB" if value < GIB else f"{value / GIB:.2f} GiB"
    if key == "multiply-adds" and isinstance(value, int):
        return f"{value / 1e9:.3f} G"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
