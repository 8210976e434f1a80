"""True PQ on the grid by hand, and which form of the surrogate becomes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hand_masks import masks_of, truth_of

from cops.losses.panoptic_quality import smooth_panoptic_quality, true_statistics


def test_true_quality_by_hand():
    # Cells: truth A A A A B B B B, prediction a a a b b b b c; c has one cell. Pairs: A-a 3/4,
    # B-b 3/5; c is a false positive. PQ = (3/4 + 3/5) / 2.5; with a limit of 2 cells c is rejected:
    # (3/4 + 3/5) / 2.
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    masks = torch.nn.functional.one_hot(labels).T.reshape(3, 1, 8).float()
    prediction = masks_of(masks, [0, 0, 0], [0, 1, -1])
    truth = truth_of([[0] * 4 + [1] * 4], [0, 0])
    for limit, quality in ((0.0, 1.35 / 2.5), (2.0, 1.35 / 2)):
        sums = true_statistics([prediction], [truth], torch.tensor([limit]))
        assert sums.quality([True]).all.pq == pytest.approx(quality)


@pytest.mark.parametrize(
    ("form", "worth"), [("authors", 0.25 / 1.25), ("literal", 0.25 / 1.0), ("expected", 0.5 / 3)]
)
def test_what_two_joined_segments_are_worth(form, worth):
    # One mask on two true segments of 10 cells: u = 1/2 with either, so h = 1/2, and one segment is
    # missed. The pair adds 1/4 of a miss (authors), 1/4 of a miss and of a false positive
    # (expected), nothing (literal). True PQ is 0: a false positive and two misses.
    masks = torch.ones(1, 1, 20)
    prediction, truth = masks_of(masks, [0], [0]), truth_of([[0] * 10 + [1] * 10], [0, 0])
    loss, _ = smooth_panoptic_quality([prediction], [truth], torch.tensor([-1e4]), form=form)
    assert 1 - float(loss) == pytest.approx(worth)
    assert true_statistics([prediction], [truth], torch.zeros(1)).quality([True]).all.pq == 0


@pytest.mark.parametrize(("form", "is_pq"), [("expected", True), ("authors", False)])
def test_only_the_expected_form_becomes_true_quality(form, is_pq):
    # Truth of 8, 6 and 6 cells; a has 6 of A (3/4), b 5 of B (5/6), c 2 of C (1/3), d 1 (rejected),
    # e the other 6. True: (3/4 + 5/6) / (2 + (2 + 1) / 2), false positives are c and e. Where pairs
    # that fail are no false positives, it is 1/2 less below.
    labels = torch.tensor([0] * 6 + [4] * 2 + [1] * 5 + [3] + [2] * 2 + [4] * 4)
    masks = torch.nn.functional.one_hot(labels).T.reshape(5, 1, 20).double()
    prediction = masks_of(masks, [0] * 5, [0, 1, 2, -1, -1])
    truth = truth_of([[0] * 8 + [1] * 6 + [2] * 6], [0, 0, 0])
    limits = torch.tensor([1.5])
    loss, _ = smooth_panoptic_quality(
        [prediction], [truth], limits, form=form, match_power=40, area_slope=100.0
    )
    true = true_statistics([prediction], [truth], limits).quality([True]).all.pq
    assert true == pytest.approx((3 / 4 + 5 / 6) / 3.5)
    expected = true if is_pq else (3 / 4 + 5 / 6) / 3
    assert 1 - float(loss) == pytest.approx(expected, abs=1e-6)


def test_true_quality_of_an_all_void_image_has_no_class():
    prediction = masks_of(torch.ones(1, 2, 2), [0], [-1])
    sums = true_statistics([prediction], [truth_of(np.full((2, 2), -1), [])], torch.zeros(1))
    assert sums.tp.sum() == sums.fp.sum() == sums.fn.sum() == 0
