"""Means, spreads and Markdown of tables over seeds, against numbers by hand."""

from __future__ import annotations

import math

import pytest

from panoptic_tools.studies.library.seed_tables import (
    Column,
    SeedTable,
    plus_minus,
    seed_gaps,
    spread,
)


def test_spread_by_hand_and_without_numbers():
    # Mean 2, deviations -1, 0, 1: sample variance (1 + 0 + 1) / 2 = 1.
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0}
    assert spread([4.0, None, math.nan]) == {"mean": 4.0, "min": 4.0, "max": 4.0}
    assert spread([None, math.nan]) is None


def test_spread_ignores_what_is_not_there():
    assert spread([1.0, None, float("nan"), 3.0]) == {
        "mean": 2.0,
        "std": pytest.approx(math.sqrt(2)),
        "min": 1.0,
        "max": 3.0,
    }
    assert spread([None, float("nan")]) is None


def test_cells_of_tables():
    assert plus_minus({"mean": 50.25, "std": 1.0}) == "50.2 ± 1.0"
    assert plus_minus({"mean": 50.25}) == "50.2"  # of one number
    assert plus_minus(None) == "-"
    entry = {"seeds": [1.0, None, -0.5], "mean": 0.25}
    assert seed_gaps(entry) == "**+0.2** (+1.0, -, -0.5)"
    assert seed_gaps({"seeds": [None]}) == "-"


def test_rows_take_what_each_seed_has():
    """Seed 1 of B has not ended; seed 0 has no mIoU."""
    finished = {
        ("A", 0): {"results": {"out/PQ": 50.0, "out_merged/PQ": 48.0}},
        ("A", 1): {"results": {"out/PQ": 52.0, "out_merged/PQ": 49.0, "mIoU": 70.0}},
        ("B", 0): {"results": {"out/PQ": 51.5}},
    }
    rows = {"A": ("A", "out"), "A, merged": ("A", "out_merged"), "B": ("B", "out")}
    table = SeedTable(finished, rows, seeds=(1, 0))
    quality, network = Column("PQ", "PQ", True), Column("mIoU sem", "mIoU", False)
    assert table.values("A, merged", quality) == [49.0, 48.0]
    assert table.values("A, merged", network) == table.values("A", network) == [70.0, None]
    assert table.values("B", network) == [None, None]
    assert table.spreads("B", [quality, network])["mIoU sem"] is None
    differences = table.differences("A", "A, merged", [quality])
    assert differences["PQ"]["seeds"] == [3.0, 2.0] and differences["PQ"]["mean"] == 2.5
    assert table.differences("B", "A", [quality])["PQ"]["seeds"] == [None, 1.5]
    assert table.differences("B", "A", [network]) == {"mIoU sem": {"seeds": [None, None]}}
