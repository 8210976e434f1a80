"""What the values of config keys may be: a table names each key once, with one rule.

yacs compares kinds alone: a share of 2.0, a width of 0 and a list of texts pass. What they break
comes much later, in words of numpy, torch or Detectron2. So each package has a table of its keys,
and looks at it before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from panoptic_common.values import flatten, is_integer, is_number


class Rule(NamedTuple):
    """What a value must be; `advice` says what to give instead."""

    is_right: Callable[[Any], bool]
    advice: str


def require_values(cfg: CfgNode, rules: Mapping[str, Rule]) -> None:
    """Raise ValueError for the first key whose value breaks its rule; it names key and value.

    Args:
        cfg: a config, which may lack keys of the table.
        rules: by the key, such as "SOLVER.GAMMA".
    """
    values = flatten(cfg)
    for key, rule in rules.items():
        if key in values and not rule.is_right(values[key]):
            raise ValueError(f"{key} is {values[key]!r}: {rule.advice}")


def below(prefix: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return a table of a section's keys as one of whole keys: "WEIGHT" as "MODEL.X.WEIGHT"."""
    return {f"{prefix}.{key}": rule for key, rule in rules.items()}


def number(
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    under: float = math.inf,
    note: str = "",
) -> Rule:
    """Make the rule of a finite number.

    Args:
        least: smallest value allowed.
        most: largest value allowed.
        above: a bound that is not allowed itself.
        under: likewise.
        note: what a special value means, such as "0 for none".
    """
    return _in_range("number", is_number, (least, most, above, under), note)


def whole(least: int, most: float = math.inf, *, note: str = "") -> Rule:
    """Make the rule of a whole number; arguments as in `number`."""
    return _in_range("whole number", is_integer, (least, most, -math.inf, math.inf), note)


def one_of(*choices: Any) -> Rule:
    """Make the rule of a choice, of text or numbers."""
    # By kind, too: True equals 1.
    kinds = {type(choice) for choice in choices}
    return Rule(
        lambda value: type(value) in kinds and value in choices,
        f"use one of {choices}",
    )


def or_none(rule: Rule) -> Rule:
    """Make the rule of a value that may be left open, as None."""
    return Rule(lambda value: value is None or rule.is_right(value), f"{rule.advice}, or None")


def several(
    each: Rule,
    advice: str,
    *,
    count: int | None = None,
    may_be_empty: bool = False,
    order: Callable[[Sequence[Any]], bool] = lambda _: True,
) -> Rule:
    """Make the rule of a list.

    Args:
        each: rule of an entry.
        advice: what to give.
        count: of entries; None: any number.
        may_be_empty: whether no entry at all is allowed, too.
        order: tells whether entries that keep `each` go together.
    """

    def is_right(value: Any) -> bool:
        if not isinstance(value, (list, tuple)):
            return False
        if not value:
            return may_be_empty
        fits = count is None or len(value) == count
        return fits and all(each.is_right(entry) for entry in value) and order(value)

    return Rule(is_right, advice)


def ascending(values: Sequence[float]) -> bool:
    """Tell whether no value is below the one before it."""
    return all(a <= b for a, b in zip(values, values[1:], strict=False))


def rising(values: Sequence[float]) -> bool:
    """Tell whether each value is above the one before it."""
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def distinct(values: Sequence[Any]) -> bool:
    """Tell whether no value comes twice."""
    return len(set(values)) == len(values)


TEXT = Rule(lambda value: isinstance(value, str) and bool(value), "give a text")


def _in_range(
    kind: str,
    is_kind: Callable[[Any], bool],
    bounds: tuple[float, float, float, float],
    note: str,
) -> Rule:
    least, most, above, under = bounds
    if -math.inf < least and most < math.inf:
        told = f"from {least:g} to {most:g}"
    else:
        words = [
            f"of {least:g} or more" * (least > -math.inf),
            f"above {above:g}" * (above > -math.inf),
            f"at most {most:g}" * (most < math.inf),
            f"below {under:g}" * (under < math.inf),
        ]
        told = " and ".join(filter(None, words))
    advice = ", ".join(filter(None, [" ".join(filter(None, [f"give a {kind}", told])), note]))
    return Rule(
        lambda value: is_kind(value) and least <= value <= most and above < value < under,
        advice,
    )
