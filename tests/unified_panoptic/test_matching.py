"""Panoptic matching against all permutations, and its loss against closed forms (Eq. 5)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from unified_panoptic.matching import (
    FLOOR,
    match_detections,
    normalised_cross_entropy,
    panoptic_cross_entropy,
    panoptic_target,
)


def iou_of(a, b) -> float:
    """IoU of two XYXY boxes, written out."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def allowed_table(boxes, classes, truth_boxes, truth_classes, t) -> np.ndarray:
    """IoU_t of Eq. 5: 0 for another class and below the threshold."""
    table = np.zeros((len(boxes), len(truth_boxes)))
    for d, (box, label) in enumerate(zip(boxes, classes, strict=True)):
        for s, (truth, truth_label) in enumerate(zip(truth_boxes, truth_classes, strict=True)):
            iou = iou_of(box, truth)
            if label == truth_label and iou >= t:
                table[d, s] = iou
    return table


def best_total(table: np.ndarray) -> float:
    """Largest sum over all permutations, by trying them all (rows padded for unmatched ones)."""
    detections, truths = table.shape
    padded = np.hstack([table, np.zeros((detections, detections))])
    return max(
        sum(padded[row, column] for row, column in enumerate(choice))
        for choice in itertools.permutations(range(truths + detections), detections)
    )


def greedy_by_score(table: np.ndarray, scores) -> list[int]:
    result, taken = [-1] * len(table), set()
    for row in sorted(range(len(table)), key=lambda d: -scores[d]):
        options = [(table[row, s], -s) for s in range(table.shape[1]) if s not in taken]
        if options and max(options)[0] > 0:
            result[row] = -max(options)[1]
            taken.add(result[row])
    return result


