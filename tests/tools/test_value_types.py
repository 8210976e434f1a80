"""Types of options: numbers and names that a program can go on with, or a refusal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from panoptic_tools.value_types import camera, finite, number_from, pixel, plain_name


@pytest.mark.parametrize(
    ("take", "text", "value"),
    [
        (finite, "-0.5", -0.5),
        (finite, "1e3", 1000.0),
        (number_from(0), "0", 0.0),
        (pixel, "250,12.5", (250.0, 12.5)),
        (camera, "0", 0),
        (plain_name, "nuclei-2.v1", "nuclei-2.v1"),
    ],
)
def test_what_can_be_is_taken(take: Callable[[str], Any], text: str, value: Any) -> None:
    assert take(text) == value


@pytest.mark.parametrize(
    ("take", "texts"),
    [
        (finite, ["nan", "-NaN", "inf", "-inf", "1e999", "", "ten"]),
        (number_from(0), ["-1", "nan"]),
        (pixel, ["1", "1,2,3", "nan,1", "1,inf", "a,b", ""]),
        (camera, ["-1", "1.5", "999999999999", "", "one", str(2**31)]),
        (plain_name, ["", ".", "..", "a/b", "/a", "a/", "../a", "a\\b", " a", "a\n", "x" * 300]),
    ],
)
def test_what_cannot_be_is_refused(take: Callable[[str], Any], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError):
            take(text)
