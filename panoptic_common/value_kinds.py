"""What a single value of a file that anybody may have written is. Standard library only."""

from __future__ import annotations

import math
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