def random_case(seed: int, detections: int, truths: int):
    """Crowded boxes of two classes, so that most have several partners."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        corner = rng.uniform(0, 4, size=(count, 2))
        return np.hstack([corner, corner + rng.uniform(6, 10, size=(count, 2))]).round(2)

    return (
        boxes(detections),
        rng.integers(0, 2, detections),
        rng.random(detections),
        boxes(truths),
        rng.integers(0, 2, truths),
    )


def match(boxes, classes, scores, truth_boxes, truth_classes, t=0.5, method="hungarian"):
    return match_detections(
        torch.tensor(np.asarray(boxes, dtype=np.float64).reshape(-1, 4)),
        torch.tensor(np.asarray(classes, dtype=np.int64)),
        torch.tensor(np.asarray(scores, dtype=np.float64)),
        torch.tensor(np.asarray(truth_boxes, dtype=np.float64).reshape(-1, 4)),
        torch.tensor(np.asarray(truth_classes, dtype=np.int64)),
        t,
        method,
    )


SIZES = [(1, 1), (4, 3), (3, 4), (5, 2), (2, 4), (4, 4), (0, 3), (3, 0), (0, 0)]


@pytest.mark.parametrize("detections,truths", SIZES)
@pytest.mark.parametrize("t", [0.3, 0.5, 0.7])
def test_hungarian_reaches_the_best_permutation(detections, truths, t):
    for seed in range(8):
        case = random_case(seed, detections, truths)
        table = allowed_table(case[0], case[1], case[3], case[4], t)
        matched = match(*case, t=t).truth_of_detection.tolist()
        pairs = [(d, s) for d, s in enumerate(matched) if s != -1]
        assert len({s for _, s in pairs}) == len(pairs)  # no truth twice
        assert all(table[pair] > 0 for pair in pairs)  # class and t hold
        expected = best_total(table) if truths else 0.0
        assert sum(table[pair] for pair in pairs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("detections,truths", SIZES)
def test_greedy_is_the_plain_loop_by_score(detections, truths):
    for seed in range(8):
        case = random_case(seed, detections, truths)
        table = allowed_table(case[0], case[1], case[3], case[4], 0.5)
        matched = match(*case, method="greedy").truth_of_detection.tolist()
        assert matched == greedy_by_score(table, case[2])


@pytest.mark.parametrize("method", ["hungarian", "greedy"])
def test_duplicates_are_those_whose_every_partner_is_taken(method):
    dropped = 0
    for seed in range(40):
        case = random_case(seed, 5, 3)
        table = allowed_table(case[0], case[1], case[3], case[4], 0.5)
        result = match(*case, method=method)
        matched, keep = result.truth_of_detection.tolist(), result.keep.tolist()
        for d in range(5):
            partners = np.flatnonzero(table[d])
            duplicate = matched[d] == -1 and len(partners) > 0
            assert keep[d] == (not duplicate)
            if duplicate:
                dropped += 1
                assert set(partners) <= set(matched)
    assert dropped > 20  # the cases do contain what is tested


def test_optimal_and_greedy_differ_where_greed_pays_later():
    truths = [[0, 0, 10, 10], [2, 0, 12, 10]]
    boxes = [[1, 0, 11, 10], [0, 0, 9, 10]]
    # IoU: first box 90 / 110 with either truth; second 90 / 100 with truth 0 and 70 / 120 = 0.58
    # with truth 1. Optimal: 0.82 + 0.90. Greedy: the first box scores more and takes truth 0, so
    # the second is left with 0.58.
    assert match(boxes, [0, 0], [0.9, 0.8], truths, [0, 0]).truth_of_detection.tolist() == [1, 0]
    greedy = match(boxes, [0, 0], [0.9, 0.8], truths, [0, 0], method="greedy")
    assert greedy.truth_of_detection.tolist() == [0, 1]
    # At t = 0.6 nothing is left for it: it still overlaps truth 0, which makes it a duplicate.
    greedy = match(boxes, [0, 0], [0.9, 0.8], truths, [0, 0], t=0.6, method="greedy")
    assert greedy.truth_of_detection.tolist() == [0, -1]
    assert greedy.keep.tolist() == [True, False]


def test_threshold_belongs_to_the_valid_side():
    truth = [[0, 0, 10, 10]]
    # 50 / 100 = 0.5 counts, 49 / 100 does not.
    assert match([[0, 0, 10, 5]], [0], [1], truth, [0]).truth_of_detection.tolist() == [0]
    below = match([[0, 0, 10, 4.9]], [0], [1], truth, [0])
    assert below.truth_of_detection.tolist() == [-1]
    assert below.keep.tolist() == [True]


@pytest.mark.parametrize("method", ["hungarian", "greedy"])
def test_false_detections_stay_and_duplicates_go(method):
    truth = [[0, 0, 10, 10]]
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [30, 30, 40, 40]]
    result = match(boxes, [1, 1, 0, 1], [0.9, 0.8, 0.7, 0.6], truth, [1], method=method)
    # The top match; a duplicate; the same box but another class; a box on nothing.
    assert result.truth_of_detection.tolist() == [0, -1, -1, -1]
    assert result.keep.tolist() == [True, False, True, True]


def test_no_gradient_is_asked_of_the_boxes():
    boxes = torch.tensor([[0.0, 0, 10, 10]], requires_grad=True)
    scores = torch.tensor([0.5], requires_grad=True)
    label = torch.zeros(1, dtype=torch.int64)
    for method in ("hungarian", "greedy"):
        result = match_detections(boxes, label, scores, boxes.detach(), label, 0.5, method)
        assert result.truth_of_detection.tolist() == [0]


def test_unknown_method_is_an_error():
    with pytest.raises(ValueError, match="'auction': use one of .*'hungarian', 'greedy'"):
        match([], [], [], [], [], method="auction")


def test_panoptic_target_by_hand():
    # Segments: 0 = stuff 2, 1 = thing matched to channel 1, 2 = thing without a match, 3 = stuff 0,
    # 4 = stuff 2 again. Two detections, so the stuff classes 0, 2, 4 are channels 2, 3, 4.
    segment_map = torch.tensor([[0, 1, 2], [3, 4, -1]], dtype=torch.int32)
    classes = torch.tensor([2, 1, 3, 0, 2])
    target = panoptic_target(segment_map, classes, torch.tensor([-1, 1, -1, -1, -1]), 2, [0, 2, 4])
    assert target.tolist() == [[3, 1, -1], [2, 3, -1]]


def test_panoptic_target_of_an_image_without_segments():
    empty = torch.zeros(0, dtype=torch.int64)
    target = panoptic_target(torch.full((2, 3), -1), empty, empty, 0, [0, 2, 4])
    assert target.unique().tolist() == [-1]


def test_cross_entropy_is_the_sum_over_the_pixels_that_count():
    torch.manual_seed(0)
    potential = torch.randn(5, 3, 4)
    target = torch.randint(-1, 5, (3, 4))
    total = 0.0
    for y, x in itertools.product(range(3), range(4)):
        if target[y, x] != -1:
            logits = [10.0 * float(v) for v in potential[:, y, x]]
            total += math.log(sum(math.exp(v) for v in logits)) - logits[target[y, x]]
    value = panoptic_cross_entropy(potential, target, 10.0)
    assert value.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    "height,tau,channels,expected",
    [
        (1.0, 1.0, 153, 4.0416),  # log(e + 152) - 1: the literal form, nearly flat
        (2.0, 1.0, 153, 3.0714),  # log(e^2 + 152) - 2: variant C at its largest
        (0.0, 1.0, 153, 5.0304),  # log 153: knows nothing
        (1.0, 10.0, 153, 0.0069),  # log(e^10 + 152) - 10 = log(1 + 152 / 22026)
    ],
)
def test_cost_of_a_perfect_potential(height, tau, channels, expected):
    target = torch.randint(0, channels, (4, 6), generator=torch.Generator().manual_seed(0))
    perfect = torch.nn.functional.one_hot(target, channels).permute(2, 0, 1).float() * height
    value = panoptic_cross_entropy(perfect, target, tau).item() / target.numel()
    closed_form = -math.log(math.exp(tau * height) / (math.exp(tau * height) + channels - 1))
    assert value == pytest.approx(closed_form, rel=1e-3)
    assert value == pytest.approx(expected, abs=1e-4)


def test_gradient_is_tau_times_softmax_minus_truth():
    torch.manual_seed(0)
    potential = torch.randn(4, 3, 3, requires_grad=True)
    tau = torch.tensor(3.0, requires_grad=True)
    target = torch.randint(-1, 4, (3, 3))
    panoptic_cross_entropy(potential, target, tau).backward()
    counts = (target != -1).float()
    error = (3 * potential.detach()).softmax(0) - torch.nn.functional.one_hot(
        target.clamp(min=0), 4
    ).permute(2, 0, 1)
    torch.testing.assert_close(potential.grad, 3 * error * counts)
    torch.testing.assert_close(tau.grad, (potential.detach() * error * counts).sum())


def test_zero_with_a_graph_if_every_pixel_is_ignored():
    potential = torch.randn(4, 3, 3, requires_grad=True)
    loss = panoptic_cross_entropy(potential, torch.full((3, 3), -1), 10.0)
    loss.backward()
    assert loss.item() == 0
    assert potential.grad.abs().sum() == 0


@pytest.mark.parametrize("seed", range(20))
def test_panoptic_target_equals_a_loop_over_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    stuff_ids, num_segments = [7, 0, 3], 6
    classes = torch.randint(0, 9, (num_segments,), generator=generator)
    segment_map = torch.randint(-1, num_segments, (9, 11), generator=generator).int()
    detection = torch.randint(-1, 4, (num_segments,), generator=generator)
    target = panoptic_target(segment_map, classes, detection, 4, stuff_ids)
    for y in range(9):
        for x in range(11):
            segment = int(segment_map[y, x])
            expected = -1 if segment < 0 else int(detection[segment])
            if segment >= 0 and int(classes[segment]) in stuff_ids:
                expected = 4 + stuff_ids.index(int(classes[segment]))
            assert target[y, x] == expected


def test_normalised_loss_in_closed_form():
    """P / sum P of three channels: 1 of 1.5, 0 of 1.5 and an ignored pixel."""
    potential = torch.tensor([[[1.0, 0.0, 5.0]], [[0.5, 0.5, 5.0]], [[-2.0, 1.0, 5.0]]])
    target = torch.tensor([[0, 0, -1]])
    total = 1.5 + 3 * FLOOR
    expected = -math.log((1 + FLOOR) / total) - math.log(FLOOR / total)
    assert float(normalised_cross_entropy(potential, target)) == pytest.approx(expected, rel=1e-6)


def test_normalised_loss_of_a_perfect_potential_is_nearly_0_and_softmax_is_not():
    """153 channels of COCO: log(1 + 152 exp(-1)) = 4.04 by softmax at tau = 1, docs/choices.md."""
    potential = torch.zeros(153, 1, 1)
    potential[7] = 1
    target = torch.tensor([[7]])
    by_share = float(normalised_cross_entropy(potential, target))
    assert by_share == pytest.approx(math.log((1 + 153 * FLOOR) / (1 + FLOOR)), rel=1e-5)
    assert float(panoptic_cross_entropy(potential, target, 1.0)) == pytest.approx(4.04, abs=0.005)


def test_normalised_loss_has_the_gradient_of_its_formula():
    """d/dP_k of -log(P_0 / sum P) is 1 / sum P, minus 1 / P_0 for the right channel."""
    potential = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float32)[:, None, None].requires_grad_()
    normalised_cross_entropy(potential, torch.tensor([[0]])).backward()
    total, right = 1.75 + 3 * FLOOR, 0.5 + FLOOR
    slopes = [1 / total - 1 / right, 1 / total, 1 / total]
    assert potential.grad.flatten().tolist() == pytest.approx(slopes, rel=1e-5)
