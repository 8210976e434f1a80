"""Means, spreads and Markdown of tables over seeds, against numbers by hand."""

from __future__ import annotations

import math

from panoptic_common.seed_tables import markdown_rows, plus_minus, seed_gaps, spread


def test_spread_by_hand_and_without_numbers():
    # Mean 2, deviations -1, 0, 1: sample variance (1 + 0 + 1) / 2 = 1.
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0}
    assert spread([4.0, None, math.nan]) == {"mean": 4.0, "std": 0.0, "min": 4.0, "max": 4.0}
    assert spread([None, math.nan]) is None


def test_cells_of_tables():
    assert plus_minus({"mean": 50.25, "std": 1.0}) == "50.2 ± 1.0"
    assert plus_minus(None) == "-"
    entry = {"seeds": [1.0, None, -0.5], "mean": 0.25}
    assert seed_gaps(entry) == "**+0.2** (+1.0, -, -0.5)"
    assert seed_gaps({"seeds": [None]}) == "-"


def test_markdown_has_a_line_below_the_header():
    lines = markdown_rows(["", "PQ"], [["A", "1.0"], ["B", "2.0"]])
    assert lines == ["|  | PQ |", "| --- | --- |", "| A | 1.0 |", "| B | 2.0 |"]
