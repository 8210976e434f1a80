"""What callers hand over, as arrays and numbers of the types that are read, or one sentence.

numpy has words of its own for what it cannot read, and they name no argument. It also reads what it
should not: a masked array gives up its mask, and a row of another length becomes an object.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt


def plain_array(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Read what a caller gives as an array; no copy where it is one.

    Args:
        name: of the argument, for the sentence.
        values: an array, nested lists, a tensor on the CPU.

    Raises:
        ValueError: entries are masked, or rows differ in length.
        TypeError: numpy cannot read it.
    """
    _refuse_masked(name, values)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(_name_ragged(name, values)) from error
    except (TypeError, RuntimeError, NotImplementedError) as error:  # of tensors, mostly
        reason = str(error).partition("\n")[0].rstrip(".")
        raise TypeError(
            f"{name} cannot be read as an array ({reason}): give a numpy array, of a tensor "
            "that of .detach().cpu().float()"
        ) from error


def _refuse_masked(name: str, values: Any) -> None:
    """Refuse masked entries: what lies below a mask is no value."""
    rows = [values]
    # A list of a million numbers has one or two types.
    if isinstance(values, (list, tuple)) and any(
        issubclass(kind, np.ma.MaskedArray) for kind in set(map(type, values))
    ):
        rows = list(values)
    if any(isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row) for row in rows):
        raise ValueError(
            f"{name} has masked entries, which have no value: give them one by .filled(...)"
        )


def _name_ragged(name: str, values: Any) -> str:
    """Say which row has another length than the first."""
    lengths = [_length(row) for row in values] if isinstance(values, (list, tuple)) else []
    for row, length in enumerate(lengths):
        if length != lengths[0]:
            return (
                f"{name}[{row}] {_in_words(length)}, but {name}[0] {_in_words(lengths[0])}: all "
                "rows must have one length"
            )
    return f"{name} must be an array of numbers, with rows of one length"


def _length(row: Any) -> int | None:
    try:
        return len(row)
    except TypeError:
        return None


def _in_words(length: int | None) -> str:
    return "is a single value" if length is None else f"has {length} entries"


def float_array(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Bring `values` into C-contiguous float32 or float64; no copy where they already are."""
    array = plain_array(name, values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, not {array.dtype}")
    if array.dtype.char not in "fd":
        # Integers and float16 fit into float64 exactly (int64 up to 2^53).
        with np.errstate(over="ignore"):
            converted = array.astype(np.float64)
        # A longdouble may be too large, and infinity would have another meaning.
        if array.dtype.kind == "f" and (np.isinf(converted) & np.isfinite(array)).any():
            place = np.argwhere(np.isinf(converted) & np.isfinite(array))[0].tolist()
            raise ValueError(f"{name}{place} is too large for float64: rescale the costs")
        array = converted
    # Also brings a foreign byte order into the native one, which is all that Numba reads.
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a number of things as an int.

    Args:
        name: of the argument.
        value: what the caller gave.
        least: the smallest number that makes sense.

    Raises:
        TypeError: it is no integer. (2.0 is none: it may have come from a division.)
        ValueError: it is too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        given = repr(value) if isinstance(value, (str, float, bool)) else type(value).__name__
        raise TypeError(f"{name} must be an integer of at least {least}, not {given}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def is_whole(array: npt.NDArray[Any]) -> bool:
    """Tell whether an array holds integers; an empty list has no type of its own."""
    return array.dtype.kind in "iu" or array.size == 0
