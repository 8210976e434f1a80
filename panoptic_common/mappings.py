"""Nested mappings, such as configs: their values by one dotted key each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
