"""tools/studies/library/probes.py: that a benchmark measures what it says it measures."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import groupby

import pytest
import torch
from detectron2.utils.events import EventStorage
from model_factory import IS_THING, NO_PANOPTIC, U, tiny_model

from panoptic_common.modeling.resampling import resample
from panoptic_tools.studies.library.forced_runs import (
    forced_detections,
    panoptic_alone,
    settle_frozen_norms,
)
from panoptic_tools.studies.library.measure import WHOLE, MultiplyAdds
from panoptic_tools.studies.library.probes import (
    INSTANCE_MASKS,
    PARTS,
    SEMANTIC_MAP,
    count_parameters,
    instrumented,
)
from panoptic_tools.studies.library.replacing import replaced
from panoptic_tools.studies.library.workload import (
    grid_of,
    make_workload,
    random_boxes,
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


@contextmanager
def seen_by(module):
    """Second argument of every call of the panoptic submodule: its detections."""
    seen = []
    hook = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    yield seen
    hook.remove()


def test_exactly_the_given_detections_arrive_at_inference():
    model, work = tiny_model().eval(), workload()
    pooled = []
    hook = model.roi_heads.box_head.register_forward_hook(lambda *x: pooled.append(len(x[2])))
    with forced_detections(model, work), seen_by(model.panoptic) as seen:
        result = predict(model, work)
    hook.remove()
    (detections,) = seen
    assert torch.equal(detections.boxes, work.found.pred_boxes.tensor)
    assert torch.equal(detections.classes, work.found.pred_classes)
    assert detections.masks.shape[0] == D  # from the mask head
    assert len(result["instances"]) == D
    assert pooled == [R]


def test_exactly_the_given_detections_arrive_in_training():
    model, work = tiny_model().train(), workload()
    with EventStorage(), forced_detections(model, work), seen_by(model.panoptic) as seen:
        losses = model([sample_for(work)])
    sum(losses.values()).backward()
    (detections,) = seen
    # Matching orders and drops none: duplicates are left to the loss.
    boxes = {tuple(box) for box in detections.boxes.tolist()}
    assert boxes <= {tuple(box) for box in work.found.pred_boxes.tensor.tolist()} and boxes
    assert detections.scores.requires_grad and detections.masks.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_its_own_again_afterwards(training):
    model, work = tiny_model(), workload()
    model.train(training)
    functions = {name: value for name, value in vars(meta_arch).items() if callable(value)}
    recorder, image = Recorder(), {"image": work.image}
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        forced_detections(model, work),
        instrumented(model, recorder.span),
    ):
        assert meta_arch.resample is not resample
        raise RuntimeError("on purpose")
    assert functions == {name: v for name, v in vars(meta_arch).items() if callable(v)}
    assert "predict_detections" not in vars(model.roi_heads)
    assert "losses" not in vars(model.sem_seg_head)
    model.eval()
    with torch.no_grad():
        (result,) = model([image])
    assert recorder.names == [] and len(result["instances"]) != D


def test_a_function_is_replaced_where_it_is_used_and_only_for_a_while():
    def other(*_arguments):
        return "other"

    with replaced(resample, other):
        assert meta_arch.resample() == "other"
        assert resample is not other  # this module is none of the system's
    assert meta_arch.resample is resample


# ---- parts -----------------------------------------------------------------------------------


def test_every_part_of_inference_is_seen_once():
    model, work, recorder = tiny_model().eval(), workload(), Recorder()
    with forced_detections(model, work), instrumented(model, recorder.span):
        predict(model, work)
    top_level = [name for name, _ in groupby(n for n in recorder.names if "/" not in n)]
    assert top_level == [
        "backbone",
        "detection",  # RPN and ROI heads
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
    meter = MultiplyAdds()
    with forced_detections(model, work), meter, instrumented(model, meter.span):
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
    id_map, segments_info = panoptic_alone(model, semantic, query, work.detections(14))(
        recorder.span
    )
    assert tuple(id_map.shape) == SIZE
    assert set(id_map.unique().tolist()) == {segment["id"] for segment in segments_info}
    assert "panoptic/phi" in recorder.names
    assert "panoptic/argmax at the size of the result" in recorder.names
    assert recorder.names.count("panoptic") == 1  # phi and map in one span


def test_panoptic_submodule_by_itself_makes_the_map_of_the_whole_model():
    """Given the model's own V, Q and detections, it makes the model's own map."""
    model, work = tiny_model().eval(), workload()
    given = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: given.update({name: output}))
        for name, module in (("V", model.sem_seg_head), ("Q", model.affinity_head))
    ]
    found = work.detections()
    boxes = found.pred_boxes.clone()
    with forced_detections(model, work):
        expected, expected_segments = predict(model, work)["panoptic_seg"]
        with torch.no_grad():
            features = model.backbone(model.preprocess([{"image": work.image}]).tensor)
            (found,) = model.roi_heads.forward_with_given_boxes(features, [work.detections()])
    for hook in hooks:
        hook.remove()
    found.pred_boxes = boxes
    rows, columns = grid_of(SIZE)
    semantic = given["V"][0, :, :rows, :columns].softmax(dim=0)
    query = given["Q"][0, :, :rows, :columns]
    id_map, segments_info = panoptic_alone(model, semantic, query, found)(Recorder().span)
    assert segments_info == expected_segments
    # V goes through a logarithm and back, which may tip a pixel between equals.
    assert float((id_map == expected).float().mean()) > 0.999


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
