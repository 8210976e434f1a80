"""Keys of COPS: those that went, and what the configs of old checkpoints say of them."""

from __future__ import annotations

import logging

import pytest
from cops_factory import tiny_config
from detectron2.config import CfgNode, get_cfg

from cops.config import REMOVED_KEYS, add_cops_config
from panoptic_common.config import load_config
from panoptic_common.engine.resuming import config_differences

OLD_VALUES = {
    "MODEL.COPS.AFFINITY.IN_FEATURES": ["res2", "res3", "res5"],
    "MODEL.COPS.AFFINITY.USE_CLASS_COSTS": True,
    "MODEL.COPS.COST_SCALES": True,
    "MODEL.COPS.INFERENCE.AREA_DIVISOR": "geometric",
    "MODEL.COPS.PRETRAIN.AFFINITY_WEIGHT": 1.0,
    "MODEL.COPS.PRETRAIN.SEMANTIC_WEIGHT": 1.0,
    "MODEL.COPS.SEMANTIC.IN_FEATURES": ["res2", "res3", "res5"],
}


def old_config() -> CfgNode:
    """A config as a checkpoint of an earlier version holds it."""
    stored = CfgNode.load_cfg(tiny_config().dump())
    for key, value in OLD_VALUES.items():
        *parents, name = key.split(".")
        node = stored
        for parent in parents:
            node = node[parent]
        assert name not in node
        node[name] = value
    return CfgNode.load_cfg(stored.dump())


def test_a_config_of_an_old_checkpoint_loads_with_a_warning_for_each_removed_key(caplog):
    assert set(OLD_VALUES) == set(REMOVED_KEYS)
    table = [{"name": f"class {i}", "isthing": i in (1, 3)} for i in range(5)]
    with caplog.at_level(logging.WARNING, logger="yacs.config"):
        cfg = load_config(old_config(), table=table)
    warned = " ".join(record.getMessage() for record in caplog.records)
    assert all(key in warned for key in REMOVED_KEYS)
    assert config_differences(cfg.dump(), tiny_config()) == []


def test_a_key_that_never_was_is_still_an_error():
    stored = old_config()
    stored.MODEL.COPS.COST_SCALE = True
    with pytest.raises(ValueError, match=r"there is no config key MODEL\.COPS\.COST_SCALE:"):
        load_config(stored, table=[])


def test_adding_the_keys_twice_changes_nothing():
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.MODEL.COPS.MIX = 0.5
    add_cops_config(cfg)
    assert cfg.MODEL.COPS.MIX == 0.5
