"""Lovasz losses against their definition, evaluated set by set, and by gradcheck."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from placing import placed

from unified_panoptic.losses.lovasz import (
    _extension,
    jaccard_steps,
    lovasz_hinge,
    lovasz_softmax,
)


def jaccard_loss(wrong: set[int], foreground: set[int]) -> float:
    """1 - IoU of truth and prediction, when exactly the pixels in `wrong` are wrong."""
    predicted = foreground ^ wrong
    union = foreground | predicted
    return 1 - len(foreground & predicted) / len(union) if union else 0.0


def extension_by_definition(errors: np.ndarray, foreground: set[int]) -> float:
    """The Lovasz extension as the largest linear function over all orders of the pixels.

    For a submodular function this is the greedy sum over the descending order. Taking the maximum
    over *every* order instead does not know that the errors are sorted at all.
    """
    best = -np.inf
    for order in itertools.permutations(range(len(errors))):
        total, wrong = 0.0, set()
        for pixel in order:
            before = jaccard_loss(wrong, foreground)
            wrong = wrong | {pixel}
            total += errors[pixel] * (jaccard_loss(wrong, foreground) - before)
        best = max(best, total)
    return best


def cases(count: int, pixels: int):
    rng = np.random.default_rng(5)
    for _ in range(count):
        yield rng.normal(size=pixels) * 2, rng.integers(0, 2, size=pixels)
    yield rng.normal(size=pixels), np.zeros(pixels, int)
    yield rng.normal(size=pixels), np.ones(pixels, int)


def test_hinge_equals_the_definition(device):
    for logits, labels in cases(8, 6):
        errors = np.maximum(0, 1 - logits * (2 * labels - 1))
        expected = extension_by_definition(errors, set(np.flatnonzero(labels).tolist()))
        given = placed(device, torch.tensor(logits)[None], torch.tensor(labels)[None])
        value = lovasz_hinge(*given)
        assert value.device.type == device
        assert value.item() == pytest.approx(expected, abs=1e-12)


def test_softmax_equals_the_definition(device):
    rng = np.random.default_rng(6)
    for _ in range(8):
        labels = rng.integers(0, 3, size=(1, 2, 3))
        probabilities = torch.tensor(rng.normal(size=(1, 4, 2, 3))).softmax(dim=1)
        losses = []
        for k in np.unique(labels):
            is_class = labels.ravel() == k
            errors = np.abs(is_class - probabilities[0, k].numpy().ravel())
            losses.append(extension_by_definition(errors, set(np.flatnonzero(is_class).tolist())))
        value = lovasz_softmax(*placed(device, probabilities, torch.tensor(labels)))
        assert value.item() == pytest.approx(np.mean(losses), abs=1e-12)


def test_worked_example():
    # Truth 1 1 0, errors .2 .6 .4, so sorted .6 (fg) .4 (bg) .2 (fg) with Delta = 1/2, 2/3, 1:
    # .6 * 1/2 + .4 * (2/3 - 1/2) + .2 * (1 - 2/3) = .3 + .0667 + .0667
    probabilities = torch.tensor([[0.8, 0.4, 0.4]]).reshape(1, 1, 1, 3)
    both = torch.cat([1 - probabilities, probabilities], dim=1)
    foreground_only = _loss_of_one_class(both, torch.tensor([[[1, 1, 0]]]), 1)
    assert foreground_only == pytest.approx(0.3 + 0.4 / 6 + 0.2 / 3, abs=1e-6)


def _loss_of_one_class(probabilities, labels, k):
    foreground = (labels.flatten()[None] == k).double()
    return _extension((foreground - probabilities[:, k].flatten()[None].double()).abs(), foreground)


def test_hard_predictions_cost_exactly_one_minus_iou():
    """At the vertices of the cube the extension is the Jaccard loss itself."""
    for wrong_bits in itertools.product((0, 1), repeat=5):
        for labels in ((1, 1, 0, 0, 0), (0, 1, 0, 1, 1), (1, 1, 1, 1, 1)):
            prediction = [label ^ bit for label, bit in zip(labels, wrong_bits, strict=True)]
            maps = torch.tensor(prediction, dtype=torch.float64)
            truth = torch.tensor(labels)
            expected = []
            for k in sorted(set(labels)):
                a, b = truth == k, maps == k
                expected.append(1 - ((a & b).sum() / (a | b).sum()).item())
            probabilities = torch.stack([1 - maps, maps])[None, :, None]
            value = lovasz_softmax(probabilities, truth[None, None])
            assert value.item() == pytest.approx(np.mean(expected), abs=1e-7)


def test_steps_are_a_distribution_and_exact_for_many_pixels():
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(3, 200_000, generator=generator) > 0.7).float()
    rows[2] = 0
    steps = jaccard_steps(rows)
    assert steps.dtype == torch.float32
    assert (steps >= 0).all()
    torch.testing.assert_close(steps.double().sum(dim=1), torch.ones(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps.double(), jaccard_steps(rows.double()), atol=0, rtol=1e-6)


def test_gradcheck(device):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 3, 4), generator=generator)
    labels[0, 0] = 255
    logits, labels = placed(device, logits, labels)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x.softmax(1), labels), (logits,))
    masks = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    truth = torch.randint(0, 2, (3, 4, 4), generator=generator)
    masks, truth = placed(device, masks, truth)
    assert torch.autograd.gradcheck(lambda x: lovasz_hinge(x, truth), (masks,))


def test_ignored_pixels_change_nothing():
    generator = torch.Generator().manual_seed(2)
    probabilities = torch.rand(1, 3, 4, 6, generator=generator).softmax(dim=1)
    labels = torch.randint(0, 3, (1, 4, 6), generator=generator)
    whole = lovasz_softmax(probabilities[..., :4], labels[..., :4])
    labels[..., 4:] = 255
    probabilities = probabilities.requires_grad_()
    part = lovasz_softmax(probabilities, labels)
    torch.testing.assert_close(part, whole)
    part.backward()
    assert (probabilities.grad[..., 4:] == 0).all()


def test_classes_absent_from_the_batch_do_not_count():
    probabilities = torch.full((1, 3, 1, 2), 1 / 3)
    value = lovasz_softmax(probabilities, torch.tensor([[[0, 0]]]))
    # One class, both pixels with error 2/3: the whole set has Delta = 1.
    assert value.item() == pytest.approx(2 / 3)


def test_batches_are_averages_over_regions():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 7, 7, generator=generator)
    labels = torch.rand(5, 7, 7, generator=generator) > 0.5
    one_by_one = [lovasz_hinge(logits[i : i + 1], labels[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(lovasz_hinge(logits, labels), torch.stack(one_by_one).mean())


def test_nothing_to_learn_from_is_zero_with_a_graph(device):
    for loss, logits, truth in (
        (lovasz_hinge, torch.zeros(0, 28, 28), torch.zeros(0, 28, 28)),
        (lovasz_softmax, torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), 255)),
    ):
        logits, truth = placed(device, logits.requires_grad_(), truth)
        value = loss(logits, truth)
        assert value.item() == 0
        value.backward()
        assert logits.grad is not None
        assert (logits.grad == 0).all()


def test_autocast_and_half_input_are_computed_in_float32():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(1, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 3, (1, 32, 32), generator=generator)
    expected = lovasz_softmax(logits.softmax(1), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(lovasz_softmax(logits.softmax(1), labels), expected)
    half = logits.half()
    value = lovasz_softmax(half.softmax(1), labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, lovasz_softmax(half.softmax(1).float(), labels))
    assert lovasz_hinge(half[0], labels.expand(3, -1, -1) == 1).dtype == torch.float32


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"labels must be 0\.\.1 or 255"):
        lovasz_softmax(torch.full((1, 2, 1, 1), 0.5), torch.tensor([[[2]]]))
    with pytest.raises(ValueError, match="expected"):
        lovasz_softmax(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="one shape"):
        lovasz_hinge(torch.zeros(2, 3), torch.zeros(2, 4))
