"""Values of configs and files: what single ones are, nested ones flat. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard


def is_integer(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number; true and false, which Python counts, are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a whole number, or one as pandas writes it: 96.0."""
    return is_integer(value) or (isinstance(value, float) and value.is_integer())


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a finite number, whole or not; true and false are none."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def is_colour(value: Any) -> bool:
    """Tell whether a value is a colour: three whole numbers in 0..255."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(is_integer(channel) and 0 <= channel <= 255 for channel in value)
    )


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings: ``{"a": {"b": 1}, "c": 2}`` becomes ``{"a.b": 1, "c": 2}``.

    An empty mapping leaves no entry.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{below}": item for below, item in flatten(value).items()})
        else:
            flat[key] = value
    return flat
