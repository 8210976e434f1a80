"""Nested mappings by dotted keys."""

from __future__ import annotations

from panoptic_common.mappings import flatten


def test_each_value_gets_the_keys_on_the_way_to_it() -> None:
    nested = {"a": {"b": 1, "c": {"d": [2], "e": {}}}, "f": None}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [2], "f": None}


def test_empty_mapping() -> None:
    assert flatten({}) == {}
