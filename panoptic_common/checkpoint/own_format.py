"""What the entries of our checkpoints are, checked before any of them is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from panoptic_common.plain_yaml import parse_yaml
from panoptic_common.values import is_colour, is_integer, is_number

OWN_KEYS = ("model", "class_table", "config", "iteration", "seed")


def is_own(contents: Mapping[str, Any]) -> bool:
    """Tell whether the contents of a file are those of one of our checkpoints."""
    return all(key in contents for key in OWN_KEYS)


def faulty_entry(contents: Mapping[str, Any]) -> str | None:
    """Find the first entry of one of our checkpoints that is of another kind than it must be.

    Args:
        contents: for which `is_own` holds.

    Returns:
        A sentence's part, such as "its 'seed' is no whole number"; None if all are right.
    """
    for key, (is_right, what) in _KINDS.items():
        if key in contents and not is_right(contents[key]):
            return f"its {key!r} is {what}"
    return None


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(key, str) for key in value)


def _is_class_table(value: Any) -> bool:
    """Tell whether it is a list of classes, as `coco.annotations.build_class_table` makes it."""
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("isthing"), int)
        and entry["isthing"] in (0, 1)
        and is_colour(entry.get("color", [0, 0, 0]))
        for entry in value
    )


def _is_config(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return isinstance(parse_yaml(value), dict)
    except ValueError:
        return False


def _is_whole(least: int) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return is_integer(value) and least <= value < 2**63

    return check


def _is_state(value: Any) -> bool:
    return isinstance(value, dict)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (_is_weights, "no dict of weights"),
    "class_table": (_is_class_table, "no list of classes with 'name' and 'isthing'"),
    "config": (_is_config, "no config in YAML"),
    "iteration": (_is_whole(-1), "no number of an iteration"),
    "seed": (_is_whole(0), "no whole number"),
    "value": (is_number, "no finite number"),  # of the metric by which the best model was chosen
    "optimizer": (_is_state, "no state of an optimizer"),
    "scheduler": (_is_state, "no state of a schedule"),
    "grad_scaler": (_is_state, "no state of a loss scale"),
}
