"""Panoptic submodule: its loss against a loop over single pixels, and who learns from it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from model_factory import STUFF_IDS, THING_IDS, make_image, tiny_config, unchecked_config
from placing import placed

from unified_panoptic.modeling.panoptic_submodule import LOGGED, PanopticSubmodule
from unified_panoptic.modeling.roi_heads import Detections


def submodule(**changes) -> PanopticSubmodule:
    keys = {f"MODEL.UNIFIED.{name.replace('__', '.')}": value for name, value in changes.items()}
    return PanopticSubmodule(tiny_config(keys)).train()


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    return math.ceil(size[0] / 4), math.ceil(size[1] / 4)


def make_case(size=(61, 94), seed=0, device="cpu"):
    """Truth with four things, a crowd and void, and detections of every kind.

    Detections: 0 finds thing 0; 1 is a duplicate of 0; 2 finds thing 1. 3 lies where nothing is;
    4 finds thing 2's place but says another class. So things 2 and 3 stay unmatched.
    """
    truth = make_image(seed, size, things=(1, 3, 1, 3))["panoptic_target"]
    things = torch.isin(truth.classes, torch.tensor(THING_IDS)).nonzero()[:, 0]
    found = truth.boxes[things]
    boxes = torch.stack(
        [
            found[0] + torch.tensor([1.0, 0, 0, 1]),
            found[0] + torch.tensor([3.0, 2, 3, 2]),
            found[1] + torch.tensor([0.0, 1, 2, 0]),
            torch.tensor([2.0, 40.0, 7.0, 60.0]),
            found[2],
        ]
    )
    torch.manual_seed(seed)
    detections = Detections(
        *placed(
            device,
            boxes,
            torch.tensor([0, 0, 1, 0, 1]),
            torch.rand(5).requires_grad_(),
            torch.rand(5, 14, 14).requires_grad_(),
        )
    )
    semantic = torch.rand(5, *grid_of(size)).softmax(0).requires_grad_()
    factors = tuple((torch.randn(6, *grid_of(size)) * 0.05).requires_grad_() for _ in range(2))
    semantic, factors, truth = placed(device, semantic, factors, truth)
    return semantic, detections, factors, truth, things


def enlarged(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps[None], scale_factor=4, mode="bilinear", align_corners=False)[0]


def loss_of_image(module, *arguments) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss, and the logged numbers by name."""
    loss, log = module.loss_of_image(*arguments)
    assert not log.requires_grad
    return loss, dict(zip(LOGGED, log.tolist(), strict=True))


@pytest.mark.parametrize("variant", ["A", "B", "C"])
@pytest.mark.parametrize("with_affinity", [True, False])
@pytest.mark.parametrize("use_masks", [True, False])
def test_loss_against_single_pixels(variant, with_affinity, use_masks, device):
    semantic, detections, factors, truth, things = make_case(device=device)
    if not use_masks:
        detections = replace(detections, masks=None)
    module = submodule(POTENTIAL__VARIANT=variant, PANOPTIC__LOGIT_SCALE=7.0).to(device)
    loss, log = loss_of_image(
        module, semantic, detections, factors if with_affinity else None, truth
    )

    # Channels: detections 0, 2, 3, 4 (1 is a duplicate), then stuff 0, 2, 4.
    kept = [0, 2, 3, 4]
    # All of the image, enlarged as at inference; of which every 4th pixel is compared.
    psi = module.potential(
        enlarged(semantic),
        detections.boxes[kept],
        placed(device, torch.tensor(THING_IDS))[detections.classes[kept]],
        detections.scores[kept],
        detections.masks[kept] if use_masks else None,
    )[:, 2::4, 2::4]
    p = psi.flatten(1)
    if with_affinity:
        phi_0, phi_1 = (enlarged(phi)[:, 2::4, 2::4].flatten(1) for phi in factors)
        matrix = phi_0.T @ phi_1
        p = p + (matrix @ p.T).T
    p = p.view_as(psi)
    total, pixels = 0.0, 0
    for y in range(p.shape[1]):
        for x in range(p.shape[2]):
            pixel_y, pixel_x = min(4 * y + 2, 60), min(4 * x + 2, 93)
            segment = int(truth.segment_map[pixel_y, pixel_x])
            if segment == -1:
                continue
            label = int(truth.classes[segment])
            if label in STUFF_IDS:
                channel = 4 + STUFF_IDS.index(label)
            elif segment == things[0]:
                channel = 0
            elif segment == things[1]:
                channel = 1
            else:
                continue  # a thing that no detection found
            logits = 7.0 * p[:, y, x]
            total += (torch.logsumexp(logits, 0) - logits[channel]).item()
            pixels += 1
    assert loss.item() == pytest.approx(total, rel=1e-4)
    assert log["pixels"] == pixels
    assert (log["detections"], log["matched"], log["things"]) == (4, 2, 4)
    assert log["potential"] == pytest.approx(float(psi.detach().abs().mean()), rel=1e-5)
    residual = float((p - psi).detach().abs().mean())
    assert log["residual"] == pytest.approx(residual, rel=1e-3, abs=1e-9)


