"""The whole network in training: every variant and every odd batch trains, and who learns.

Precision, repeatability, names, refused configs. Inference: test_inference.
"""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from model_factory import (
    NO_PANOPTIC,
    U,
    check_result,
    lively_model,
    make_image,
    tiny_config,
    tiny_model,
    training_step,
    unchecked_config,
    without_gradient,
)

from panoptic_common.checkpoint.finite import NotFiniteError
from unified_panoptic.modeling.panoptic_submodule import LOGGED

VARIANTS = {
    "A": {"MODEL.MASK_ON": False, **NO_PANOPTIC},
    "B": {"MODEL.MASK_ON": False},
    "C": NO_PANOPTIC,
    "D": {},
    "no affinity": {U + "AFFINITY.ENABLED": False},
    "potential A": {U + "POTENTIAL.VARIANT": "A"},
    "potential C": {U + "POTENTIAL.VARIANT": "C"},
    "truth": {U + "DETECTION.TRAIN_WITH_TRUTH": True},
    "truth without masks": {U + "DETECTION.TRAIN_WITH_TRUTH": True, "MODEL.MASK_ON": False},
    "nothing detected": {U + "DETECTION.TRAIN_SCORE_THRESH": 0.99},
    "greedy": {U + "PANOPTIC.MATCHER": "greedy"},
    "softmax pair": {
        U + "AFFINITY.ACTIVATION": "softmax",
        U + "AFFINITY.COORDINATE_FREQUENCIES": 2,
    },
    "lovasz": {
        U + "SEMANTIC.LOSS": "lovasz_softmax",
        "MODEL.ROI_MASK_HEAD.NAME": "LovaszMaskHead",
    },
    "plain": {
        U + "DECODER.DEFORMABLE": False,
        U + "DECODER.NORM": "",
        U + "SQUEEZE_EXCITATION": False,
        U + "SEMANTIC.LOSS_STRIDE": 1,
    },
}


def half_empty():
    return [make_image(0), make_image(1, things=(), stuff=(), crowd=False)]


BATCHES = {
    "usual": lambda: [make_image(0), make_image(1)],
    "no instance": lambda: [make_image(0, things=()), make_image(1, things=(), crowd=False)],
    "crowd only": lambda: [make_image(0, things=(), stuff=())],
    "all void": lambda: [make_image(s, things=(), stuff=(), crowd=False) for s in (0, 1)],
    "one stuff class": lambda: [make_image(0, things=(), stuff=(2,), crowd=False, void_rows=0)],
    "one thing class": lambda: [make_image(0, things=(3, 3), stuff=(), crowd=False)],
    "half the batch empty": half_empty,
    "odd sizes": lambda: [make_image(0, (61, 94)), make_image(1, (97, 131))],
    "tiny": lambda: [make_image(0, (17, 9)), make_image(1, (5, 7), things=())],
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_reaches_every_parameter(changes, device):
    model = tiny_model(changes, device=device)
    for batch in (BATCHES["usual"](), half_empty()):
        losses = training_step(model, batch)
        assert all(loss.isfinite() for loss in losses.values())
        assert ("loss_panoptic" in losses) == model.panoptic_loss
        assert ("loss_mask" in losses) == model.roi_heads.mask_on
        # Distributed training waits for the gradient of every parameter.
        assert without_gradient(model) == []
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert {p.grad.device.type for p in model.parameters()} == {device}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("truth", [False, True], ids=["predicted", "truth"])
def test_every_batch_trains_and_predicts(name, truth, device):
    model = tiny_model({U + "DETECTION.TRAIN_WITH_TRUTH": truth}, device=device)
    batch = BATCHES[name]()
    losses = training_step(model, batch)
    assert all(loss.isfinite() for loss in losses.values())
    assert without_gradient(model) == []
    if name == "all void":
        assert losses["loss_sem_seg"].item() == losses["loss_panoptic"].item() == 0
    model.eval()
    with torch.no_grad():
        results = model(batch)
    for image, result in zip(batch, results, strict=True):
        check_result(result, (image["height"], image["width"]))


def test_whom_the_panoptic_loss_alone_teaches(device):
    model = tiny_model(device=device).train()
    # The truth is where the detections are, so that matched pixels exist.
    with EventStorage():
        torch.manual_seed(0)
        losses = model([make_image(0), make_image(1)])
    losses["loss_panoptic"].backward()
    taught = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().any()}
    parts = (
        "backbone.bottom_up.stem.",
        "backbone.bottom_up.squeeze_excitation.excite.",
        "backbone.fpn_output2.",
        "roi_heads.box_head.",
        "roi_heads.box_predictor.cls_score.",
        "roi_heads.mask_head.predictor.",
        "sem_seg_head.predictor.",
        "sem_seg_head.decoder.",
        "affinity_head.phi_0.",
        "affinity_head.phi_1.",
        "affinity_head.query.",
        "affinity_head.decoder.",
    )
    for part in parts:
        assert any(name.startswith(part) for name in taught), part
    # Boxes are cut out at hard borders, and proposals come without a graph.
    untaught = ("proposal_generator.", "roi_heads.box_predictor.bbox_pred.")
    assert not [name for name in taught if name.startswith(untaught)]


