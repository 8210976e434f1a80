"""What of the Unified system is chosen after training: the maps are those of its predictor."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.modeling import build_model
from model_factory import IS_THING, lively_model, tiny_config

from panoptic_common.inference.predictor import Predictor
from unified_panoptic.thresholds import PREFIX, map_maker, usual_candidates

TABLE = [{"id": k, "name": f"c{k}", "isthing": int(thing)} for k, thing in enumerate(IS_THING)]
SEES_ALL = {"INPUT.MIN_SIZE_TEST": 0}


def predictor_of(changes: dict) -> Predictor:
    cfg = tiny_config({**SEES_ALL, **changes})
    model = build_model(cfg)
    model.load_state_dict(lively_model(changes).state_dict())
    return Predictor(cfg, model, TABLE)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SCORE_THRESH": 0.42},
        {"COVERED_THRESH": 0.3, "STUFF_AREA_LIMIT": 900},
        {"SUPPORT_THRESH": 0.2},
        {"MISSED_THINGS": "void", "RESIDUAL": False},
        {"METHOD": "heuristic", "HEURISTIC_SCORE_THRESH": 0.4},
        {"METHOD": "heuristic", "HEURISTIC_SCORE_THRESH": 0.4, "SUPPORT_THRESH": 0.2},
        {"RESOLUTION": "stride4"},
    ],
)
def test_the_maps_are_those_of_a_model_with_that_config(changes: dict) -> None:
    keys = {PREFIX + name: value for name, value in changes.items()}
    image = np.random.default_rng(0).integers(0, 255, (66, 90, 3)).astype(np.uint8)
    expected = predictor_of(keys)(image)
    make = map_maker(predictor_of({}), image)
    make(tiny_config({PREFIX + "SCORE_THRESH": 0.9}))  # an earlier map leaves nothing behind
    id_map, segments = make(tiny_config({**SEES_ALL, **keys}))
    np.testing.assert_array_equal(id_map.numpy(), expected.id_map)
    assert segments == expected.segments_info and segments


@pytest.mark.parametrize(
    ("method", "masks", "keys"),
    [
        ("argmax", True, ["SCORE_THRESH", "SUPPORT_THRESH", "COVERED_THRESH", "MISSED_THINGS"]),
        ("argmax", False, ["SCORE_THRESH", "MISSED_THINGS"]),
        ("heuristic", True, ["HEURISTIC_SCORE_THRESH", "SUPPORT_THRESH"]),
    ],
)
def test_the_values_are_those_that_play_a_part(method: str, masks: bool, keys: list[str]) -> None:
    changes = {PREFIX + "METHOD": method, PREFIX + "STUFF_AREA_LIMIT": 256}
    cfg = tiny_config({**changes, "MODEL.MASK_ON": masks})
    found = usual_candidates(cfg)
    assert list(found) == [PREFIX + key for key in [*keys, "STUFF_AREA_LIMIT"]]
    assert found[PREFIX + "STUFF_AREA_LIMIT"] == (0, 64, 128, 256, 512, 1024)
    for key, values in found.items():  # all are accepted
        for value in values:
            tiny_config({key: value})
