"""Values of config keys: what a rule lets pass, and that the tables leave no key out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg

import cops.config
import unified_panoptic.config
from cops.losses.panoptic_quality import FORMS as LOSS_FORMS
from cops.modeling.decoder import _NORMS
from cops.modeling.meta_arch import TRAININGS
from panoptic_common.config import add_panoptic_config, common_values, load_config
from panoptic_common.config.value_rules import (
    Rule,
    ascending,
    distinct,
    number,
    one_of,
    or_none,
    require_values,
    rising,
    several,
    whole,
)
from panoptic_common.engine import ranges
from panoptic_common.values import flatten
from unified_panoptic.matching import FORMS, MATCHERS
from unified_panoptic.modeling.dynamic_potential import VARIANTS
from unified_panoptic.modeling.grid import PIXELS
from unified_panoptic.modeling.instance_affinity import ACTIVATIONS
from unified_panoptic.modeling.roi_heads import MASK_PROBABILITIES

CONFIGS = {"COPS": "cops/scenes/single_stage_ramp", "UNIFIED": "unified/scenes/D2"}


# ---- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (number(0, 1), [0, 0.5, 1.0], [-0.1, 1.1, math.nan, math.inf, "1", None, True, (0.5,)]),
        (number(above=0, most=1), [1e-9, 1], [0, 1.5, -math.inf]),
        (number(0, under=1), [0, 0.99], [1, 1.0, -1]),
        (number(), [-5, 1e300], [math.inf, "a", [1]]),
        (whole(1), [1, 2**70], [0, 1.0, True, "1", None]),
        (whole(0, 5), [0, 5], [-1, 6]),
        (one_of("a", "b"), ["a"], ["c", 1, None, ["a"]]),
        (one_of(1, 2), [1, 2], [True, 3, "1", 1.0]),
        (or_none(whole(0)), [None, 0], [-1, "None"]),
        (several(whole(1), "", count=2), [(1, 1), [2, 1]], [(), (1,), (1, 0), (1, 2, 3), 5, "12"]),
        (several(number(), "", may_be_empty=True, order=ascending), [(), (1, 1)], [(2, 1), {}]),
        (several(number(), "", order=rising), [(1, 2), (1,)], [(1, 1), ()]),
        (several(whole(1), "", order=distinct), [(2, 1)], [(1, 1), ([1], [2])]),
    ],
)
def test_a_rule_tells_right_from_wrong(rule: Rule, right: list, wrong: list) -> None:
    assert [value for value in right if not rule.is_right(value)] == []
    assert [value for value in wrong if rule.is_right(value)] == []


def test_a_sentence_names_key_value_and_what_to_give() -> None:
    cfg = CfgNode({"A": {"B": 7, "C": 0.5}})
    require_values(cfg, {"A.B": whole(1), "A.ABSENT": whole(1)})
    with pytest.raises(ValueError, match=r"^A\.B is 7: give a whole number from 0 to 5, 0 for no$"):
        require_values(cfg, {"A.B": whole(0, 5, note="0 for no")})
    with pytest.raises(ValueError, match=r"^A\.C is 0\.5: give a number above 0\.6 and below 1$"):
        require_values(cfg, {"A.C": number(above=0.6, under=1)})


# ---- tables -------------------------------------------------------------------------------------


def own_keys(system: str) -> dict[str, Any]:
    """The keys of a system below its own section, with their defaults."""
    cfg = load_config(f"{CONFIGS[system]}", table=[{"name": n, "isthing": n == "a"} for n in "ab"])
    return flatten({"MODEL": {system: cfg.MODEL[system]}})


@pytest.mark.parametrize(
    ("system", "rules"),
    [("COPS", cops.config.RULES), ("UNIFIED", unified_panoptic.config.RULES)],
)
def test_each_key_of_a_system_has_a_rule(system: str, rules: Mapping[str, Rule]) -> None:
    """yacs lets nothing but True and False into a switch, which needs none."""
    keys = {key for key, value in own_keys(system).items() if not isinstance(value, bool)}
    assert keys - rules.keys() == set()
    known = {key for key in rules if key.startswith(f"MODEL.{system}.")}
    assert known == keys  # no rule is for a key that is gone


def test_each_key_of_all_systems_has_a_rule_or_a_check_of_its_own() -> None:
    cfg = get_cfg()
    before = flatten(cfg)
    add_panoptic_config(cfg)
    elsewhere = re.compile(
        r"DATASETS\.|MODEL\.PANOPTIC\.|INPUT\.MAPPER|.*NUM_CLASSES"  # data and classes
        r"|SOLVER\.ACCUMULATE|TEST\.(BEST_METRIC|EARLY_STOP)"  # beside other keys
    )
    ours = {
        key
        for key, value in flatten(cfg).items()
        if key not in before and not isinstance(value, bool) and not elsewhere.match(key)
    }
    assert ours - common_values.RULES.keys() - ranges.RULES.keys() == set()


def test_choices_are_those_of_the_classes() -> None:
    """The tables cannot import them: a config is read by rooms above."""
    tables = {**cops.config.RULES, **unified_panoptic.config.RULES}
    for key, choices in {
        "MODEL.COPS.TRAINING": TRAININGS,
        "MODEL.COPS.LOSS.FORM": LOSS_FORMS,
        "MODEL.COPS.SEMANTIC.NORM": _NORMS,
        "MODEL.UNIFIED.PANOPTIC.MATCHER": MATCHERS,
        "MODEL.UNIFIED.PANOPTIC.FORM": FORMS,
        "MODEL.UNIFIED.POTENTIAL.VARIANT": VARIANTS,
        "MODEL.UNIFIED.AFFINITY.ACTIVATION": ACTIVATIONS,
        "MODEL.UNIFIED.LOSS_PIXELS": PIXELS,
        "MODEL.UNIFIED.DETECTION.MASK_PROBABILITY": MASK_PROBABILITIES,
    }.items():
        assert tables[key].advice == f"use one of {tuple(choices)}", key


# ---- what a user gives --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("COPS", {"MODEL.COPS.RAMP": "('a', 'b')"}),
        ("COPS", {"MODEL.COPS.DISTANCES": "(1.5,)"}),
        ("COPS", {"MODEL.COPS.BACKWARD.LAMBDA_RANGE": "('a', 'b')"}),
        ("COPS", {"MODEL.COPS.PRETRAIN.SEMANTIC_TOP_K": 0.0}),
        ("COPS", {"MODEL.COPS.LOSS.COST_DROPOUT": 1.5}),
        ("COPS", {"MODEL.COPS.SOLVER.THREADS": -1}),
        ("COPS", {"MODEL.COPS.SEMANTIC.ASPP_DROPOUT": 2.0}),
        ("COPS", {"MODEL.COPS.AFFINITY.DECODER_CHANNELS": 0}),
        ("COPS", {"MODEL.COPS.LOSS.AREA_SLOPE": -1.0}),
        ("COPS", {"MODEL.RESNETS.OUT_FEATURES": "('res9',)"}),
        ("COPS", {"MODEL.COPS.PRETRAIN.LOSS_STRIDE": 3}),
        ("COPS", {"MODEL.COPS.INFERENCE.STRIDE": 2, "MODEL.COPS.DISTANCES": "(2, 4)"}),
        ("COPS", {"MODEL.COPS.SEMANTIC.PROJECT_CHANNELS": "(1,)"}),
        ("COPS", {"MODEL.COPS.MIX": 0.0}),
        ("COPS", {"MODEL.COPS.TRAINING": "pretrain"}),
        ("COPS", {"MODEL.COPS.BACKWARD.WARM_START": True}),
        ("UNIFIED", {"MODEL.UNIFIED.DECODER.IN_FEATURES": "('p9',)"}),
        ("UNIFIED", {"MODEL.FPN.IN_FEATURES": "['res3', 'res4', 'res5']"}),
        ("UNIFIED", {"MODEL.RPN.IN_FEATURES": "[['p2']]"}),
        ("UNIFIED", {"MODEL.UNIFIED.AFFINITY.CHANNELS": -1}),
        ("UNIFIED", {"MODEL.UNIFIED.DETECTION.TRAIN_TOPK": 0}),
        ("UNIFIED", {"MODEL.UNIFIED.PANOPTIC.ENABLED": False}),
        ("UNIFIED", {"MODEL.UNIFIED.INFERENCE.METHOD": "heuristic", "MODEL.MASK_ON": False}),
        ("UNIFIED", {"MODEL.BACKBONE.FREEZE_AT": 99}),
        ("UNIFIED", {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 5.0}),
        ("UNIFIED", {"MODEL.RESNETS.NORM": "foo"}),
        ("UNIFIED", {"MODEL.PIXEL_STD": "('a', 1, 1)"}),
        ("UNIFIED", {"MODEL.PIXEL_STD": "[-1.0, 1.0, 1.0]"}),
        ("UNIFIED", {"INPUT.TEST_SCALE": -1.0}),
        ("UNIFIED", {"INPUT.INTENSITY.PERCENTILES": "('a', 'b')"}),
        ("UNIFIED", {"TEST.BOUNDARY_RATIO": -1.0}),
        ("UNIFIED", {"TEST.EXPECTED_RESULTS": "[['a']]"}),
        ("UNIFIED", {"MODEL.UNIFIED.PANOPTIC.MATCH_IOU": None}),
    ],
)
def test_a_value_that_cannot_be_is_refused_when_a_config_is_loaded(
    system: str, options: dict[str, Any]
) -> None:
    """The sentence names one of the keys, and the choice that it is about."""
    table = [{"name": name, "isthing": name == "a"} for name in "ab"]
    names = "|".join(re.escape(key.rpartition(".")[2]) for key in options)
    with pytest.raises(ValueError, match=rf"(MODEL|INPUT|TEST)\.[A-Z_.]*.*({names}|IN_FEATURES)"):
        load_config(CONFIGS[system], options, table=table)


@pytest.mark.parametrize(
    ("key", "registered"),
    [
        ("MODEL.BACKBONE.NAME", "build_unified_resnet_fpn_backbone"),
        ("MODEL.ROI_MASK_HEAD.NAME", "LovaszMaskHead"),
        ("MODEL.ROI_HEADS.NAME", "UnifiedROIHeads"),
        ("MODEL.RPN.HEAD_NAME", "StandardRPNHead"),
        ("MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator"),
    ],
)
def test_a_name_that_is_not_registered_meets_those_that_are(key: str, registered: str) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(key)} is 'foo': use one of .*{registered}"):
        load_config(CONFIGS["UNIFIED"], {key: "foo"})