def test_loss_weights_multiply_the_losses_of_their_submodule():
    weights = {"DETECTION": 0.25, "SEMANTIC": 0.5, "PANOPTIC": 3.0}
    keys = {f"{U}{name}.LOSS_WEIGHT": value for name, value in weights.items()}
    plain = training_step(tiny_model(), [make_image(0)])
    weighted = training_step(tiny_model(keys), [make_image(0)])
    submodule = {"loss_sem_seg": "SEMANTIC", "loss_panoptic": "PANOPTIC"}
    assert len(plain) == 7
    for name, loss in plain.items():
        weight = weights[submodule.get(name, "DETECTION")]
        assert weighted[name].item() == pytest.approx(weight * loss.item(), rel=1e-5), name


def test_panoptic_loss_of_a_batch_is_the_mean_over_its_pixels():
    # Batch norm would couple the images; so would sizes that are padded differently.
    model = tiny_model({"MODEL.RESNETS.NORM": "FrozenBN"})
    images = [make_image(0, (64, 96)), make_image(1, (61, 90), stuff=(0,), void_rows=40)]
    sums, pixels = [], []
    for batch in (*([p] for p in images), images):
        counted = []
        original = model.panoptic.loss_of_image

        def spy(*args, original=original, counted=counted):
            loss, log = original(*args)
            counted.append(log[LOGGED.index("pixels")].item())
            return loss, log

        model.panoptic.loss_of_image = spy
        loss = training_step(model, batch)["loss_panoptic"].item()
        model.panoptic.loss_of_image = original
        sums.append(loss * sum(counted))
        pixels.append(sum(counted))
    assert pixels[0] != pixels[1]
    assert sums[2] == pytest.approx(sums[0] + sums[1], rel=1e-4)


def test_the_panoptic_loss_may_look_at_the_first_images_alone():
    changes = {"MODEL.RESNETS.NORM": "FrozenBN"}
    images = [make_image(0, (64, 96)), make_image(1, (64, 96)), make_image(2, (64, 96))]
    all_losses = training_step(tiny_model(changes), images)
    losses = training_step(tiny_model({**changes, U + "PANOPTIC.IMAGES": 1}), images)
    alone = training_step(tiny_model(changes), images[:1])
    assert losses["loss_panoptic"].item() == pytest.approx(alone["loss_panoptic"].item(), rel=1e-5)
    assert losses["loss_panoptic"].item() != all_losses["loss_panoptic"].item()
    assert losses["loss_sem_seg"].item() == all_losses["loss_sem_seg"].item()
    # More than there are is all of them.
    losses = training_step(tiny_model({**changes, U + "PANOPTIC.IMAGES": 9}), images)
    assert losses["loss_panoptic"].item() == all_losses["loss_panoptic"].item()


