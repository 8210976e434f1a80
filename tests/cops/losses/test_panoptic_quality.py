"""The smooth panoptic quality against hand-worked numbers and a twin in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hand_masks import masks_of, truth_of, two_pairs

from cops.layers.panoptic_masks import PanopticMasks
from cops.losses.panoptic_quality import (
    FORMS,
    PanopticQualityLoss,
    smooth_panoptic_quality,
    soft_keep,
    soft_match,
)

NEVER_REJECTED = torch.full((3,), -1e4)


def slope_of_pq(form: str, u: float) -> float:
    """dPQ/du of a class with one pair at IoU 0.8 and one at u."""
    value = torch.tensor(u, requires_grad=True)
    prediction, truth = two_pairs(torch.tensor(0.8), value)
    loss, _ = smooth_panoptic_quality([prediction], [truth], NEVER_REJECTED, form=form)
    loss.backward()
    return -float(value.grad)


@pytest.mark.parametrize(("u", "slope"), [(0.3, -0.25), (0.4, -0.54), (0.5, -0.20)])
def test_the_literal_form_has_the_wrong_sign_for_poor_pairs(u, slope):
    # At u = 0.5: h = 0.5, h' = 4, h(0.8) = 0.9961, so PQ = N / D = (0.7969 + 0.25) / (0.9961 + 0.5)
    # = 0.700, and PQ' = (h' u + h - h' PQ) / D = (2 + 0.5 - 2.8) / 1.496 = -0.20.
    assert slope_of_pq("literal", u) == pytest.approx(slope, abs=0.005)


@pytest.mark.parametrize(("u", "slope"), [(0.3, 0.035), (0.4, 0.29), (0.5, 0.745)])
def test_the_authors_form_has_the_right_sign(u, slope):
    # At u = 0.5 with D + (1 - h) / 2 for each pair: D = 0.998 + 0.75, PQ = 0.599, and
    # PQ' = (2.5 - 2 * 0.599) / 1.748 = 0.745.
    assert slope_of_pq("authors", u) == pytest.approx(slope, abs=0.005)


def test_soft_steps():
    assert soft_match(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0.0, 0.5, 1.0]
    # 0.2^4 / (0.2^4 + 0.8^4) = 0.0016 / 0.4112; with a linear share of 0.5 the mean with 0.2.
    assert float(soft_match(torch.tensor(0.2))) == pytest.approx(0.0016 / 0.4112)
    assert float(soft_match(torch.tensor(0.2), 0.5)) == pytest.approx(0.1 + 0.0008 / 0.4112)
    # 0.75^8 / (0.75^8 + 0.25^8) = 3^8 / (3^8 + 1).
    assert float(soft_match(torch.tensor(0.75), power=8)) == pytest.approx(6561 / 6562)
    # Ten cells above the threshold: 1 / (1 + exp(-1)).
    assert float(soft_keep(torch.tensor(22.5), torch.tensor(12.5))) == pytest.approx(
        1 / (1 + math.exp(-1))
    )


# ---- a twin -------------------------------------------------------------------------------------


def twin(predictions, truths, limits, form, linear_share) -> float:
    """Eq. 6 with loops over classes, images and masks."""
    qualities = []
    for category, limit in enumerate(limits):
        numerator = hits = false_positives = misses = 0.0
        occurs = False
        for prediction, truth in zip(predictions, truths, strict=True):
            segment_map = truth.segment_map.numpy()
            missed = {s for s, c in enumerate(truth.classes.tolist()) if c == category}
            occurs |= bool(missed)
            misses += len(missed)
            for j, mask in enumerate(prediction.masks.detach().double().numpy()):
                if int(prediction.classes[j]) != category:
                    continue
                partner = int(prediction.match[j])
                area = mask[segment_map >= 0].sum()
                keep = 1 / (1 + math.exp(-0.1 * (area - limit)))
                if partner < 0:
                    if area >= 0.5 * mask.sum():
                        false_positives += keep
                    continue
                shared = mask[segment_map == partner].sum()
                u = shared / (area + (segment_map == partner).sum() - shared)
                h = (1 - linear_share) * u**4 / (u**4 + (1 - u) ** 4) + linear_share * u
                numerator, hits = numerator + h * keep * u, hits + h * keep
                if form == "literal":
                    misses -= j < prediction.num_predicted
                elif form == "authors":
                    misses -= h
                else:
                    misses -= h * keep
                    false_positives += (1 - h) * keep * (j < prediction.num_predicted)
        if occurs:
            qualities.append(numerator / (hits + 0.5 * (false_positives + misses)))
    return 1 - sum(qualities) / len(qualities)


def random_batch(seed: int, dtype=torch.float32):
    """Two images: pairs, a false positive, a missed truth with its empty mask, void."""
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for _ in range(2):
        segment_map = rng.integers(0, 3, (4, 6))
        segment_map[rng.random((4, 6)) < 0.2] = -1
        truths.append(truth_of(segment_map, [0, 0, 1]))
        masks = torch.tensor(rng.uniform(0.05, 0.9, (5, 4, 6)), dtype=dtype)
        masks[4] = 0
        predictions.append(masks_of(masks, [0, 1, 0, 2, 0], [0, 2, -1, -1, 1], num_predicted=4))
    return predictions, truths


@pytest.mark.parametrize("linear_share", [0.0, 0.2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_against_the_twin(form, linear_share, seed):
    predictions, truths = random_batch(seed)
    limits = torch.tensor([6.0, 9.0, 3.0])
    loss, _ = smooth_panoptic_quality(
        predictions, truths, limits, form=form, linear_share=linear_share
    )
    expected = twin(predictions, truths, limits.tolist(), form, linear_share)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_by_soft_masks(form):
    _, truths = random_batch(0)
    base, _ = random_batch(0, torch.float64)

    def loss_of(*masks):
        predictions = [
            masks_of(m, p.classes, p.match, p.num_predicted)
            for m, p in zip(masks, base, strict=True)
        ]
        return smooth_panoptic_quality(
            predictions,
            truths,
            torch.tensor([6.0, 9.0, 3.0]),
            form=form,
            linear_share=0.1,
        )[0]

    inputs = tuple(p.masks.clone().requires_grad_() for p in base)
    assert torch.autograd.gradcheck(loss_of, inputs)


# ---- what it means ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_perfect_prediction_costs_nothing(form):
    prediction, truth = two_pairs(torch.tensor(1.0), torch.tensor(1.0))
    loss, parts = smooth_panoptic_quality([prediction], [truth], NEVER_REJECTED, form=form)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    assert parts.pq[0] == 1 and parts.pq[1:].isnan().all()
    assert parts.true_positives[0] == 2 and parts.false_negatives[0] == 0


@pytest.mark.parametrize("form", FORMS)
def test_sums_over_images_come_before_the_ratio(form):
    # One image holds a perfect pair and a miss, PQ 2/3; the other a perfect pair, PQ 1. Together:
    # 2 hits and 1 miss, 2 / 2.5 = 0.8, not the mean of 2/3 and 1.
    both = masks_of(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]), [0, 0], [0, 1], num_predicted=1)
    one = masks_of(torch.tensor([[[1.0, 0.0]]]), [0], [0])
    loss, _ = smooth_panoptic_quality(
        [both, one],
        [truth_of([[0, 1]], [0, 0]), truth_of([[0, -1]], [0])],
        NEVER_REJECTED,
        form=form,
    )
    assert 1 - float(loss) == pytest.approx(0.8)


def test_a_perfect_mask_that_is_rejected_is_a_miss_in_the_expected_form_only():
    # One of two perfect pairs is far below its threshold: sigma = 1 / (1 + exp(10)). Its class then
    # has PQ 0 by Eq. 5; in the other forms sigma cancels.
    masks = torch.zeros(2, 1, 20)
    masks[0, 0, :10], masks[1, 0, 10:] = 1, 1
    truth = truth_of([[0] * 10 + [1] * 10], [0, 1])
    prediction = masks_of(masks, [0, 1], [0, 1])
    for form in FORMS:
        loss, parts = smooth_panoptic_quality(
            [prediction], [truth], torch.tensor([-1e4, 110.0]), form=form
        )
        assert float(parts.true_positives[1]) == pytest.approx(1 / (1 + math.exp(10)), rel=1e-3)
        expected = 0.5 if form == "expected" else 0
        assert float(loss) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("linear_share", [0.0, 0.2])
def test_only_a_linear_share_gives_a_missed_segment_a_slope(linear_share):
    # A pair at 0.8, and an empty mask for a missed segment of 10 cells; sigma = 1. With s = 0.2,
    # h(0.8) = 0.8 * 0.9961 + 0.2 * 0.8 = 0.9569; N = 0.7655, D = 0.9569 + (0.0431 + 1) / 2 = 1.478.
    # At u = 0: N' = 0, D' = h' - h' / 2 = s / 2 = 0.1, so PQ' = -N D' / D^2 = -0.035: with sigma
    # = 1 the pair joins the denominator. With sigma(0) < 1/2, as for any real limit, D' < 0.
    masks = torch.stack([torch.cat([0.8 * torch.ones(10), torch.zeros(10)]), torch.zeros(20)])
    masks = masks.reshape(2, 1, 20).requires_grad_()
    truth = truth_of([[0] * 10 + [1] * 10], [0, 0])
    slopes = {}
    for limit in (-1e4, 8.0):
        limits = torch.tensor([limit])
        prediction = masks_of(masks, [0, 0], [0, 1], num_predicted=1)
        loss, _ = smooth_panoptic_quality([prediction], [truth], limits, linear_share=linear_share)
        (gradient,) = torch.autograd.grad(loss, masks)
        slopes[limit] = -float(gradient[1, 0, 10:].sum())
    if linear_share:
        assert slopes[-1e4] == pytest.approx(-0.035, abs=1e-3)
        assert slopes[8.0] > 0.01
    else:
        assert slopes == {-1e4: 0.0, 8.0: 0.0}


def test_void_counts_nowhere():
    # The mask covers its truth and four cells of void: still perfect. The second mask lies mostly
    # in void, so it is no false positive.
    masks = torch.zeros(2, 1, 12)
    masks[0, 0, :8] = 1
    masks[1, 0, 8:] = 1
    truth = truth_of([[0] * 4 + [-1] * 7 + [0]], [0])
    loss, parts = smooth_panoptic_quality(
        [masks_of(masks, [0, 0], [0, -1])], [truth], NEVER_REJECTED
    )
    assert parts.false_positives[0] == 0
    assert 1 - float(loss) == pytest.approx(
        float(smooth_panoptic_quality([masks_of(masks[:1], [0], [0])], [truth], NEVER_REJECTED)[0])
        * -1
        + 1
    )


def test_a_class_that_is_only_predicted_does_not_count():
    masks = torch.zeros(2, 1, 20)
    masks[0, 0, :10], masks[1, 0, 10:] = 1, 1
    truth = truth_of([[0] * 10 + [-1] * 4 + [1] * 6], [0, 0])
    loss, parts = smooth_panoptic_quality(
        [masks_of(masks, [0, 1], [0, -1])], [truth], NEVER_REJECTED
    )
    assert 1 - float(loss) == pytest.approx(1 / 1.5)
    assert parts.pq.isnan().tolist() == [False, True, True]
    assert parts.false_positives.tolist() == [0, 1, 0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "case", ["no truth", "all void", "no segment", "no overlap", "half the batch empty"]
)
def test_degenerate_images(form, case):
    masks = torch.zeros(1, 2, 3)
    masks[0, 0, :] = 1
    masks.requires_grad_()
    fine = (masks_of(masks, [0], [0]), truth_of([[0, 0, 0], [-1, -1, -1]], [0]))
    void = truth_of(np.full((2, 3), -1), [])
    predictions, truths = {
        "no truth": ([masks_of(masks, [0], [-1])], [truth_of([[-1] * 3, [-1] * 3], [])]),
        "all void": ([masks_of(torch.ones(1, 2, 3) * masks, [0], [-1])], [void]),
        "no segment": ([masks_of(0 * masks, [0], [0], 0)], [truth_of(np.zeros((2, 3)), [0])]),
        "no overlap": ([masks_of(1e-9 * masks, [0], [0])], [truth_of(np.zeros((2, 3)), [0])]),
        "half the batch empty": ([fine[0], masks_of(masks, [0], [-1])], [fine[1], void]),
    }[case]
    loss, _ = smooth_panoptic_quality(predictions, truths, NEVER_REJECTED, form=form)
    loss.backward()
    assert 0 <= float(loss.detach()) <= 1 and masks.grad.isfinite().all()


def test_half_precision_masks_count_in_float32():
    masks = torch.zeros(1, 100, 100, dtype=torch.float16)
    masks[0, :50] = (
        1  # 5000 cells; float16 knows 2048, 2050, ..., and sums in steps of 4 above 4096
    )
    truth = truth_of(np.zeros((100, 100)), [0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = smooth_panoptic_quality([masks_of(masks, [0], [0])], [truth], NEVER_REJECTED)
    # u = 0.5, h = 0.5: 0.25 / (0.5 + 0.25).
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(2 / 3)


def test_bad_arguments_are_refused():
    prediction, truth = two_pairs(torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(ValueError, match="printed"):
        smooth_panoptic_quality([prediction], [truth], NEVER_REJECTED, form="printed")
    with pytest.raises(ValueError, match="printed"):
        PanopticQualityLoss([1.0], form="printed")
    with pytest.raises(ValueError, match="1 predictions and 2 truths"):
        smooth_panoptic_quality([prediction], [truth, truth], NEVER_REJECTED)
    with pytest.raises(ValueError, match="cells"):
        smooth_panoptic_quality([prediction], [truth_of([[0]], [0])], NEVER_REJECTED)


def test_a_class_that_is_only_predicted_counts_as_in_the_authors_code():
    """Class 0 is perfect; class 1 is predicted in the 10 cells of class 2, which is missed.

    sigma(10 - 10) = 0.5, so class 1 has 0.1 / (0.5 * 0.5 + 0.1) = 2 / 7. Class 0 has 1.1 / 1.1 and
    class 2 0.1 / (0.5 + 0.1). A cell less lowers sigma by 0.1 * 0.5 * 0.5, so the slope of the mean
    of three is -0.1 * 0.5 * 0.025 / 0.35^2 / 3.
    """
    masks = torch.zeros(2, 2, 10)
    masks[0, 0], masks[1, 1] = 1, 1
    masks.requires_grad_()
    solution = masks_of(masks, [0, 1], [0, -1]).solution
    truth = truth_of([[0] * 10, [1] * 10], [0, 2])
    limits = torch.tensor([-1e4, 10.0, -1e4])
    prediction = PanopticMasks(
        torch.cat([masks, torch.zeros(1, 2, 10)]),
        torch.tensor([0, 1, 2]),
        torch.tensor([0, -1, 1]),
        2,
        solution,
    )
    keywords = {"epsilon": 0.1, "count_predicted": True}
    loss, details = smooth_panoptic_quality([prediction], [truth], limits, **keywords)
    assert details.pq.tolist() == pytest.approx([1, 2 / 7, 1 / 6])
    assert float(loss.detach()) == pytest.approx(1 - (1 + 2 / 7 + 1 / 6) / 3)
    loss.backward()
    slope = 0.1 * 0.5 * 0.025 / 0.35**2 / 3
    assert masks.grad[1, 1].tolist() == pytest.approx([slope] * 10)
    for without in ({}, {"epsilon": 0.1}):
        _, details = smooth_panoptic_quality([prediction], [truth], limits, **without)
        assert math.isnan(details.pq[1])
    alone, _ = smooth_panoptic_quality([prediction], [truth], limits, count_predicted=True)
    assert float(alone.detach()) == pytest.approx(1 - 1 / 3)  # PQ 0, without a slope


def test_the_module_weighs_the_function():
    prediction, truth = two_pairs(torch.tensor(0.8), torch.tensor(0.6))
    module = PanopticQualityLoss([5.0, 5.0, 5.0], weight=7.0, form="literal", linear_share=0.2)
    plain, _ = smooth_panoptic_quality(
        [prediction], [truth], torch.full((3,), 5.0), form="literal", linear_share=0.2
    )
    assert float(module([prediction], [truth])[0]) == pytest.approx(7 * float(plain))
    assert not module.state_dict()
