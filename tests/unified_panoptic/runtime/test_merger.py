"""The heuristic merger without torch, with torch's as the twin, and the export that ends in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_factory import IS_THING, U, lively_model, tiny_config
from torch_export import TorchExport, noise_image, predictor_of

from panoptic_common.modeling.resampling import resample
from panoptic_common.runtime.folder import ExportError
from unified_panoptic.modeling.export import export_model
from unified_panoptic.modeling.postprocess import merge_heuristically, trim_small_stuff
from unified_panoptic.runtime.merger import best_classes, merge
from unified_panoptic.runtime.pipeline import predict
from unified_panoptic.runtime.potential import Detections

STRIDE = 4
MERGER = {U + "INFERENCE.METHOD": "heuristic"}


def drawn_detections(seed: int, count: int, size: tuple[int, int]) -> Detections:
    """Boxes that overlap, leave the image, have no extent or lie beside it; scores with ties."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-8, np.array(size[::-1]) - 4, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 30, (count, 2))], axis=1)
    boxes[1::9, 2:] = boxes[1::9, :2]  # no extent
    boxes[2::9] += 500  # beside the image
    smooth = rng.random((count, 7, 7)) * 0.4 + rng.choice([0.0, 0.3, 0.6], (count, 1, 1))
    return Detections(
        boxes.astype(np.float32),
        rng.choice(np.flatnonzero(IS_THING), count),
        (rng.integers(0, 11, count) / 10).astype(np.float32),
        smooth.astype(np.float32),
    )


def both_mergers(found, probabilities, input_size, output_size, is_thing=IS_THING, limit=0):
    """Merge by numpy and by torch; the boxes are in pixels of the result."""
    ours = merge(
        found,
        best_classes(probabilities, input_size, output_size, STRIDE),
        is_thing,
        score_threshold=0.5,
        stuff_area_limit=limit,
    )
    semantic = resample(torch.from_numpy(probabilities), input_size, output_size, STRIDE)
    tensors = (torch.from_numpy(x) for x in (found.boxes, found.classes, found.scores, found.masks))
    merged = merge_heuristically(semantic, *tensors, is_thing, score_threshold=0.5)
    id_map, segments = trim_small_stuff(merged, limit)
    return ours, (id_map.numpy(), segments)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [0, 150])
def test_the_map_is_torchs(seed, limit):
    """At the network's size, enlarged and reduced; 30 detections, of which about 6 cover others."""
    rng = np.random.default_rng(seed)
    for output_size in ((61, 94), (122, 160), (40, 33)):
        probabilities = rng.dirichlet(np.ones(5), (16, 24)).transpose(2, 0, 1).astype(np.float32)
        found = drawn_detections(seed, 30, output_size)
        (id_map, segments), expected = both_mergers(
            found, probabilities, (61, 94), output_size, limit=limit
        )
        assert id_map.dtype == np.int32
        np.testing.assert_array_equal(id_map, expected[0])
        assert segments == expected[1]
        assert sum(segment["isthing"] for segment in segments) >= 3
        assert len(set(found.scores.tolist())) < 30  # ties among them


@pytest.mark.parametrize("is_thing", [IS_THING, (False,) * 5, (True,) * 5])
@pytest.mark.parametrize("count", [0, 1, 12])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (61, 94)])
def test_degenerate_images(is_thing, count, size):
    """No detection; all stuff; nothing but void; one pixel; classes that are equally probable."""
    probabilities = np.full((5, -(-size[0] // 4), -(-size[1] // 4)), 0.2, dtype=np.float32)
    found = drawn_detections(3, count, size)
    (id_map, segments), expected = both_mergers(found, probabilities, size, size, is_thing)
    np.testing.assert_array_equal(id_map, expected[0])
    assert segments == expected[1]
    if not count:  # of equals the first class wins
        assert len(segments) == (not is_thing[0])


def test_by_hand():
    """Two masks of equal score share two columns; the first takes them, the second is half free.

    Scores, masks, the free share and one area of stuff are exactly what is just enough.
    """
    boxes = np.array([[0, 0, 4, 2], [2, 0, 6, 2], [1, 0, 5, 2]], dtype=np.float32)
    scores, masks = np.full(3, 0.5, np.float32), np.full((3, 2, 4), 0.5, np.float32)
    found = Detections(boxes, np.array([1, 3, 1]), scores, masks)
    class_map = np.array([[0, 0, 0, 0, 0, 0, 2, 2, 1, 4]] * 2)
    id_map, segments = merge(found, class_map, IS_THING, score_threshold=0.5, stuff_area_limit=4)
    # Class 1 without an instance is void, class 4 too small; 1 of 4 columns is too few for box 3.
    assert id_map.tolist() == [[1, 1, 1, 1, 2, 2, 3, 3, 0, 0]] * 2
    assert segments == [
        {"id": 1, "isthing": True, "category_id": 1, "score": 0.5, "area": 8},
        {"id": 2, "isthing": True, "category_id": 3, "score": 0.5, "area": 4},
        {"id": 3, "isthing": False, "category_id": 2, "area": 4},
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {U + "INFERENCE.STUFF_AREA_LIMIT": 900},
        {U + "INFERENCE.HEURISTIC_SCORE_THRESH": 0.36},
        {U + "INFERENCE.HEURISTIC_SCORE_THRESH": 0.36, U + "INFERENCE.SUPPORT_THRESH": 0.2},
        {U + "INFERENCE.HEURISTIC_SCORE_THRESH": 1.0},  # no detection
        {U + "INFERENCE.RESOLUTION": "stride4"},  # of the argmax alone
        {U + "DETECTION.MASK_PROBABILITY": "hinge"},
    ],
)
def test_an_exported_model_is_the_model(changes):
    """24 x 40 to 90 x 120 pixels: enlarged, kept and reduced; 2 images each."""
    changes = {**MERGER, **changes}
    things = 0
    for size, shortest in (((24, 40), 64), ((61, 94), 0), ((90, 120), 50)):
        cfg = tiny_config({**changes, "INPUT.MIN_SIZE_TEST": shortest})
        model = lively_model(changes)
        predictor = predictor_of(cfg, model, IS_THING)
        exported = TorchExport(export_model(model), cfg, predictor.class_table)
        for seed in range(2):
            image = noise_image(seed, size)
            expected = predictor(image)
            id_map, segments = predict(exported, image)
            # Sums in another order decide a mask of 0.5 otherwise: a pixel in a thousand at most.
            assert (id_map != expected.id_map).mean() <= 1e-3
            ours, theirs = (
                [(s["id"], s["category_id"]) for s in found]
                for found in (segments, expected.segments_info)
            )
            assert ours == theirs
            things += sum(s["isthing"] for s in segments)
    assert (things > 0) == (changes.get(U + "INFERENCE.HEURISTIC_SCORE_THRESH") != 1.0)


def test_nothing_is_computed_for_the_affinity():
    exported = export_model(lively_model(MERGER))
    assert set(exported.parts) == {"dense", "boxes", "masks"}
    assert "query" not in exported.parts["dense"].outputs
    assert "factors" not in export_model(lively_model({U + "INFERENCE.RESIDUAL": False})).parts


def test_a_folder_without_masks_is_refused():
    cfg, model = tiny_config(MERGER), lively_model(MERGER)
    exported = TorchExport(export_model(model), cfg, predictor_of(cfg, model, IS_THING).class_table)
    exported.parts = {name: part for name, part in exported.parts.items() if name != "masks"}
    exported.folder = "exported"
    with pytest.raises(ExportError, match="exported has no network 'masks'"):
        predict(exported, noise_image(0, (61, 94)))
