"""Values of configs and files: single ones, and nested mappings by dotted keys."""

from __future__ import annotations

import pytest

from panoptic_common.values import flatten, is_colour, is_integer, is_number


@pytest.mark.parametrize(
    ("value", "integer", "number"),
    [
        (0, True, True),
        (-3, True, True),
        (10**400, True, True),  # no float holds it
        (0.5, False, True),
        (96.0, False, True),
        (True, False, False),
        (float("nan"), False, False),
        (float("inf"), False, False),
        ("1", False, False),
        (None, False, False),
        ([1], False, False),
    ],
)
def test_numbers(value, integer, number):
    assert is_integer(value) is integer
    assert is_number(value) is number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0, 128, 255], True),
        ((0, 0, 0), True),
        ([0, 0, 256], False),
        ([0, 0, -1], False),
        ([0, 0], False),
        ([0, 0, 0.0], False),
        ([True, 0, 0], False),
        ("abc", False),
        (None, False),
    ],
)
def test_colours(value, expected):
    assert is_colour(value) is expected


def test_each_value_gets_the_keys_on_the_way_to_it() -> None:
    nested = {"a": {"b": 1, "c": {"d": [2], "e": {}}}, "f": None}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [2], "f": None}


def test_empty_mapping() -> None:
    assert flatten({}) == {}
