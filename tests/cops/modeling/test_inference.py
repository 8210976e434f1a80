"""One image from costs to outputs: options, variants, offsets, and the semantic oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cops_factory import IS_THING, C, make_image, perfect_maps, tiny_config, tiny_model
from placing import placed

from cops.modeling.inference import (
    VARIANTS,
    InferenceOptions,
    SolvedImage,
    build_test_target_function,
)
from panoptic_common.coco.quality import PanopticStatistics, match_segments


def test_perfect_maps_give_a_perfect_result(device):
    image = make_image(3, (64, 96), things=2)
    target = image["cops_target"]
    class_logits, edge_logits = placed(device, *perfect_maps(target, 5))
    solved = SolvedImage(
        class_logits,
        -class_logits,
        -edge_logits,
        distances=(1, 4, 8),
        is_thing=IS_THING,
        input_size=(64, 96),
        output_size=(16, 24),  # the grid itself
    )
    for method in ("greedy", "multilevel"):
        options = InferenceOptions(method=method, thing_area_limit=0, stuff_area_limit=0)
        id_map, segments = solved.panoptic(options)
        truth = target.segment_map.numpy() + 1
        listed = [
            {"id": i + 1, "category_id": int(c)} for i, c in enumerate(target.classes.tolist())
        ]
        matches = match_segments(truth, listed, id_map.cpu().numpy(), segments, 5)
        quality = (PanopticStatistics.zeros(5) + matches.statistics(5)).quality(IS_THING)
        assert quality.all.pq == 1.0


def test_an_offset_of_the_edge_costs_joins_more():
    torch.manual_seed(0)
    solved = SolvedImage(
        torch.zeros(5, 8, 12),
        torch.randn(5, 8, 12),
        torch.randn(6, 8, 12),
        distances=(1, 4, 8),
        is_thing=IS_THING,
        input_size=(32, 48),
        output_size=(32, 48),
    )
    counts = []
    for offset in (-50.0, 0.0, 50.0):
        options = InferenceOptions(thing_area_limit=0, stuff_area_limit=0, edge_offset=offset)
        counts.append(len(solved.panoptic(options)[1]))
    assert counts[0] > counts[1] > counts[2] == 1


def test_the_semantic_oracle_takes_the_classes_from_the_truth(device):
    model = tiny_model({"TEST.PANOPTIC_VARIANTS": ("oracle",)}, device=device).eval()
    image = make_image(0)
    with torch.no_grad():
        (output,) = model([image])
    id_map, segments = output["panoptic_variants"]["oracle"]
    class_of = np.full(len(segments) + 1, -1)
    for segment in segments:
        class_of[segment["id"]] = segment["category_id"]
    truth = image["cops_target"].sem_seg.numpy().repeat(4, 0).repeat(4, 1)
    known = truth != 255
    assert (class_of[id_map.cpu().numpy()] == truth)[known].all()
    del image["cops_target"]
    with pytest.raises(ValueError, match="semantic_oracle needs the truth"):
        model([image])


def test_the_truth_is_read_at_test_time_for_the_oracle_only():
    assert build_test_target_function(tiny_config()) is None
    assert build_test_target_function(tiny_config({C + "INFERENCE.SEMANTIC_ORACLE": True}))
    assert build_test_target_function(tiny_config({"TEST.PANOPTIC_VARIANTS": ("oracle",)}))


def test_every_variant_is_an_option():
    for changes in VARIANTS.values():
        assert InferenceOptions().changed(changes) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [({"stride": 3}, "stride is 3"), ({"method": "exact"}, "method is 'exact'")],
)
def test_options_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        InferenceOptions().changed(change)


def test_options_come_from_the_config():
    cfg = tiny_config(
        {
            C + "SOLVER.METHOD": "multilevel",
            C + "INFERENCE.STRIDE": 2,
            C + "INFERENCE.THING_AREA_LIMIT": 3,
            C + "INFERENCE.STUFF_AREA_LIMIT": 5,
            C + "INFERENCE.EDGE_OFFSET": 0.5,
            C + "INFERENCE.SEMANTIC_ORACLE": True,
        }
    )
    expected = InferenceOptions("multilevel", 2, 3, 5, 0.5, True)
    assert InferenceOptions.from_config(cfg) == expected


def test_the_config_says_how_many_things_become_detections(device):
    # All edges are cut, so that each cell is a thing or stuff of its own.
    changes = {"TEST.DETECTIONS_PER_IMAGE": 7, C + "INFERENCE.EDGE_OFFSET": -50.0}
    with torch.no_grad():
        found = tiny_model(changes, device=device).eval()([make_image(1)])[0]
    assert len(found["instances"]) == 7
    assert sum(s["isthing"] for s in found["panoptic_seg"][1]) > 7
    scores = [s["score"] for s in found["panoptic_seg"][1] if s["isthing"]]
    torch.testing.assert_close(
        found["instances"].scores.cpu(), torch.tensor(sorted(scores, reverse=True)[:7])
    )


def test_small_things_are_detections_unless_trimmed():
    """A limit between the areas drops the smallest thing from the map, and from AP if so."""
    image = make_image(3, (64, 96), things=3)
    class_logits, edge_logits = perfect_maps(image["cops_target"], 5)
    solved = SolvedImage(
        class_logits,
        -class_logits,
        -edge_logits,
        distances=(1, 4, 8),
        is_thing=IS_THING,
        input_size=(64, 96),
        output_size=(64, 96),
    )
    whole = solved.panoptic(InferenceOptions(thing_area_limit=0, stuff_area_limit=0))[1]
    areas = sorted(segment["area"] for segment in whole if segment["isthing"])
    assert len(areas) >= 2 and areas[0] < areas[1]
    options = InferenceOptions(thing_area_limit=areas[1], stuff_area_limit=0)
    kept, trimmed = (
        solved.outputs(options.changed({"trim_instances": trim})) for trim in (False, True)
    )
    assert len(kept["instances"]) == len(areas) == len(trimmed["instances"]) + 1
    assert torch.equal(kept["panoptic_seg"][0], trimmed["panoptic_seg"][0])