def test_duplicates_get_no_gradient_and_false_detections_do(device):
    semantic, detections, factors, truth, _ = make_case(device=device)
    loss_of_image(submodule().to(device), semantic, detections, factors, truth)[0].backward()
    assert detections.scores.grad[1] == 0
    assert detections.masks.grad[1].abs().sum() == 0
    assert (detections.scores.grad[[0, 2, 3, 4]] != 0).all()
    # A channel that is right nowhere should sink.
    assert (detections.scores.grad[[3, 4]] > 0).all()


def test_ignored_pixels_get_no_gradient():
    semantic, detections, _, truth, things = make_case()
    # Without the affinity a pixel's loss depends on V of the four cells that it lies between.
    loss_of_image(submodule(), semantic, detections, None, truth)[0].backward()
    sampled = truth.segment_map[2::4, 2::4]
    height, width = sampled.shape
    silent = semantic.grad.abs().sum(0)[:height, :width] == 0
    ignored = (sampled == -1) | (sampled == things[2]) | (sampled == things[3])
    assert (sampled == -1).any()  # void rows and the crowd
    counting = F.pad(~ignored, (1, 0, 1, 0))  # cells before the first are that one itself
    near = counting[1:, 1:] | counting[:-1, 1:] | counting[1:, :-1] | counting[:-1, :-1]
    assert torch.equal(silent, ~near) and silent.any()


def test_crowd_is_ignored_where_the_same_pixels_as_a_segment_would_count():
    counted = {}
    for crowd in (True, False):
        image = make_image(0, (64, 96), things=(), crowd=crowd)
        none = Detections(
            torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), None
        )
        semantic = torch.full((5, 16, 24), 0.2)
        _, log = loss_of_image(submodule(), semantic, none, None, image["panoptic_target"])
        counted[crowd] = log["pixels"]
    assert counted[False] - counted[True] == 8 * 12 / 16  # the crowd of 8 x 12 pixels, at stride 4


def test_everyone_in_the_chain_learns(device):
    semantic, detections, factors, truth, _ = make_case(device=device)
    module = submodule().to(device)
    loss_of_image(module, semantic, detections, factors, truth)[0].backward()
    for part in (semantic, detections.scores, detections.masks, *factors):
        assert torch.isfinite(part.grad).all()
        assert part.grad.abs().sum() > 0


def test_training_and_inference_share_one_way():
    semantic, detections, factors, _, _ = make_case()
    module = submodule()
    for a, b in zip(
        module(semantic, detections, factors),
        module.eval()(semantic, detections, factors),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def nothing_found(masks: bool, device: str) -> Detections:
    return Detections(
        *placed(
            device,
            torch.zeros(0, 4),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0),
            torch.zeros(0, 1, 1) if masks else None,
        )
    )


