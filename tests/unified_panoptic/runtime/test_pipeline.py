"""The Unified system without torch: boxes, potentials and maps with the model as the twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from detectron2.structures import ImageList
from model_factory import IS_THING, NO_PANOPTIC, U, lively_model, tiny_config
from torch_export import TorchExport, noise_image, predictor_of

from unified_panoptic.modeling.export import export_model
from unified_panoptic.modeling.postprocess import supported_detections, uncovered_detections
from unified_panoptic.runtime import boxes as by_numpy
from unified_panoptic.runtime.pipeline import detect, predict
from unified_panoptic.runtime.potential import Detections, supported, uncovered

CHANGES = [
    {},
    {U + "POTENTIAL.VARIANT": "B", U + "INFERENCE.COVERED_THRESH": 0.5},
    {U + "INFERENCE.MISSED_THINGS": "void"},
    {U + "INFERENCE.SUPPORT_THRESH": 0.15},
    {U + "DETECTION.MASK_PROBABILITY": "hinge"},
    {U + "POTENTIAL.VARIANT": "A", U + "INFERENCE.STUFF_AREA_LIMIT": 900},
    {"MODEL.MASK_ON": False},
    {U + "INFERENCE.RESIDUAL": False},
    {U + "AFFINITY.COORDINATE_FREQUENCIES": 2, U + "AFFINITY.ACTIVATION": "softmax"},
    {
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    },
    NO_PANOPTIC,
]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_map_is_the_models(changes):
    """24 x 40 to 90 x 120 pixels: enlarged, kept and reduced; 3 images each."""
    for size, shortest in (((24, 40), 64), ((61, 94), 0), ((90, 120), 50)):
        cfg = tiny_config({**changes, "INPUT.MIN_SIZE_TEST": shortest})
        model = lively_model(changes)
        predictor = predictor_of(cfg, model, IS_THING)
        exported = TorchExport(export_model(model), cfg, predictor.class_table)
        things = void = 0
        for seed in range(3):
            image = noise_image(seed, size)
            expected = predictor(image)
            id_map, segments = predict(exported, image)
            # Sums in another order decide ties of P otherwise: a pixel in a thousand at most.
            assert (id_map != expected.id_map).mean() <= 1e-3
            assert [s["category_id"] for s in segments] == [
                s["category_id"] for s in expected.segments_info
            ]
            things += sum(s["isthing"] for s in segments)
            void += int((id_map == 0).sum())
        assert void or U + "INFERENCE.MISSED_THINGS" not in changes
    assert things  # what is compared is not stuff alone


def test_detections_are_detectron2s():
    cfg = tiny_config({"INPUT.MIN_SIZE_TEST": 0})
    model = lively_model()
    predictor = predictor_of(cfg, model, IS_THING)
    exported = TorchExport(export_model(model), cfg, predictor.class_table)
    image = noise_image(5, (61, 94))
    inputs = predictor.prepare(image)
    with torch.no_grad():
        images: ImageList = model.preprocess([inputs])
        features = model.backbone(images.tensor)
        chosen, _ = model.proposal_generator(images, features, None)
        expected = model.roi_heads(images, features, chosen, None)[0][0]
    values = torch.nn.functional.pad(inputs["image"].float(), (0, 96 - 94, 0, 64 - 61))
    for channel, mean in enumerate(cfg.MODEL.PIXEL_MEAN):
        values[channel, 61:] = values[channel, :, 94:] = mean
    maps = exported.run("dense", {"image": values[None].numpy()})
    found_boxes = by_numpy.proposals(maps, exported.options["proposals"], (61, 94))
    np.testing.assert_allclose(found_boxes, chosen[0].proposal_boxes.tensor, atol=1e-3)
    found = detect(exported, maps, (61, 94))
    assert len(found.boxes) == len(expected) > 3
    np.testing.assert_allclose(found.boxes, expected.pred_boxes.tensor, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.masks, expected.pred_masks[:, 0], atol=1e-4)
    thing_ids = np.flatnonzero(IS_THING)
    np.testing.assert_array_equal(found.classes, thing_ids[expected.pred_classes])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_is_torchvisions(threshold):
    rng = np.random.default_rng(0)
    corners = rng.random((300, 2), dtype=np.float32) * 50
    boxes = np.concatenate([corners, corners + rng.random((300, 2), dtype=np.float32) * 20], 1)
    boxes[7] = boxes[8]
    boxes[9, 2:] = boxes[9, :2]  # empty
    scores = rng.random(300, dtype=np.float32)
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    np.testing.assert_array_equal(by_numpy.nms(boxes, scores, threshold), expected)
    groups = rng.integers(0, 4, 300)
    expected = torchvision.ops.batched_nms(
        *(torch.from_numpy(array) for array in (boxes, scores, groups)), threshold
    )
    np.testing.assert_array_equal(by_numpy.grouped_nms(boxes, scores, groups, threshold), expected)


def test_nms_of_nothing():
    none = np.zeros((0, 4), np.float32)
    assert len(by_numpy.nms(none, none[:, 0], 0.5)) == 0
    assert len(by_numpy.grouped_nms(none, none[:, 0], none[:, 0], 0.5)) == 0


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_covered_detections_are_those_of_torch(threshold):
    rng = np.random.default_rng(1)
    corners = rng.random((20, 2), dtype=np.float32) * 20 - 3
    boxes = np.concatenate([corners, corners + 4 + rng.random((20, 2), dtype=np.float32) * 15], 1)
    scores, masks = rng.random(20, dtype=np.float32), rng.random((20, 7, 7), dtype=np.float32)
    classes = np.arange(20)
    tensors = (torch.from_numpy(array) for array in (boxes, scores, masks))
    expected = uncovered_detections(*tensors, (24, 30), threshold)
    kept = uncovered(Detections(boxes, classes, scores, masks), (24, 30), threshold)
    np.testing.assert_array_equal(kept.classes, expected)


@pytest.mark.parametrize(("threshold", "kept_of_20"), [(0.0, 20), (0.5, 15), (0.53, 9), (1.0, 0)])
def test_supported_detections_are_those_of_torch(threshold, kept_of_20):
    rng = np.random.default_rng(1)
    corners = rng.random((20, 2), dtype=np.float32) * 20
    boxes = np.concatenate([corners, corners + 4 + rng.random((20, 2), dtype=np.float32) * 15], 1)
    scores, masks = rng.random(20, dtype=np.float32), rng.random((20, 7, 7), dtype=np.float32)
    classes, semantic = np.arange(20) % 3, rng.random((3, 24, 30), dtype=np.float32)
    tensors = (torch.from_numpy(array) for array in (semantic, boxes, classes, masks))
    expected = supported_detections(*tensors, threshold)
    kept = supported(Detections(boxes, classes, scores, masks), semantic, threshold)
    np.testing.assert_array_equal(kept.boxes, boxes[expected])
    assert len(expected) == kept_of_20


def test_an_argmax_of_an_enlarged_p_is_refused():
    with pytest.raises(ValueError, match="RESOLUTION is 'stride4'"):
        export_model(lively_model({U + "INFERENCE.RESOLUTION": "stride4"}))
