"""What of COPS is chosen after training: the maps are those of its predictor."""

from __future__ import annotations

import numpy as np
import pytest
from cops_factory import IS_THING, tiny_config, tiny_model

from cops.thresholds import PREFIX, map_maker, usual_candidates
from panoptic_common.inference.predictor import Predictor

TABLE = [{"id": k, "name": f"c{k}", "isthing": int(thing)} for k, thing in enumerate(IS_THING)]
SEES_ALL = {"INPUT.MIN_SIZE_TEST": 0}


def predictor_of(changes: dict) -> Predictor:
    changes = {**SEES_ALL, **changes}
    return Predictor(tiny_config(changes), tiny_model(changes), TABLE)


@pytest.mark.parametrize(
    "changes",
    [{}, {"STUFF_AREA_LIMIT": 300}, {"THING_AREA_LIMIT": 40}, {"EDGE_OFFSET": 1.5, "STRIDE": 2}],
)
def test_the_maps_are_those_of_a_model_with_that_config(changes: dict) -> None:
    keys = {PREFIX + name: value for name, value in changes.items()}
    image = np.random.default_rng(0).integers(0, 255, (66, 90, 3)).astype(np.uint8)
    expected = predictor_of(keys)(image)
    make = map_maker(predictor_of({}), image)
    make(tiny_config({PREFIX + "STUFF_AREA_LIMIT": 10**6}))  # leaves nothing behind
    id_map, segments = make(tiny_config({**SEES_ALL, **keys}))
    np.testing.assert_array_equal(id_map.numpy(), expected.id_map)
    assert segments == expected.segments_info and segments


def test_areas_around_the_configs_own_are_tried() -> None:
    cfg = tiny_config({PREFIX + "THING_AREA_LIMIT": 200, PREFIX + "STUFF_AREA_LIMIT": 2048})
    found = usual_candidates(cfg)
    assert found[PREFIX + "THING_AREA_LIMIT"] == (0, 50, 100, 200, 400, 800)
    assert found[PREFIX + "STUFF_AREA_LIMIT"] == (0, 512, 1024, 2048, 4096, 8192)
