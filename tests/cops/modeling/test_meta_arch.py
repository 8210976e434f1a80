"""The wiring of COPS: losses, gradients, freezing, inference, and input of all kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cops_factory import IS_THING, C, make_image, tiny_model, unchecked_config
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from panoptic_common.checkpoint.finite import NotFiniteError

SURROGATE = {C + "TRAINING": "surrogate", C + "BACKWARD.SAMPLES": 2}
SEPARATE = {C + "TRAINING": "separate", C + "BACKWARD.SAMPLES": 2}


def train_step(model, batch):
    """Losses of one step, with gradients in the parameters, and what was logged."""
    model.train()
    model.zero_grad()
    torch.manual_seed(5)
    with EventStorage() as storage:
        losses = model(batch)
        sum(losses.values()).backward()
        return losses, {name: value for name, (value, _) in storage.latest().items()}


def gradient_norms(model):
    return {n: float(p.grad.abs().sum()) for n, p in model.named_parameters() if p.grad is not None}


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, names",
    [
        ({}, {"loss_semantic", "loss_affinity"}),
        (SURROGATE, {"loss_panoptic_quality"}),
        (SEPARATE, {"loss_class_labels", "loss_edge_labels"}),
        (
            {**SURROGATE, C + "MIX": 0.5},
            {"loss_semantic", "loss_affinity", "loss_panoptic_quality"},
        ),
    ],
    ids=["pretrain", "surrogate", "separate", "mix"],
)
def test_each_training_has_its_losses_and_reaches_both_branches(changes, names, device):
    # A lambda that makes the solver react surely.
    model = tiny_model({**changes, C + "BACKWARD.LAMBDA_RANGE": (2000.0, 3000.0)}, device=device)
    losses, _ = train_step(model, [make_image(0), make_image(1)])
    assert set(losses) == names
    assert all(torch.isfinite(loss) for loss in losses.values())
    norms = gradient_norms(model)
    for part in ("backbone.res5", "sem_seg_head.", "affinity_head."):
        assert sum(v for n, v in norms.items() if n.startswith(part)) > 0, part


def test_the_semantic_branch_hears_nothing_of_the_affinities():
    model = tiny_model()
    model.train()
    with EventStorage():
        model([make_image(0)])["loss_affinity"].backward()
    norms = gradient_norms(model)
    assert sum(v for n, v in norms.items() if n.startswith("sem_seg_head")) == 0
    assert sum(v for n, v in norms.items() if n.startswith("affinity_head")) > 0


def test_a_step_through_the_solver_logs_what_happened(device):
    model = tiny_model(SURROGATE, device=device)
    batch = [make_image(0)]
    _, first = train_step(model, batch)
    _, second = train_step(model, batch)
    for name in ("surrogate", "true", "false_positives", "false_negatives"):
        assert np.isfinite(first[f"quality/{name}"])
    # Of the backward pass of the step before.
    assert 0 <= second["solver/unreacted"] <= 1
    assert second["solver/seconds_amwc"] > 0 and second["solver/seconds_mwc"] > 0
    assert second["time/network_forward"] > 0


def test_the_clock_of_the_network_stops_before_the_losses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("cops.modeling.stopwatch.time.perf_counter", lambda: now[0])
    model = tiny_model(SURROGATE)

    def later(function, seconds):
        def timed(*arguments):
            now[0] += seconds
            return function(*arguments)

        return timed

    model.predict_maps = later(model.predict_maps, 2.0)
    model._losses = later(model._losses, 50.0)
    _, logged = train_step(model, [make_image(0)])
    assert logged["time/network_forward"] == 2.0


def test_the_same_seed_gives_the_same_step_with_any_number_of_threads():
    batch = [make_image(seed) for seed in range(3)]
    gradients = []
    for threads in (1, 3):
        model = tiny_model({**SURROGATE, C + "SOLVER.THREADS": threads})
        train_step(model, batch)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_mixing_gives_both_losses_the_same_say_at_the_costs(device):
    # The scales start at 1 and 0, so gradients at costs and logits differ by their sign alone.
    model = tiny_model({**SURROGATE, C + "MIX": 0.25}, device=device)
    model.train()
    seen = {}
    predict = model.predict_maps

    def spied(images):
        maps = predict(images)
        for name in ("class_logits", "edge_logits"):
            getattr(maps, name).retain_grad()
        seen["maps"] = maps
        return maps

    model.predict_maps = spied
    with EventStorage():
        losses = model([make_image(0)])
    for names, norm in (
        (("loss_semantic", "loss_affinity"), 0.25),
        (("loss_panoptic_quality",), 1.0),
    ):
        maps = seen["maps"]
        maps.class_logits.grad = maps.edge_logits.grad = None
        sum(losses[name] for name in names).backward(retain_graph=True)
        total = maps.class_logits.grad.abs().sum() + maps.edge_logits.grad.abs().sum()
        assert float(total) == pytest.approx(norm, rel=1e-4)


def gradients_at_logits(model, iteration: int) -> tuple[dict, dict[str, float], list]:
    """Losses of a step, the L1 norm of each one's gradient at the logits, and all gradients."""
    seen, predict = {}, model.predict_maps

    def spied(images):
        seen["maps"] = predict(images)
        for name in ("class_logits", "edge_logits"):
            getattr(seen["maps"], name).retain_grad()
        return seen["maps"]

    model.predict_maps = spied
    with EventStorage(iteration):
        losses = model.train()([make_image(0)])
    norms = {}
    maps = seen["maps"]
    for name, loss in losses.items():
        maps.class_logits.grad = maps.edge_logits.grad = None
        loss.backward(retain_graph=True)
        pair = (maps.class_logits.grad, maps.edge_logits.grad)
        norms[name] = sum(float(g.abs().sum()) for g in pair if g is not None)
    return losses, norms, [None if p.grad is None else p.grad for p in model.parameters()]


