"""Tables in Markdown, and numbers in the unit that their heading names."""

from __future__ import annotations

import math

import pytest

from panoptic_tools.studies.library.measure import median_range
from panoptic_tools.studies.library.tables import (
    GIB,
    MIB,
    format_table,
    format_value,
    markdown_table,
)


@pytest.mark.parametrize(
    "key,value,expected",
    [
        ("seconds", median_range([0.12, 0.1, 0.3]), "0.12 (0.1 to 0.3)"),
        ("share", median_range([0.25]), "25.00 % (25.00 % to 25.00 %)"),
        ("saved share", 0.9978, "99.78 %"),
        ("peak bytes", 3 * MIB // 2, "1.5 MiB"),
        ("peak bytes", 3 * GIB, "3.00 GiB"),
        ("multiply-adds", 1_500_000, "0.002 G"),
        ("peak bytes", 0.98, "0.98"),  # an exponent
        ("cells", 65000, "65,000"),
        ("ratio", math.pi, "3.14"),
        ("part", "backbone", "backbone"),
    ],
)
def test_values_are_written_in_their_unit(key, value, expected):
    assert format_value(key, value) == expected


def test_table_has_a_column_for_each_key():
    table = format_table([{"what": "a", "cells": 1000}, {"what": "b", "ratio": 2.0}])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["what", "cells", "ratio"]
    assert rows[2:] == [["a", "1,000", ""], ["b", "", "2"]]
    assert set("".join(rows[1])) == {"-"}


def test_cells_stay_as_they_were_rounded():
    """Nothing that looks like a number is read and written anew."""
    table = markdown_table(["", "PQ"], [["A", "1.0"], ["B", "2.50"], ["C", "1e3"]])
    cells = [line.split("|")[2].strip() for line in table.splitlines()]
    assert cells[0] == "PQ" and cells[2:] == ["1.0", "2.50", "1e3"]
