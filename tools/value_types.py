"""Types of options that are no paths: numbers and names, refused when the command line is read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from panoptic_common.values import is_number

_LONGEST_NAME = 200  # bytes; file systems take 255, and endings come on top


def finite(text: str) -> float:
    """Take a number; NaN would pass each comparison with a bound, and infinity is none."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not is_number(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 0.5")
    return number


def number_from(least: float) -> Callable[[str], float]:
    """Make a type that takes a number of `least` or more."""

    def take(text: str) -> float:
        number = finite(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is too small: give {least:g} or more")
        return number

    return take


def pixel(text: str) -> tuple[float, float]:
    """Take the place X,Y of a pixel."""
    try:
        x, y = (finite(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y, such as 250,120") from None
    return x, y


def camera(text: str) -> int:
    """Take the number of a camera; OpenCV has room for 31 bits."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a camera: the first one is 0")
    return int(text)


def plain_name(text: str) -> str:
    """Take a name that files are called by, in a folder that is named elsewhere."""
    is_plain = text.isprintable() and "\\" not in text and Path(text).name == text.strip() == text
    if (
        not is_plain
        or text in ("", ".", "..")
        or len(text.encode(errors="replace")) > _LONGEST_NAME
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no plain name, such as nuclei: give one without folders"
        )
    return text