def test_a_ramp_begins_with_the_pretraining_losses_alone():
    ramp = {C + "MIX": 0.5, C + "RAMP": (0.5, 0.75), "SOLVER.MAX_ITER": 100}
    losses, _, gradients = gradients_at_logits(tiny_model({**SURROGATE, **ramp}), 49)
    alone, _, expected = gradients_at_logits(tiny_model({}), 49)
    assert losses.keys() == alone.keys()
    for name, loss in alone.items():
        assert torch.equal(losses[name], loss)
    for found, wanted in zip(gradients, expected, strict=True):
        # Every parameter has a gradient: the cost scales' is 0.
        assert found is not None
        assert found.abs().sum() == 0 if wanted is None else torch.equal(found, wanted)


@pytest.mark.parametrize(("iteration", "strength"), [(50, 0.04), (62, 0.52), (74, 1.0), (99, 1.0)])
def test_a_ramp_brings_the_other_gradient_to_its_size(iteration, strength):
    ramp = {C + "MIX": 0.5, C + "RAMP": (0.5, 0.75), "SOLVER.MAX_ITER": 100}
    # The scales start at 1 and 0, so gradients at costs and logits differ by their sign alone.
    model = tiny_model({**SURROGATE, **ramp, C + "LOSS.COST_DROPOUT": 0.0})
    losses, norms, _ = gradients_at_logits(model, iteration)
    assert set(losses) == {"loss_semantic", "loss_affinity", "loss_panoptic_quality"}
    # Each pre-training loss is taken on logits of its own.
    pretraining = norms["loss_semantic"] + norms["loss_affinity"]
    expected = strength * pretraining / 0.5
    assert norms["loss_panoptic_quality"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shares", [(0.5,), (0.8, 0.5), (-0.1, 0.5), (0.5, 1.5)])
def test_bad_ramps_are_refused(shares):
    with pytest.raises(ValueError, match="MODEL.COPS.RAMP is"):
        tiny_model({**SURROGATE, C + "MIX": 1.0, C + "RAMP": shares})


def test_a_ramp_without_a_mix_is_refused():
    with pytest.raises(ValueError, match="a ramp needs MODEL.COPS.MIX"):
        build_model(unchecked_config({**SURROGATE, C + "RAMP": (0.5, 0.6)}))


def test_finetuning_trains_only_the_last_layers():
    model = tiny_model({**SURROGATE, C + "FREEZE": True})
    model.train()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and not any(n.startswith("backbone") for n in trained)
    assert {n.split(".")[0] for n in trained} == {"sem_seg_head", "affinity_head", "cost_scale"}
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    train_step(model, [make_image(0)])
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("changes", [{}, SURROGATE, SEPARATE], ids=["pretrain", "pq", "separate"])
def test_batches_of_all_kinds_train(changes, device):
    model = tiny_model({**changes, C + "DISTANCES": (1, 4, 8)}, device=device)
    batches = [
        [make_image(0, void=True)],
        [make_image(0, things=0)],
        [make_image(0, (37, 51)), make_image(1, (64, 40))],  # odd sizes, padding
        [make_image(0, (16, 20), things=1), make_image(1, void=True)],  # distance 8 fits nobody
    ]
    for batch in batches:
        losses, _ = train_step(model, batch)
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# ---- inference ----------------------------------------------------------------------------------


def test_outputs_have_the_size_that_is_asked_for(device):
    variants = {"TEST.PANOPTIC_VARIANTS": ("untrimmed", "stride2", "stride1")}
    model = tiny_model(variants, device=device).eval()
    image = {**make_image(0, (37, 51)), "height": 74, "width": 102}
    with torch.no_grad():
        (output,) = model([image])
    assert output["sem_seg"].shape == (5, 74, 102)
    torch.testing.assert_close(output["sem_seg"].sum(0).cpu(), torch.ones(74, 102))
    for id_map, segments in (output["panoptic_seg"], *output["panoptic_variants"].values()):
        assert id_map.shape == (74, 102) and id_map.dtype == torch.int32
        ids = set(id_map.unique().tolist()) - {0}
        assert ids == {s["id"] for s in segments}
        stuff = [s["category_id"] for s in segments if not s["isthing"]]
        assert len(stuff) == len(set(stuff))  # one segment a stuff class
        assert all(IS_THING[s["category_id"]] == s["isthing"] for s in segments)
    instances = output["instances"]
    things = [s for s in output["panoptic_seg"][1] if s["isthing"]]
    assert len(instances) == len(things)
    assert output["cut_edges"].shape == output["affinity_map"].shape == (10, 13)


def test_a_single_cell_and_a_tiny_image_work(device):
    model = tiny_model(device=device).eval()
    for size in ((4, 4), (1, 1), (5, 33)):
        with torch.no_grad():
            (output,) = model([{"image": torch.zeros(3, *size, dtype=torch.uint8)}])
        assert output["panoptic_seg"][0].shape == size


@pytest.mark.parametrize("size", [(13, 13), (16, 16)])
def test_an_image_of_one_cell_alone_trains_with_batch_norm(size):
    """At stride 16 it has one value per channel, of which batch norm knows no deviation."""
    model = tiny_model().train()
    with EventStorage():
        losses = model([make_image(size=size, things=1)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# ---- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({C + "TRAINING": "both"}, "TRAINING"),
        ({C + "MIX": 1.0}, "mix is 1.0, but nothing is trained through the solver"),
        ({**SURROGATE, C + "MIX": -1.0}, "mix is -1.0"),
        ({C + "INFERENCE.STRIDE": 3}, "stride is 3"),
        ({C + "SOLVER.METHOD": "exact"}, "method is 'exact'"),
        ({C + "PRETRAIN.LOSS_STRIDE": 2}, "loss_stride is 2"),
        ({**SURROGATE, C + "LOSS.FORM": "other"}, "form"),
        ({"TEST.PANOPTIC_VARIANTS": ("heuristic",)}, r"unknown variants \['heuristic'\]"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        build_model(unchecked_config(changes))


@pytest.mark.parametrize(
    "changes, names",
    [
        ({C + "PRETRAIN.LOSS_STRIDE": 1}, ("cops_target", "sem_seg", "pixel_weights")),
        ({C + "PRETRAIN.LOSS_STRIDE": 4}, ("cops_target",)),
        ({**SURROGATE, C + "PRETRAIN.LOSS_STRIDE": 1}, ("cops_target",)),
        ({**SURROGATE, C + "MIX": 1.0, C + "PRETRAIN.LOSS_STRIDE": 1}, ("sem_seg",)),
    ],
)
def test_a_missing_target_is_named(changes, names):
    model = tiny_model(changes).train()
    for name in names:
        image = make_image(0)
        del image[name]
        with pytest.raises(ValueError, match=f"no '{name}'.*PanopticDatasetMapper"):
            model([image])


def test_images_can_be_padded_to_one_size():
    """As the authors do on COCO; the results keep the size of the image."""
    model = tiny_model({"MODEL.COPS.SIZE_DIVISIBILITY": 96}).eval()
    image = make_image(0, (64, 80))
    assert model.preprocess([image]).tensor.shape[2:] == (96, 96)
    assert tiny_model().preprocess([image]).tensor.shape[2:] == (64, 80)
    with torch.no_grad():
        output = model([image])[0]
    assert output["panoptic_seg"][0].shape == output["sem_seg"].shape[1:] == (64, 80)
    # Of the backbone's stride, too.
    odd = tiny_model({"MODEL.COPS.SIZE_DIVISIBILITY": 36})
    assert odd.divisibility % 36 == 0 and odd.divisibility % tiny_model().divisibility == 0


def test_a_network_that_gives_nan_makes_no_map():
    """Weights may be finite and so large that their products are not."""
    model = tiny_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e20)
    image = {"image": torch.full((3, 64, 96), 9.0), "file_name": "a.png"}
    with pytest.raises(NotFiniteError, match="gives NaN for the image a.png"):
        model([image])
