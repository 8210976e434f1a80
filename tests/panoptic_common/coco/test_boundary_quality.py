"""Boundary PQ against one erosion for each mask, and by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from panoptic_maps import listed, random_image, statistics_of

from panoptic_common.coco.quality import PanopticStatistics, match_segments


def boundary_statistics_by_masks(image, num_classes: int, ratio: float) -> PanopticStatistics:
    """Boundary PQ of one image with one erosion per mask, and no shared tables."""
    truth, truth_segments, prediction, prediction_segments = image
    radius = max(1, int(round(ratio * math.hypot(*truth.shape))))

    def band(mask):
        padded = np.pad(mask.astype(np.uint8), 1)
        for _ in range(radius):
            padded = cv2.erode(padded, np.ones((3, 3), np.uint8))
        return mask & ~padded[1:-1, 1:-1].astype(bool)

    sums = PanopticStatistics.zeros(num_classes)
    matched_truth, matched_prediction, void = set(), set(), truth == 0
    for t in truth_segments:
        for p in prediction_segments:
            if t["iscrowd"] or t["category_id"] != p["category_id"]:
                continue
            a, b = truth == t["id"], prediction == p["id"]
            if not (a & b).any():
                continue
            iou = (a & b).sum() / (a | b & ~void).sum()
            edge_a, edge_b = band(a), band(b)
            edge_iou = (edge_a & edge_b).sum() / (edge_a | edge_b & ~void).sum()
            if min(iou, edge_iou) > 0.5:
                sums.tp[t["category_id"]] += 1
                sums.iou[t["category_id"]] += min(iou, edge_iou)
                matched_truth.add(t["id"])
                matched_prediction.add(p["id"])
    for t in truth_segments:
        if not t["iscrowd"] and t["id"] not in matched_truth:
            sums.fn[t["category_id"]] += 1
    for p in prediction_segments:
        if p["id"] not in matched_prediction and not excused(p, image):
            sums.fp[p["category_id"]] += 1
    return sums


def excused(segment, image) -> bool:
    """Whether more than half of a prediction lies in void, or in the last crowd of its class."""
    truth, truth_segments, prediction, _ = image
    same = (t for t in truth_segments if t["category_id"] == segment["category_id"])
    crowds = [t["id"] for t in same if t["iscrowd"]]
    mask = prediction == segment["id"]
    ignored = (mask & ((truth == 0) | (truth == (crowds or [0])[-1]))).sum()
    return ignored > 0.5 * mask.sum()


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.1, 2.0])
def test_boundary_pq_equals_one_erosion_per_mask(ratio):
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(8):
        image = random_image(rng, 37, 52, 10, 3, agreement=0.8)
        expected = boundary_statistics_by_masks(image, 3, ratio)
        ours = statistics_of([image], 3, boundary_ratio=ratio)
        np.testing.assert_array_equal(
            [ours.tp, ours.fp, ours.fn], [expected.tp, expected.fp, expected.fn]
        )
        np.testing.assert_allclose(ours.iou, expected.iou, rtol=0, atol=1e-12)
        found += int(ours.tp.sum())
    assert found > 5


def test_boundary_pq_of_a_wide_band_is_pq_and_of_a_thin_band_is_lower():
    truth = np.ones((60, 80), np.int32)
    truth[10:50, 20:60] = 2
    prediction = np.ones_like(truth)
    prediction[12:52, 22:62] = 2
    image = (
        truth,
        [{"id": 1, "category_id": 0, "iscrowd": 0}, {"id": 2, "category_id": 1, "iscrowd": 0}],
        prediction,
        [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 1}],
    )
    plain = statistics_of([image], 2)
    np.testing.assert_array_equal(statistics_of([image], 2, boundary_ratio=1.0).iou, plain.iou)
    # The squares share 38 x 38 of 40 x 40 pixels; bands of 2 pixels hardly any.
    assert plain.tp.tolist() == [1, 1]
    assert plain.iou[1] == pytest.approx(38**2 / (2 * 40**2 - 38**2))
    assert statistics_of([image], 2, boundary_ratio=0.02).tp.tolist() == [0, 0]


def test_boundary_pq_leaves_out_the_whole_void():
    # Truth: columns 0-29 of 40 x 60, the rest void; prediction: columns 0-49. With bands of one
    # pixel the true one has 2 * 40 + 2 * 28 = 136 pixels, the predicted one 2 * 40 + 2 * 48 = 176;
    # they share the left column and 2 * 29 more = 98. Of the predicted one 2 * 20 + 38 = 78 lie in
    # void, most of them far from the void's own outline. 98 / (136 + 176 - 98
    # - 78).
    truth, prediction = np.zeros((2, 40, 60), np.int32)
    truth[:, :30] = 1
    prediction[:, :50] = 7
    image = (truth, listed((1, 0, 0)), prediction, listed((7, 0, 0)))
    assert match_segments(*image, 1).pairs[0].iou == 1
    boundary = match_segments(*image, 1, boundary_ratio=1e-6)
    assert boundary.pairs[0].iou == pytest.approx(98 / 136)
    assert boundary_statistics_by_masks(image, 1, 1e-6).iou[0] == pytest.approx(98 / 136)