def test_training_feeds_predictions_without_the_truth(monkeypatch):
    model = tiny_model()
    seen = []
    original = model.roi_heads.predict_detections

    def spy(features, proposals):
        seen.extend(proposals)
        return original(features, proposals)

    monkeypatch.setattr(model.roi_heads, "predict_detections", spy)
    batch = [make_image(0), make_image(1)]
    training_step(model, batch)
    assert model.roi_heads.proposal_append_gt  # for the ROI heads' own losses
    for image, proposals in zip(batch, seen, strict=True):
        assert not proposals.has("gt_classes")
        truth = image["instances"].gt_boxes.tensor
        distance = (proposals.proposal_boxes.tensor[:, None] - truth[None]).abs().amax(-1)
        assert distance.min() > 1e-3


def test_one_random_pixel_of_each_cell_serves_both_losses(monkeypatch):
    model = tiny_model({U + "LOSS_PIXELS": "random", U + "SEMANTIC.LOSS_STRIDE": 4})
    seen = []
    for part, name in ((model.sem_seg_head, "losses"), (model.panoptic, "loss_of_image")):
        original = getattr(part, name)

        def spy(*arguments, original=original):
            seen.append(arguments[-1])
            return original(*arguments)

        monkeypatch.setattr(part, name, spy)
    steps = []
    for seed in range(4):
        seen.clear()
        losses = training_step(model, half_empty(), seed)
        assert len(seen) == 3 and len(set(seen)) == 1
        assert all(torch.isfinite(loss) for loss in losses.values())
        steps.append(seen[0])
    assert len(set(steps)) > 1


def test_training_can_feed_the_truth_with_score_one(monkeypatch):
    model = tiny_model({U + "DETECTION.TRAIN_WITH_TRUTH": True})
    seen = []
    original = model.panoptic.loss_of_image

    def spy(semantic, detections, *others):
        seen.append(detections)
        return original(semantic, detections, *others)

    monkeypatch.setattr(model.panoptic, "loss_of_image", spy)
    batch = half_empty()
    training_step(model, batch)
    for image, detections in zip(batch, seen, strict=True):
        assert torch.equal(detections.boxes, image["instances"].gt_boxes.tensor)
        assert torch.equal(detections.classes, image["instances"].gt_classes)
        assert (detections.scores == 1).all()
        assert detections.masks.shape[0] == len(detections)


@pytest.mark.parametrize("name", ["D", "potential C", "softmax pair", "lovasz", "truth"])
def test_mixed_precision_keeps_the_panoptic_submodule_in_single(monkeypatch, name):
    model = tiny_model(VARIANTS[name])
    dtypes = set()
    original = model.panoptic.forward

    def spy(semantic, detections, factors, *others):
        psi, residual = original(semantic, detections, factors, *others)
        dtypes.update(x.dtype for x in (semantic, *factors, psi, residual))
        return psi, residual

    monkeypatch.setattr(model.panoptic, "forward", spy)
    model.train()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([make_image(0), make_image(1)])
        half = model.sem_seg_head.predictor(torch.zeros(1, 32, 4, 4))
    assert half.dtype == torch.bfloat16  # autocast was on
    sum(losses.values()).backward()
    assert dtypes == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        result = model([make_image(0)])[0]
    assert dtypes == {torch.float32}
    check_result(result, (64, 96))


