"""What a pickle of numeric arrays may make, and what stands for it while it is being made.

The functions below answer the calls that a file asks for (`array_pickle` says why nothing of it is
really called). Their first argument is the machine that reads the file and counts its bytes.
"""

from __future__ import annotations

import collections
import math
import pickle
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

DEPTH = 64  # containers inside one another
_MAX_LENGTH = 1 << 48  # of an axis: longer numbers would only make the product slow
_MAX_KEY = 1 << 31  # greater integers could be chosen to collide in a dict
_NUMERIC = frozenset(
    ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
)


class UnsafePickle(pickle.UnpicklingError):
    """A pickle names something that could run code, or that no file of weights needs."""


class Machine(Protocol):
    """What the answers need of the machine that reads a file."""

    def spend(self, count: int) -> None:
        """Count bytes that are made; raise if the file cannot need so many."""

    def array(self, data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
        """Make an array from bytes, and count them."""

    def items_of(self, value: object) -> list | tuple:
        """Return a list or tuple whose items a container shall get."""


# ---- what stands for numpy's objects ------------------------------------------------------------


class Name:
    """A function or class that the file names; never called."""

    def __init__(self, name: str) -> None:
        self.name = name


class DType:
    """A dtype under construction: its code, such as "f4", then its byte order."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code.lstrip("<>|=") not in _NUMERIC:
            raise UnsafePickle(f"numpy.dtype({_short(code)})")
        self.value = np.dtype(code)

    def build(self, state: object) -> None:
        """Take the byte order of a pickled state; names, fields and objects are refused."""
        if not isinstance(state, tuple) or not 5 <= len(state) <= 9:
            raise pickle.UnpicklingError("the state of a dtype has another form")
        order, inner = state[1], state[2:5]
        if order not in ("<", ">", "|") or any(part is not None for part in inner):
            raise UnsafePickle("numpy.dtype with fields")
        self.value = self.value.newbyteorder(order)


class Array:
    """An array that was announced, and waits for its state."""

    def __init__(self) -> None:
        self.memo_places: list[int] = []


def make_array(data: object, dtype: object, shape: object, order: str) -> np.ndarray:
    """Make an array of its own from bytes, which must be exactly as many as its shape needs."""
    if isinstance(data, str):  # Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, DType):
        raise pickle.UnpicklingError("an array without bytes or dtype")
    if not isinstance(shape, tuple) or len(shape) > 32 or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array of no known form")
    if not all(type(length) is int and 0 <= length < _MAX_LENGTH for length in shape):
        raise pickle.UnpicklingError("an array whose shape is not made of lengths")
    needed = math.prod(shape) * dtype.value.itemsize
    if needed != len(data):
        raise pickle.UnpicklingError(f"an array of {needed} bytes with {len(data)} in the file")
    if dtype.value.kind == "b":  # a byte of another value than 0 and 1 is no truth value
        flat = np.frombuffer(data, np.uint8) != 0 if needed else np.zeros(0, bool)
    else:
        flat = np.frombuffer(data, dtype.value) if needed else np.zeros(0, dtype.value)
    native = dtype.value.newbyteorder("=")
    return flat.reshape(shape, order=order).astype(native, order="K", copy=True)


def _short(value: object) -> str:
    """Return a value for a message, however long it is."""
    return repr(value[:20]) if isinstance(value, str) else type(value).__name__


# ---- the calls that a file may ask for ----------------------------------------------------------


def _reconstruct(machine: Machine, kind: Name, shape: object = (0,), code: object = b"b") -> Any:
    if not isinstance(kind, Name) or kind.name != "numpy.ndarray":
        raise pickle.UnpicklingError("an array of another class than numpy.ndarray")
    return Array()


def _scalar(machine: Machine, dtype: DType, data: bytes | str) -> Any:
    return machine.array(data, dtype, (), "C")[()]


def _frombuffer(
    machine: Machine,
    data: bytes,
    dtype: DType,
    shape: tuple[int, ...],
    order: str,
    axis_order: tuple[int, ...] | None = None,
) -> np.ndarray:
    if order == "K" and axis_order is not None:  # numpy >= 2.4: neither of C's nor of F's order
        return machine.array(data, dtype, shape, "C").transpose(axis_order)
    return machine.array(data, dtype, shape, order)


def _encode(machine: Machine, text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in another encoding than latin1")
    machine.spend(len(text))
    return text.encode("latin1")


def _bytearray(machine: Machine, data: bytes | str = b"", encoding: str = "latin1") -> bytearray:
    if isinstance(data, str):
        data = _encode(machine, data, encoding)
    if not isinstance(data, bytes):  # a number would allocate that many
        raise pickle.UnpicklingError("a bytearray of something else than bytes")
    machine.spend(len(data))
    return bytearray(data)


def _ordered_dict(machine: Machine, pairs: object = ()) -> collections.OrderedDict:
    result: collections.OrderedDict = collections.OrderedDict()
    for key, value in machine.items_of(pairs):
        result[key_of(key)] = value
    return result


CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.dtype": lambda machine, code, align=False, copy=True: DType(code),
    "collections.OrderedDict": _ordered_dict,
    "_codecs.encode": _encode,
    "builtins.bytes": lambda machine: b"",  # how protocol 2 writes no bytes
    "builtins.bytearray": _bytearray,
    "builtins.set": lambda machine, items=(): set(map(key_of, machine.items_of(items))),
    "builtins.frozenset": lambda machine, items=(): frozenset(map(key_of, machine.items_of(items))),
}


def key_of(value: Any) -> Any:
    """Return a key of a dict, or element of a set, that can be hashed in no time."""
    if value is None or isinstance(value, (str, bytes, float)):
        return value
    if isinstance(value, int) and abs(value) < _MAX_KEY:
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__} as a key")


# ---- the result ---------------------------------------------------------------------------------


def _children(value: object) -> list[Any] | None:
    """Return what a container holds, None for other values."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else None


def _size(value: object) -> int:
    """Return about how many bytes a value takes that is no container."""
    if isinstance(value, (str, bytes, bytearray)):
        return 1 + len(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return 1 + value.nbytes
    if isinstance(value, int):
        return 1 + value.bit_length() // 8
    if value is None or isinstance(value, float):
        return 1
    raise pickle.UnpicklingError(f"an unfinished {type(value).__name__.strip('_')}")


def require_tree(root: object, limit: int) -> None:
    """Raise unless a value is a tree of plain values, not too deep and not too big.

    Containers may be shared. Each is looked at once, yet counted wherever it appears: whoever
    walks the value or copies it must not be made to work without end.

    Args:
        root: the value.
        limit: greatest number of bytes, about.
    """
    measures: dict[int, tuple[int, int]] = {}  # id -> (depth, size)
    entered: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting[-1]
        if id(value) in measures:
            waiting.pop()
        elif (children := _children(value)) is None:
            measures[id(value)] = 0, _size(value)
        elif id(value) not in entered:
            entered.add(id(value))
            if any(id(child) in entered and id(child) not in measures for child in children):
                raise pickle.UnpicklingError("a container that holds itself")
            waiting += [child for child in children if id(child) not in measures]
        else:
            found = [measures[id(child)] for child in children]
            depth = 1 + max((depth for depth, _ in found), default=0)
            size = 1 + sum(size for _, size in found)
            if depth > DEPTH or size > limit:
                raise pickle.UnpicklingError("too deep, or more data than the file holds")
            measures[id(value)] = depth, size
    if measures[id(root)][1] > limit:
        raise pickle.UnpicklingError("more data than the file holds")
