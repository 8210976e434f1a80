"""Maximum-IoU matching against all permutations; overlap counts against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cops.layers.matching import count_segment_overlaps, match_by_iou


def best_total(iou, predicted_classes, true_classes) -> float:
    """Largest sum of IoU of any matching within classes, by trying all of them."""
    allowed = np.where(predicted_classes[:, None] == true_classes[None], iou, 0.0)
    rows, columns = allowed.shape
    padded = np.hstack([allowed, np.zeros((rows, rows))])
    return max(
        sum(padded[row, column] for row, column in enumerate(choice))
        for choice in itertools.permutations(range(columns + rows), rows)
    )


@pytest.mark.parametrize("seed", range(12))
def test_matching_has_the_largest_sum_of_iou(seed):
    rng = np.random.default_rng(seed)
    predicted, true = rng.integers(0, 3, rng.integers(1, 5)), rng.integers(0, 3, rng.integers(1, 5))
    iou = rng.random((len(predicted), len(true))) * (rng.random((len(predicted), len(true))) < 0.7)
    match = match_by_iou(iou, predicted, true)
    rows = np.flatnonzero(match >= 0)
    assert len(set(match[rows])) == len(rows)
    assert (predicted[rows] == true[match[rows]]).all()
    assert (iou[rows, match[rows]] > 0).all()
    assert iou[rows, match[rows]].sum() == pytest.approx(best_total(iou, predicted, true))


def test_a_pair_above_one_half_may_lose_to_two_pairs():
    # 0.3 + 0.3 > 0.51: the matching of the surrogate is not that of PQ.
    iou = np.array([[0.51, 0.3], [0.3, 0.0]])
    match = match_by_iou(iou, np.array([1, 1]), np.array([1, 1]))
    assert match.tolist() == [1, 0]


def test_stuff_is_matched_by_class():
    iou = np.array([[0.1, 0.4], [0.2, 0.0]])
    assert match_by_iou(iou, np.array([4, 7]), np.array([7, 4])).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (3, 0)])
def test_nothing_to_match(shape):
    match = match_by_iou(np.zeros(shape), np.zeros(shape[0], int), np.zeros(shape[1], int))
    assert match.tolist() == [-1] * shape[0]


def test_pairs_without_a_common_cell_are_no_match():
    assert match_by_iou(np.zeros((2, 2)), np.zeros(2, int), np.zeros(2, int)).tolist() == [-1, -1]


def test_overlaps_against_loops():
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 4, (5, 7)), rng.integers(-1, 3, (5, 7))
    overlaps = count_segment_overlaps(predicted, true, 4, 3)
    for m in range(4):
        assert overlaps.predicted[m] == ((predicted == m) & (true >= 0)).sum()
        for s in range(3):
            shared = ((predicted == m) & (true == s)).sum()
            union = (((predicted == m) & (true >= 0)) | (true == s)).sum()
            assert overlaps.shared[m, s] == shared
            assert overlaps.iou()[m, s] == pytest.approx(shared / union)
    assert overlaps.true.tolist() == [(true == s).sum() for s in range(3)]


def test_all_void_has_no_overlap():
    overlaps = count_segment_overlaps(np.zeros((2, 3), int), np.full((2, 3), -1), 1, 0)
    assert overlaps.shared.shape == (1, 0)
    assert overlaps.predicted.tolist() == [0]


@pytest.mark.parametrize(
    ("predicted", "true", "problem"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "cells"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), "predicted"),
        (np.zeros((2, 2), int), np.full((2, 2), -2), "true"),
    ],
)
def test_bad_maps_are_refused(predicted, true, problem):
    with pytest.raises(ValueError, match=problem):
        count_segment_overlaps(predicted, true, 3, 1)
