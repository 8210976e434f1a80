"""tools/studies/library/probes.py: that a benchmark measures what it says it measures."""

from __future__ import annotations

from contextlib import contextmanager

import panoptic_common.compat  # noqa: F401

import pytest
import torch
from detectron2.utils.events import EventStorage
from model_factory import IS_THING, NO_PANOPTIC, U, tiny_model

from panoptic_tools.studies.library.measure import WHOLE, MultiplyAdds
from panoptic_tools.studies.library.probes import (
    INSTANCE_MASKS,
    PARTS,
    SEMANTIC_MAP,
    count_parameters,
    forced_detections,
    grid_of,
    instrumented,
    make_workload,
    panoptic_alone,
    random_boxes,
    settle_frozen_norms,
    training_sample,
)
from unified_panoptic.modeling import meta_arch
from unified_panoptic.targets import make_unified_targets

SIZE = (66, 98)
D, R = 7, 23


def workload(seed: int = 0, num_detections: int = D):
    return make_workload(
        SIZE,
        num_detections=num_detections,
        num_proposals=R,
        num_things=2,
        least_score=0.3,
        seed=seed,
        device=torch.device("cpu"),
    )


class Recorder:
    """A span that notes its names in order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def span(self, name: str):
        self.names.append(name)
        yield


def predict(model, work):
    with torch.no_grad():
        return model([{"image": work.image}])[0]


def sample_for(work):
    return training_sample(
        work, IS_THING, lambda ids, infos: make_unified_targets(ids, infos, IS_THING)
    )


# ---- workloads -------------------------------------------------------------------------------


def test_workload_depends_on_its_arguments_alone():
    first, again, other = workload(), workload(), workload(seed=1)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.proposals, again.proposals)
    for name, value in first.found.get_fields().items():
        tensor, repeated = (
            getattr(x, "tensor", x) for x in (value, again.found.get_fields()[name])
        )
        assert torch.equal(tensor, repeated)
    assert not torch.equal(first.proposals, other.proposals)
    assert len(first.found) == D and len(first.proposals) == R


def test_workload_is_plausible():
    found = workload(num_detections=500).detections(mask_side=14)
    assert float(found.scores.min()) > 0.3 and float(found.scores.max()) <= 1
    assert set(found.pred_classes.tolist()) == {0, 1}
    assert tuple(found.pred_masks.shape) == (500, 1, 14, 14)
    assert float(found.pred_masks.min()) >= 0 and float(found.pred_masks.max()) <= 1


def test_boxes_lie_inside_the_image_and_cover_what_they_should():
    boxes = random_boxes(5000, (400, 1000), torch.Generator().manual_seed(0))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert float(boxes.min()) >= 0
    assert float(boxes[:, 2].max()) <= 1000 + 1e-3 and float(boxes[:, 3].max()) <= 400 + 1e-3
    assert float(width.min()) >= 24.9 and float(width.max()) <= 500.1
    assert float(height.min()) >= 9.9 and float(height.max()) <= 200.1
    # The mean of a share log-uniform in [1/40, 1/2] is (1/2 - 1/40) / ln 20 = 0.1586.
    assert float((width * height).mean()) / 400_000 == pytest.approx(0.1586**2, rel=0.1)


def test_grid_covers_the_image():
    assert grid_of((800, 1300)) == (200, 325)
    assert grid_of((801, 1297)) == (201, 325)


# ---- forced detections -----------------------------------------------------------------------


def seen_by_panoptic(model, monkeypatch) -> list:
    seen = []
    forward = model.panoptic.forward

    def watching(semantic, detections, factors):
        seen.append(detections)
        return forward(semantic, detections, factors)

    monkeypatch.setattr(model.panoptic, "forward", watching)
    return seen


def test_exactly_the_given_detections_arrive_at_inference(monkeypatch):
    model, work = tiny_model().eval(), workload()
    seen, pooled = seen_by_panoptic(model, monkeypatch), []
    hook = model.roi_heads.box_head.register_forward_hook(lambda *x: pooled.append(len(x[2])))
    with forced_detections(model, work):
        result = predict(model, work)
    hook.remove()
    (detections,) = seen
    assert torch.equal(detections.boxes, work.found.pred_boxes.tensor)
    assert torch.equal(detections.classes, work.found.pred_classes)
    assert detections.masks.shape[0] == D  # from the mask head
    assert len(result["instances"]) == D
    assert pooled == [R]


def test_exactly_the_given_detections_arrive_in_training(monkeypatch):
    model, work = tiny_model().train(), workload()
    given = []
    of_image = model.panoptic.loss_of_image

    def watching(semantic, detections, factors, truth):
        given.append(detections)
        return of_image(semantic, detections, factors, truth)

    monkeypatch.setattr(model.panoptic, "loss_of_image", watching)
    with EventStorage(), forced_detections(model, work):
        losses = model([sample_for(work)])
    sum(losses.values()).backward()
    (detections,) = given
    assert torch.equal(detections.boxes, work.found.pred_boxes.tensor)
    assert detections.scores.requires_grad and detections.masks.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_its_own_again_afterwards(training):
    model, work = tiny_model(), workload()
    model.train(training)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    resample, make = meta_arch.resample, meta_arch._PanopticMaker.__call__
    with pytest.raises(RuntimeError, match="on purpose"):
        with forced_detections(model, work), instrumented(model, Recorder().span):
            assert meta_arch.resample is not resample
            raise RuntimeError("on purpose")
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert meta_arch.resample is resample and meta_arch._PanopticMaker.__call__ is make


# ---- parts -----------------------------------------------------------------------------------


def test_every_part_of_inference_is_seen_once():
    model, work, recorder = tiny_model().eval(), workload(), Recorder()
    with forced_detections(model, work), instrumented(model, recorder.span):
        predict(model, work)
    top_level = [name for name in recorder.names if "/" not in name]
    assert top_level == [
        "backbone",
        "detection",  # RPN
        "detection",  # ROI heads
        "semantic",
        "affinity features",
        SEMANTIC_MAP,
        "panoptic",  # phi
        INSTANCE_MASKS,
        "panoptic",  # the map
    ]
    details = {name for name in recorder.names if "/" in name}
    assert details == {name for name in PARTS if "/" in name} - {
        "detection/differentiable detections"
    }


def test_resampling_inside_the_panoptic_map_is_not_the_semantic_map():
    model = tiny_model({U + "INFERENCE.RESOLUTION": "stride4"}).eval()
    work, recorder = workload(), Recorder()
    with forced_detections(model, work), instrumented(model, recorder.span):
        predict(model, work)
    assert recorder.names.count(SEMANTIC_MAP) == 1
    assert "panoptic/argmax at the size of the result" not in recorder.names


def test_every_part_of_training_is_seen():
    model, work, recorder = tiny_model().train(), workload(), Recorder()
    with EventStorage(), forced_detections(model, work), instrumented(model, recorder.span):
        model([sample_for(work)])
    assert set(recorder.names) == {
        "backbone",
        "detection",
        "detection/proposals",
        "detection/heads",
        "detection/differentiable detections",
        "semantic",
        "affinity features",
        "panoptic",
        "panoptic/phi",
        "panoptic/potential and affinity at stride 4",
    }
    assert set(recorder.names) <= set(PARTS)


def test_instrumenting_changes_no_result():
    model, work = tiny_model().eval(), workload()
    with forced_detections(model, work):
        expected = predict(model, work)
        with instrumented(model, Recorder().span):
            found = predict(model, work)
    assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert torch.equal(found["sem_seg"], expected["sem_seg"])


def test_multiply_adds_of_the_panoptic_submodule_by_hand():
    model, work = tiny_model({"MODEL.MASK_ON": False}).eval(), workload()
    with forced_detections(model, work), MultiplyAdds() as meter:
        with instrumented(model, meter.span):
            predict(model, work)
    channels, stuff, (rows, columns) = 8, 3, grid_of(SIZE)
    phi = 2 * rows * columns * channels * channels
    affinity = 2 * rows * columns * channels * (D + stuff)
    assert meter.results["panoptic/phi"] == phi
    assert meter.results["panoptic/potential and affinity at stride 4"] == affinity
    assert meter.results["panoptic"] == phi + affinity
    parts = [value for name, value in meter.results.items() if "/" not in name and name != WHOLE]
    assert meter.results[WHOLE] == sum(parts)


def test_model_without_affinity_is_measured_too():
    model, work, recorder = tiny_model(NO_PANOPTIC).eval(), workload(), Recorder()
    with forced_detections(model, work), instrumented(model, recorder.span):
        predict(model, work)
    assert "panoptic" in recorder.names and "affinity features" not in recorder.names


def test_parameters_of_the_parts_are_those_of_the_whole():
    for changes in ({}, NO_PANOPTIC, {U + "PANOPTIC.LEARN_LOGIT_SCALE": True}):
        model = tiny_model(changes)
        counts = count_parameters(model)
        assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
        assert (counts["affinity features"] > 0) == (model.affinity_head is not None)


def test_panoptic_submodule_by_itself_is_that_of_the_model():
    model, work = tiny_model().eval(), workload()
    rows, columns = grid_of(SIZE)
    generator = torch.Generator().manual_seed(0)
    semantic = torch.rand(5, rows, columns, generator=generator).softmax(dim=0)
    query = torch.rand(8, rows, columns, generator=generator)
    recorder = Recorder()
    with instrumented(model, recorder.span):
        id_map, segments_info = panoptic_alone(model, semantic, query, work.detections(14))()
    assert tuple(id_map.shape) == SIZE
    assert set(id_map.unique().tolist()) == {segment["id"] for segment in segments_info}
    assert "panoptic/phi" in recorder.names
    assert "panoptic/argmax at the size of the result" in recorder.names


# ---- weights and truth -----------------------------------------------------------------------


def test_settled_norms_keep_features_in_bounds():
    changes = {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.RESNETS.DEPTH": 50}
    changes |= {"MODEL.RESNETS.RES2_OUT_CHANNELS": 16, "MODEL.RESNETS.WIDTH_PER_GROUP": 8}
    model, work = tiny_model(changes).eval(), workload()
    image = model.preprocess([{"image": work.image}]).tensor
    with torch.no_grad():
        wild = float(model.backbone.bottom_up(image)["res5"].std())
        settle_frozen_norms(model)
        settled = float(model.backbone.bottom_up(image)["res5"].std())
    assert wild > 50  # what it is good for
    assert 0.05 < settled < 20


def test_training_truth_has_things_and_stuff():
    sample = sample_for(workload())
    assert tuple(sample["image"].shape) == (3, *SIZE)
    classes = set(sample["panoptic_target"].classes.tolist())
    assert {0, 2, 4} <= classes and classes & {1, 3}
    assert len(sample["instances"]) > 5