def test_same_seed_same_training():
    def three_steps():
        model = tiny_model(seed=3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for step in range(3):
            losses = training_step(model, [make_image(0), make_image(1)], seed=step)
            optimizer.step()
        return losses, model.state_dict()

    (losses, weights), (again, weights_again) = three_steps(), three_steps()
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in again.items()}
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_training_lowers_the_panoptic_loss(device):
    model = tiny_model({"MODEL.RESNETS.NORM": "FrozenBN"}, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = [make_image(0, things=(1, 3))]
    losses = []
    for step in range(12):
        losses.append(training_step(model, batch, seed=step))
        optimizer.step()
    for name in ("loss_panoptic", "loss_sem_seg"):
        assert losses[-1][name] < 0.9 * losses[0][name], name


def test_names_are_those_of_mask_rcnn():
    """What the model zoo's Mask R-CNN files hold fits by name and shape; only the gate is new."""
    sizes = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
        "MODEL.RESNETS.DEPTH": 50,
    }
    cfg = tiny_config(
        {
            **sizes,
            "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
            "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        }
    )
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    theirs = build_model(cfg).state_dict()
    for changes in ({}, {"MODEL.ROI_MASK_HEAD.NAME": "LovaszMaskHead"}):
        ours = tiny_model({**sizes, **changes}).state_dict()
        assert set(theirs) <= set(ours)
        assert all(ours[name].shape == theirs[name].shape for name in theirs)
        extra = {name for name in set(ours) - set(theirs)}
        shared = ("backbone.", "proposal_generator.", "roi_heads.")
        assert {name for name in extra if name.startswith(shared)} == {
            f"backbone.bottom_up.squeeze_excitation.{layer}.{kind}"
            for layer in ("squeeze", "excite")
            for kind in ("weight", "bias")
        }
        assert {name.split(".")[0] for name in extra} == {
            "backbone",
            "sem_seg_head",
            "affinity_head",
        }


@pytest.mark.parametrize(
    "changes,message",
    [
        ({U + "PANOPTIC.ENABLED": False}, "affinity_head learns from panoptic_loss alone"),
        ({"TEST.PANOPTIC_VARIANTS": ("heuristics",)}, r"unknown variants \['heuristics'\]"),
        ({U + "INFERENCE.METHOD": "vote"}, "method is 'vote'"),
        ({U + "INFERENCE.RESOLUTION": "stride2"}, "resolution is 'stride2'"),
        ({U + "INFERENCE.MISSED_THINGS": "thing"}, "missed_things is 'thing'"),
        (
            {U + "INFERENCE.METHOD": "heuristic", "MODEL.MASK_ON": False},
            "needs roi_heads with masks",
        ),
        ({U + "POTENTIAL.VARIANT": "D"}, "variant is 'D'"),
        ({U + "PANOPTIC.MATCHER": "auction"}, "matcher is 'auction'.*'greedy'"),
        ({U + "AFFINITY.ACTIVATION": "tanh"}, "activation is 'tanh'"),
        ({U + "SEMANTIC.LOSS": "dice"}, "loss is 'dice'"),
        ({U + "SEMANTIC.LOSS_STRIDE": 2}, "loss_stride is 2"),
        ({U + "LOSS_PIXELS": "all"}, "loss_pixels is 'all': use one of"),
        ({U + "DECODER.NORM": "BN"}, "norm is 'BN'"),
        ({U + "PANOPTIC.LOGIT_SCALE": 0.0}, "logit_scale is 0.0"),
        ({U + "PANOPTIC.IMAGES": -1}, "panoptic_images is -1: use 0 for all"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_that_cannot_work_is_refused_when_it_is_built(changes, message):
    with pytest.raises(ValueError, match=message):
        build_model(unchecked_config(changes))


@pytest.mark.parametrize(
    "is_thing",
    [(), (True,) * 5, (False,) * 5, (True, False)],
    ids=["empty", "all", "none", "short"],
)
def test_a_class_table_that_does_not_fit_is_refused(is_thing):
    cfg = tiny_config()
    cfg.MODEL.PANOPTIC.IS_THING = is_thing
    with pytest.raises(ValueError, match="MODEL.PANOPTIC.IS_THING"):
        build_model(cfg)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (32, 32)])
def test_an_image_of_one_cell_alone_trains_with_batch_norm(size: tuple[int, int]) -> None:
    """At stride 32 it has one value per channel, of which batch norm knows no deviation."""
    model = tiny_model()
    image = make_image(size=size, things=(1,), stuff=(0,), crowd=False, void_rows=0)
    losses = training_step(model, [image])
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        (output,) = model([image])
    assert output["panoptic_seg"][0].shape == size


def test_a_network_that_gives_nan_makes_no_map():
    """Weights may be finite and so large that their products are not."""
    model = lively_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e20)
    image = {"image": torch.full((3, 64, 96), 9.0), "file_name": "a.png"}
    with pytest.raises(NotFiniteError, match="gives NaN for the image a.png"):
        model([image])
