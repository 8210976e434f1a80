"""The form of a JSON that anybody may have written, looked at before its values are used.

A form is one of three. A dict of forms wants each of its keys. A list of one form stands for lists
of any length. All else is one of the kinds below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from panoptic_common.values import is_integer, is_number


class Kind(NamedTuple):
    """A kind of single values.

    Attributes:
        fits: tells whether a value is of the kind.
        name: for messages.
    """

    fits: Callable[[Any], bool]
    name: str


Form: TypeAlias = Kind | dict[str, Any] | list[Any]


def _is_whole(value: Any) -> bool:
    return is_integer(value) and abs(value) < 2**31


def _is_number(value: Any) -> bool:
    return is_number(value) and (isinstance(value, float) or _is_whole(value))


WHOLE = Kind(_is_whole, "a whole number")
POSITIVE = Kind(lambda value: _is_whole(value) and value > 0, "a positive whole number")
NOT_NEGATIVE = Kind(lambda value: _is_number(value) and value >= 0, "a number of 0 or more")
NUMBER = Kind(_is_number, "a finite number")
TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(lambda value: isinstance(value, str), "a text")
THING = Kind(lambda value: value in (0, 1) and isinstance(value, int), "0 or 1")


def choice(*values: str) -> Kind:
    """Make the kind of some texts."""
    return Kind(lambda value: value in values, f"one of {', '.join(values)}")


def form_problem(value: Any, form: Form, place: str) -> str | None:
    """Find the first value that has not the form.

    Args:
        value: as JSON has it.
        form: that it must have.
        place: of the value, for the message, such as "options".

    Returns:
        A sentence's part, such as "options.stride is 0, no positive whole number"; None if all fit.
    """
    if isinstance(form, Kind):
        shown = repr(value)
        shown = shown if len(shown) < 60 else f"{shown[:60]}..."
        return None if form.fits(value) else f"{place} is {shown}, not {form.name}"
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{place} is no list"
        pairs = ((item, form[0], f"{place}[{k}]") for k, item in enumerate(value))
    else:
        if not isinstance(value, dict):
            return f"{place} is no object"
        if absent := [key for key in form if key not in value]:
            return f"{place} lacks {', '.join(absent)}"
        pairs = ((value[key], inner, f"{place}.{key}") for key, inner in form.items())
    return next(filter(None, (form_problem(*pair) for pair in pairs)), None)
