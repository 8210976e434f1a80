"""The pre-training losses on batches of padded images, at both strides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cops_factory import make_image, perfect_maps, tiny_config

from cops.losses.top_k import weighted_top_k_bce, weighted_top_k_cross_entropy
from cops.modeling.pretraining import PretrainingLosses

GRID = (12, 16)


def batch() -> tuple[list[dict], list]:
    """Two images, the second smaller than the grid of 12 x 16 cells."""
    images = [make_image(0, (48, 64)), make_image(1, (37, 51))]
    return images, [image["cops_target"] for image in images]


def logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, *GRID, generator=generator), torch.randn(
        2, 6, *GRID, generator=generator
    )


@pytest.mark.parametrize("stride", [1, 4])
def test_losses_are_those_of_the_padded_truth(stride):
    images, truths = batch()
    class_logits, edge_logits = logits()
    losses = PretrainingLosses(semantic_top_k=0.5, affinity_top_k=0.25, loss_stride=stride)(
        class_logits, edge_logits, truths, images
    )
    padded = [truth.padded(GRID) for truth in truths]
    classes = torch.stack([truth.sem_seg for truth in padded])
    weights = torch.stack([truth.pixel_weights for truth in padded])
    if stride == 1:
        class_logits = F.interpolate(class_logits, (48, 64), mode="bilinear", align_corners=False)
        classes, weights = torch.full((2, 48, 64), 255), torch.zeros(2, 48, 64)
        for index, image in enumerate(images):
            height, width = image["sem_seg"].shape
            classes[index, :height, :width] = image["sem_seg"]
            weights[index, :height, :width] = image["pixel_weights"]
    expected = weighted_top_k_cross_entropy(class_logits, classes, weights, 0.5)
    assert losses["loss_semantic"].item() == expected.item()
    cut, edge_weights = (
        torch.stack([getattr(truth, name) for truth in padded])
        for name in ("is_cut", "edge_weights")
    )
    expected = weighted_top_k_bce(edge_logits, cut, edge_weights, 0.25)
    assert losses["loss_affinity"].item() == expected.item()


def test_the_truth_costs_next_to_nothing_and_its_opposite_much():
    images, truths = batch()
    images, truths = images[:1], truths[:1]
    class_logits, edge_logits = (x[None] for x in perfect_maps(truths[0], 5))
    losses = PretrainingLosses(tiny_config())
    right = losses(class_logits, edge_logits, truths, images)
    wrong = losses(-class_logits, -edge_logits, truths, images)
    for name in ("loss_semantic", "loss_affinity"):
        assert right[name] < 1e-3 and wrong[name] > 5


def test_neither_loss_reaches_the_other_s_logits():
    images, truths = batch()
    maps = [x.requires_grad_() for x in logits()]
    losses = PretrainingLosses(tiny_config())(*maps, truths, images)
    for name, other in (("loss_semantic", maps[1]), ("loss_affinity", maps[0])):
        (gradient,) = torch.autograd.grad(losses[name], other, allow_unused=True, retain_graph=True)
        assert gradient is None


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match="loss_stride is 2: use 1 or 4"):
        PretrainingLosses(semantic_top_k=1.0, affinity_top_k=1.0, loss_stride=2)


def test_the_affinity_loss_has_a_factor():
    images, truths = batch()
    plain, scaled = (
        PretrainingLosses(tiny_config({"MODEL.COPS.PRETRAIN.AFFINITY_FACTOR": factor}))(
            *logits(), truths, images
        )
        for factor in (1.0, 2.5)
    )
    assert float(plain["loss_affinity"]) > 0
    assert float(scaled["loss_affinity"]) == pytest.approx(2.5 * float(plain["loss_affinity"]))
    assert float(scaled["loss_semantic"]) == float(plain["loss_semantic"])
