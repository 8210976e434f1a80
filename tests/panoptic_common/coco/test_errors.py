"""What PQ is lost to: each kind by hand, the sum on random maps, and a twin with masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panoptic_maps import listed, one_row, random_image

from panoptic_common.coco.errors import KINDS, ErrorTotals, find_errors, image_costs
from panoptic_common.coco.overlaps import count_overlaps
from panoptic_common.coco.quality import match_segments


def examine(image, num_classes: int):
    truth, true_segments, prediction, predicted = image
    overlaps = count_overlaps(truth, prediction)
    matches = match_segments(*image, num_classes, overlaps=overlaps)
    errors = find_errors(true_segments, predicted, overlaps, matches)
    return matches.statistics(num_classes), errors


def totals_of(images, num_classes: int, **keywords) -> ErrorTotals:
    totals = ErrorTotals.zeros(num_classes, **keywords)
    for image in images:
        totals.add(*examine(image, num_classes))
    return totals


def by_kind(totals: ErrorTotals, k: int) -> dict[str, float]:
    """Points of class k that are not 0, to six digits."""
    points = totals.points()[k].sum(axis=1)
    return {kind: round(float(v), 6) for kind, v in zip(KINDS, points, strict=True) if v}


def strip(*runs: tuple[int, int]):
    """One row from (id, number of pixels)."""
    return one_row([i for i, number in runs for _ in range(number)])


# The background, class 0, is segment 9 of the truth and segment 8 of the prediction.
TRUE_BACKGROUND, PREDICTED_BACKGROUND = (9, 0, 0), (8, 0, 0)


def one_image(truth, true_things, prediction, predicted_things):
    return (
        truth,
        listed(TRUE_BACKGROUND, *true_things),
        prediction,
        listed(PREDICTED_BACKGROUND, *predicted_things),
    )


def test_missed_and_invented():
    truth = strip((9, 20), (1, 4))
    prediction = strip((5, 3), (8, 21))
    totals = totals_of([one_image(truth, [(1, 1, 0)], prediction, [(5, 1, 0)])], 2)
    # Background: 17 / (20 + 21 - 17) = 17/24. Things: one FN and one FP, W = 1, PQ = 0.
    assert by_kind(totals, 0) == {"outline": round(100 * 7 / 24, 6)}
    assert by_kind(totals, 1) == {"missed": 50.0, "invented": 50.0}
    assert totals.truths[1].sum() == totals.predictions[1].sum() == 1


def test_merged():
    # Two of 4 pixels under one of 8: an IoU of 1/2 each, which is no match. W = 2/2 + 1/2.
    halves = one_image(
        strip((9, 20), (1, 4), (2, 4)),
        [(1, 1, 0), (2, 1, 0)],
        strip((8, 20), (5, 8)),
        [(5, 1, 0)],
    )
    assert by_kind(totals_of([halves], 2), 1) == {"merged": 100.0}
    # 6 and 2 pixels: the larger one matches with 6/8, W = 1 + 1/2, PQ = 0.75 / 1.5 = 50.
    swallowed = one_image(
        strip((9, 20), (1, 6), (2, 2)),
        [(1, 1, 0), (2, 1, 0)],
        strip((8, 20), (5, 8)),
        [(5, 1, 0)],
    )
    assert by_kind(totals_of([swallowed], 2), 1) == {
        "outline": round(100 * 0.25 / 1.5, 6),
        "merged": round(100 * 0.5 / 1.5, 6),
    }


def test_split():
    halves = one_image(
        strip((9, 20), (1, 8)),
        [(1, 1, 0)],
        strip((8, 20), (5, 4), (6, 4)),
        [(5, 1, 0), (6, 1, 0)],
    )
    assert by_kind(totals_of([halves], 2), 1) == {"split": 100.0}
    # 6 of 8 pixels match, the other 2 are a part too many: 0.25 and 0.5 of W = 1.5.
    rest = one_image(
        strip((9, 20), (1, 8)),
        [(1, 1, 0)],
        strip((8, 20), (5, 6), (6, 2)),
        [(5, 1, 0), (6, 1, 0)],
    )
    assert by_kind(totals_of([rest], 2), 1) == {
        "outline": round(100 * 0.25 / 1.5, 6),
        "split": round(100 * 0.5 / 1.5, 6),
    }


def test_parts_that_cover_half_of_a_segment_do_not_split_it():
    # 2 + 2 of 8 pixels. Each part lies in it, so its outline is wrong; it is neither missed nor
    # are the parts invented.
    image = one_image(
        strip((9, 20), (1, 8)),
        [(1, 1, 0)],
        strip((8, 24), (5, 2), (6, 2)),
        [(5, 1, 0), (6, 1, 0)],
    )
    assert by_kind(totals_of([image], 2), 1) == {"outline": 100.0}


def test_wrong_class_costs_both_classes():
    # Class 1 was taken for class 2 on 3 of its 4 pixels: an IoU of 3/4.
    image = one_image(strip((9, 20), (1, 4)), [(1, 1, 0)], strip((8, 21), (5, 3)), [(5, 2, 0)])
    totals = totals_of([image], 3)
    assert by_kind(totals, 1) == by_kind(totals, 2) == {"wrong class": 100.0}


def test_a_poor_outline_is_neither_missed_nor_invented():
    inside = one_image(strip((9, 20), (1, 8)), [(1, 1, 0)], strip((8, 25), (5, 3)), [(5, 1, 0)])
    around = one_image(strip((9, 20), (1, 3)), [(1, 1, 0)], strip((8, 15), (5, 8)), [(5, 1, 0)])
    for image in (inside, around):
        assert by_kind(totals_of([image], 2), 1) == {"outline": 100.0}
    # They share 2 pixels, half of each: too little for either rule.
    beside = one_image(
        strip((9, 20), (1, 4)), [(1, 1, 0)], strip((8, 18), (5, 4), (8, 2)), [(5, 1, 0)]
    )
    assert by_kind(totals_of([beside], 2), 1) == {"missed": 50.0, "invented": 50.0}


def test_void_is_no_part_of_a_prediction_and_crowd_is_nothing_at_all():
    # Prediction 5 has 6 pixels, 3 of them in void: of the other 3, 2 lie in segment 1 (of 8).
    truth, prediction = strip((9, 20), (1, 8), (0, 3)), strip((8, 19), (5, 3), (8, 6), (5, 3))
    image = one_image(truth, [(1, 1, 0)], prediction, [(5, 1, 0)])
    assert by_kind(totals_of([image], 2), 1) == {"outline": 100.0}
    # Segment 2 is a crowd: prediction 5 covers it and segment 1, but merges nothing. Half of the
    # prediction lies in the crowd, which does not excuse it, and its IoU with segment 1 is 4/8.
    image = one_image(
        strip((9, 20), (1, 4), (2, 4)),
        [(1, 1, 0), (2, 1, 1)],
        strip((8, 20), (5, 8)),
        [(5, 1, 0)],
    )
    assert by_kind(totals_of([image], 2), 1) == {"outline": 100.0}


def test_a_listed_segment_without_a_pixel_is_missed():
    _, errors = examine(
        (strip((9, 4)), listed((9, 0, 0), (1, 1, 0)), strip((8, 4)), listed((8, 0, 0))), 2
    )
    assert errors[1] == ("missed", 1, 0.5, 0, 1, 0)


def test_sizes_are_those_of_the_segment_that_is_wrong():
    truth, prediction = strip((9, 20), (1, 4)), strip((5, 3), (8, 21))
    image = one_image(truth, [(1, 1, 0)], prediction, [(5, 1, 0)])
    totals = totals_of([image], 2, size_bounds=(4, 20))  # 3 is small, 4 medium, 20 large
    assert totals.truths[1].sum(axis=0).tolist() == [0, 1, 0]
    assert totals.predictions[1].sum(axis=0).tolist() == [1, 0, 0]
    assert (totals.loss[0] > 0).sum(axis=0).tolist() == [0, 0, 1]
    for bounds in ((0,), (5, 5), (9, 3)):
        with pytest.raises(ValueError, match="ascending"):
            ErrorTotals.zeros(2, bounds)


# ---------------------------------------------------------------------------------- the sum


def test_all_parts_sum_to_what_is_missing_to_100():
    rng = np.random.default_rng(0)
    images = [random_image(rng, 40, 56, 14, 5) for _ in range(40)]
    totals = totals_of(images, 6)  # class 5 never occurs
    quality = totals.statistics.quality([True, True, False, False, False, False])
    points = totals.points().sum(axis=(1, 2))
    np.testing.assert_allclose(points[:5], 100 - 100 * quality.pq[:5], rtol=0, atol=1e-10)
    assert math.isnan(points[5])
    things = np.array([True, True, False, False, False, False])
    for group, pq in (
        (things | ~things, quality.all.pq),
        (things, quality.things.pq),
        (~things, quality.stuff.pq),
    ):
        assert totals.mean_points(group).sum() == pytest.approx(100 - 100 * pq, abs=1e-10)
        apart = totals.mean_points_apart(group)
        np.testing.assert_allclose(sum(apart), totals.mean_points(group), rtol=0, atol=1e-10)
        assert apart[1][[kind != "outline" for kind in KINDS]].max() < 1e-10
    assert np.isnan(totals.mean_points(np.arange(6) == 5)).all()
    assert (totals.truths.sum(axis=(1, 2)) == totals.statistics.fn).all()
    assert (totals.predictions.sum(axis=(1, 2)) == totals.statistics.fp).all()
    assert (totals.loss.sum(axis=(0, 2)) > 0).all()  # all kinds occur

    costs = image_costs([examine(image, 6)[1] for image in images], totals.statistics)
    assert costs.shape == (40, len(KINDS))
    everything = totals.mean_points(things | ~things).sum(axis=1)
    np.testing.assert_allclose(costs.sum(axis=0), everything, rtol=0, atol=1e-10)


def test_no_image_and_no_error():
    totals = ErrorTotals.zeros(2)
    assert np.isnan(totals.points()).all() and image_costs([[]], totals.statistics).sum() == 0
    truth = strip((9, 4), (1, 4))
    image = (truth, listed((9, 0, 0), (1, 1, 0)), truth, listed((9, 0, 0), (1, 1, 0)))
    assert totals_of([image], 2).loss.sum() == 0


# ---------------------------------------------------------------------------------- a slow twin


def kinds_by_masks(image) -> dict[tuple[str, int], str]:
    """The kind of each unmatched segment, straight from the text, with a mask per segment."""
    truth, true_segments, prediction, predicted = image
    void = truth == 0
    a = {s["id"]: (truth == s["id"], s["category_id"]) for s in true_segments if not s["iscrowd"]}
    b = {s["id"]: ((prediction == s["id"]), s["category_id"]) for s in predicted}

    def share(inner, outer, without=False):
        inner = inner & ~void if without else inner
        return (inner & outer).sum() / max(1, inner.sum())

    def iou(t, p):
        return (a[t][0] & b[p][0]).sum() / max(1, (a[t][0] | (b[p][0] & ~void)).sum())

    same = [(t, p) for t in a for p in b if a[t][1] == b[p][1]]
    inside = {(t, p) for t, p in same if share(a[t][0], b[p][0]) > 0.5}
    part = {(t, p) for t, p in same if share(b[p][0], a[t][0], True) > 0.5}
    confused = {(t, p) for t in a for p in b if a[t][1] != b[p][1] and iou(t, p) > 0.5}

    def is_split(t):
        parts = [b[p][0] for u, p in part if u == t]
        return len(parts) > 1 and share(a[t][0], np.any(parts, axis=0)) > 0.5

    kinds = {}
    for t in a:
        mergers = [p for u, p in inside if u == t and sum(q == p for _, q in inside) > 1]
        near = any(u == t for u, _ in inside | part)
        found = (any(u == t for u, _ in confused), bool(mergers), is_split(t), near)
        kinds["truth", t] = first_of(found, "missed")
    for p in b:
        merges = sum(q == p for _, q in inside) > 1
        of_split = any(q == p and is_split(t) for t, q in part)
        near = any(q == p for _, q in inside | part)
        found = (any(q == p for _, q in confused), merges, of_split, near)
        kinds["prediction", p] = first_of(found, "invented")
    return kinds


def first_of(found, otherwise: str) -> str:
    names = ("wrong class", "merged", "split", "outline")
    return next((name for name, holds in zip(names, found, strict=True) if holds), otherwise)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    segments=st.integers(1, 16),
    num_classes=st.integers(1, 3),
    agreement=st.sampled_from([0.2, 0.6, 0.9]),
)
def test_kinds_equal_those_by_masks(seed, segments, num_classes, agreement):
    image = random_image(np.random.default_rng(seed), 24, 30, segments, num_classes, agreement)
    expected = kinds_by_masks(image)
    _, errors = examine(image, num_classes)
    for error in errors:
        if not error.prediction_id:
            assert error.kind == expected["truth", error.truth_id]
        elif not error.truth_id:
            assert error.kind == expected["prediction", error.prediction_id]
