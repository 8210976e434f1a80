"""Keys of the Unified system: those that older checkpoints still hold are let through."""

from __future__ import annotations

import logging

import pytest
from detectron2.config import get_cfg

from panoptic_common.config import load_config
from unified_panoptic import add_unified_panoptic_config
from unified_panoptic.config import REMOVED_KEYS


def test_adding_the_keys_twice_changes_nothing() -> None:
    cfg = get_cfg()
    add_unified_panoptic_config(cfg)
    dumped = cfg.dump()
    add_unified_panoptic_config(cfg)
    assert cfg.dump() == dumped


@pytest.mark.parametrize("key", REMOVED_KEYS)
def test_a_removed_key_of_an_old_config_is_ignored_with_a_word(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cfg = load_config("configs/unified/scenes/D2.yaml", [f"MODEL.UNIFIED.{key}", "1"])
    assert key in caplog.text
    node = cfg.MODEL.UNIFIED
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    assert last not in node
