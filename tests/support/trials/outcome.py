"""What came of the cases of one item, and the table of all items."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from panoptic_common.files import write_json

HEADERS = ("item", "tried", "survived", "survived means", "command", "seconds")
BEGIN, END = "<!-- endurance: begin -->", "<!-- endurance: end -->"


@dataclass
class Outcome:
    """Cases of one item.

    Attributes:
        tried: cases so far.
        failures: a sentence per case that did not survive, which names the case.
        counts: how often each kind of case or of answer occurred.
    """

    tried: int = 0
    failures: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    current: ClassVar[Outcome | None] = None  # that of the item that runs

    def __post_init__(self) -> None:
        Outcome.current = self

    def record(self, case: str, problem: str | None, kind: str = "") -> None:
        """Enter one case; shows it if it failed, since the whole may take an hour.

        Args:
            case: its name.
            problem: why it did not survive; None if it did.
            kind: counted in `counts`.
        """
        self.tried += 1
        if kind:
            self.counts[kind] = self.counts.get(kind, 0) + 1
        if problem:
            self.failures.append(f"{case}: {problem}")
            print(f"  FAILED {self.failures[-1]}", flush=True)

    @property
    def survived(self) -> int:
        """Cases without a failure."""
        return self.tried - len(self.failures)


def store(path: Path, item: str, row: dict[str, Any]) -> None:
    """Add the row of an item to a JSON file, in place of an earlier one."""
    rows = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**rows, item: row}, indent=1)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Draw the rows of the JSON file as the table of docs/reliability.md."""
    lines = [HEADERS, ("---",) * len(HEADERS)]
    for row in rows.values():
        means = row["means"] + (f" ({row['counts']})" if row["counts"] else "")
        command = f"`{row['command']}`"
        figures = str(row["tried"]), str(row["survived"])
        lines.append((row["title"], *figures, means, command, f"{row['seconds']:.0f}"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replace_table(page: Path, drawn: str) -> None:
    """Put a table between the two marks of a page.

    Raises:
        ValueError: the page lacks the marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no place for a table: {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    page.write_text(f"{before}{BEGIN}\n{drawn}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
