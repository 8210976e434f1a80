"""Gradient descent on the costs alone: the surrogate's gradient leads to true PQ."""

from __future__ import annotations

import re

import numpy as np
import pytest

from panoptic_tools.studies import descend_costs
from panoptic_tools.studies.library.missing_quality import in_one_piece
from panoptic_tools.studies.library.poor_costs import IS_THING, make_truth


def run(capsys, *options: str):
    """Results of one batch, and the printed (surrogate, true PQ) of the first and last step."""
    args = descend_costs.parse_arguments(["--images", "6", "--steps", "60", *options])
    results = descend_costs.descend(0, args)
    rows = re.findall(r"surrogate +([\d.]+) +true PQ +([\d.]+)", capsys.readouterr().out)
    return results, np.array(rows, dtype=float)[[0, -1]]


def test_surrogate_and_true_quality_rise_together_to_100(capsys):
    (endings, _), (first, last) = run(capsys)
    assert (first < 60).all() and (last > 95).all()
    reachable = [ending.quality for ending in endings if ending.possible]
    assert len(reachable) >= 3
    assert reachable == pytest.approx([100] * len(reachable))


def test_without_a_slope_for_missed_segments_some_stay_missed(capsys):
    (endings, errors), (first, last) = run(capsys, "--linear-share", "0")
    assert (last > first).all()
    assert min(ending.quality for ending in endings if ending.possible) < 95
    assert errors["missed, no overlap"] + errors["too many, of a class not there"] > 0


def test_truths_that_the_grid_cannot_express_are_told():
    truth = make_truth(0, (96, 192), (1, 4))
    whole = in_one_piece(truth, (1, 4))
    assert whole.shape == truth.classes.shape and bool(whole.any())
    # A thing in two pieces three cells apart: no edge of distance 1 or 4 stays within it.
    number = [s for s, c in enumerate(truth.classes.tolist()) if IS_THING[c]][0]
    truth.segment_map[truth.segment_map == number] = -1
    truth.segment_map[3, 2], truth.segment_map[3, 5] = number, number
    assert not in_one_piece(truth, (1, 4))[number]
    assert in_one_piece(truth, (1, 3))[number]


def test_main_prints_a_summary(capsys):
    descend_costs.main(["--seeds", "0", "--images", "1", "--steps", "2", "--every", "1"])
    output = capsys.readouterr().out
    assert "1 batches of 1" in output and "all images: 1 images" in output