@pytest.mark.parametrize("masks", [True, False])
def test_no_detection_leaves_the_stuff_channels(masks, device):
    semantic, _, factors, truth, _ = make_case(device=device)
    nothing = nothing_found(masks, device)
    loss, log = loss_of_image(submodule().to(device), semantic, nothing, factors, truth)
    loss.backward()
    assert (log["detections"], log["matched"]) == (0, 0)
    assert log["pixels"] > 0
    assert torch.isfinite(loss)
    assert all(factor.grad.abs().sum() > 0 for factor in factors)


@pytest.mark.parametrize("with_detections", [True, False])
def test_an_image_of_void_costs_nothing_and_keeps_its_graph(with_detections, device):
    semantic, detections, factors, _, _ = make_case(device=device)
    image = make_image(0, (61, 94), things=(), stuff=(), crowd=False)
    truth = placed(device, image["panoptic_target"])
    found = detections if with_detections else nothing_found(True, device)
    loss, log = loss_of_image(submodule().to(device), semantic, found, factors, truth)
    loss.backward()
    assert loss.item() == 0
    assert log["pixels"] == 0
    for part in (semantic, *factors):
        assert part.grad.abs().sum() == 0  # there, and zero


def test_greedy_matching_by_config():
    semantic, detections, factors, truth, _ = make_case()
    scores = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.5])
    detections = Detections(detections.boxes, detections.classes, scores, detections.masks)
    kept = {}
    for matcher in ("hungarian", "greedy"):
        module = submodule(PANOPTIC__MATCHER=matcher)
        kept[matcher] = loss_of_image(module, semantic, detections, factors, truth)[0].item()
    # The better-scored second detection takes thing 0, and the first becomes the duplicate.
    assert kept["greedy"] != pytest.approx(kept["hungarian"], rel=1e-4)


def test_numbers_of_classes_from_config():
    module = submodule()
    assert module.stuff_ids == STUFF_IDS
    assert module.thing_ids.tolist() == list(THING_IDS)
    assert not list(module.parameters())
    assert not module.state_dict()  # nothing that a checkpoint of another model would lack


def test_the_weight_divided_by_tau_gives_the_gradient_of_tau_1_at_the_start():
    """At P = 0 the slope of the cross entropy of softmax(tau P) is tau (p - y)."""
    case = make_case()
    slopes = {}
    for name, changes in {
        "tau 1": {"PANOPTIC__LOGIT_SCALE": 1.0},
        "tau 10": {"PANOPTIC__LOGIT_SCALE": 10.0},
        "divided": {"PANOPTIC__LOGIT_SCALE": 10.0, "PANOPTIC__WEIGHT_BY_SCALE": True},
    }.items():
        module = submodule(PANOPTIC__LOSS_WEIGHT=0.5, **changes)
        semantic, detections, factors, truth, _ = case
        semantic = torch.full_like(semantic, 1e-6).requires_grad_()
        nothing = replace(detections, scores=torch.zeros(5), masks=None)
        loss, _ = module.loss_of_image(semantic, nothing, None, truth)
        (slopes[name],) = torch.autograd.grad(loss * module.loss_weight, semantic)
    torch.testing.assert_close(slopes["tau 10"], 10 * slopes["tau 1"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(slopes["divided"], slopes["tau 1"], rtol=1e-3, atol=1e-6)


def test_the_normalised_form_is_its_cross_entropy_and_others_are_refused():
    semantic, detections, factors, truth, _ = make_case()
    module = submodule(PANOPTIC__FORM="normalised", PANOPTIC__LOGIT_SCALE=10.0)
    with_tau, _ = loss_of_image(module, semantic, detections, factors, truth)
    without, _ = loss_of_image(
        submodule(PANOPTIC__FORM="normalised", PANOPTIC__LOGIT_SCALE=1.0),
        *(semantic, detections, factors, truth),
    )
    softmax, _ = loss_of_image(submodule(), semantic, detections, factors, truth)
    assert torch.equal(with_tau, without) and not torch.equal(with_tau, softmax)
    with_tau.backward()
    assert all(bool((x.grad != 0).any()) for x in (semantic, detections.scores, *factors))
    with pytest.raises(ValueError, match="form is 'other'"):
        PanopticSubmodule(unchecked_config({"MODEL.UNIFIED.PANOPTIC.FORM": "other"}))
