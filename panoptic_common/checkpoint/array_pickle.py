"""Pickles of numpy arrays, read by a machine that can make nothing else.

A pickle is a program: it names functions, calls them with arguments of its choosing and hands
states to what they return. To allow a few functions of numpy is not enough. numpy's own
`__setstate__` believes the state of a dtype or an array. A forged one makes it read memory at
an address from the file.

So nothing of a file is ever called here. The opcodes are interpreted one by one. What the file
names becomes a mark, and a call of a mark is answered by a function of this module:

- an array comes from bytes of the file alone. Its dtype stands in a list of numeric ones, and its
  shape must need exactly those bytes;
- a state is taken by marks and unfinished arrays only (that of an OrderedDict is passed over);
- keys are text, bytes and small numbers, so that no key is slow to hash or collides at will;
- arrays, and the result written out as a tree, hold at most `GROWTH` times the bytes of the file.
  The result is at most `DEPTH` containers deep, without a circle.

Text of Python 2 is read as latin-1, as `pickle.load(..., encoding="latin1")` does.
"""

from __future__ import annotations

import codecs
import collections
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from panoptic_common.checkpoint.pickled_values import (
    CALLS,
    Array,
    DType,
    Name,
    UnsafePickle,
    key_of,
    make_array,
    require_tree,
)

GROWTH = 4  # the result's bytes per byte of the file, at most: ASCII data of protocol 2 needs 2
ALLOWANCE = 1 << 16  # bytes beside that, for small files


def load_arrays(data: bytes) -> Any:
    """Read a pickle of numeric arrays, plain values and containers of them.

    Args:
        data: contents of the file.

    Returns:
        What was pickled: None, bool, int, float, text, bytes, arrays and scalars of numpy in the
        machine's byte order. Lists, tuples, sets and dicts of these as well.

    Raises:
        UnsafePickle: it names anything else; the message says what.
        Exception: of nearly any class, for a damaged or forged file.
    """
    value = _Machine(data).run()
    require_tree(value, GROWTH * len(data) + ALLOWANCE)
    return value


# ---- the machine --------------------------------------------------------------------------------


class _Machine:
    """Stack, marks and memo of one pickle (see the standard library's pickletools)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.left = GROWTH * len(data) + ALLOWANCE

    def run(self) -> Any:
        """Interpret until the opcode that ends a pickle."""
        while True:
            opcode = self.take(1)
            if opcode == b".":
                return self.stack.pop()
            if opcode in _VALUES:
                value = _VALUES[opcode](self)  # first: a mark that it takes changes the stack
                self.stack.append(value)
            elif opcode in _ACTIONS:
                _ACTIONS[opcode](self)
            else:
                raise pickle.UnpicklingError(f"the opcode {opcode!r}")

    # ---- bytes ----

    def take(self, count: int) -> bytes:
        """Return the next bytes of the file, or raise if there are fewer."""
        end = self.place + count
        if count < 0 or end > len(self.data):
            raise pickle.UnpicklingError("it ends too early")
        taken = self.data[self.place : end]
        self.place = end
        return taken

    def integer(self, size: int, signed: bool = False) -> int:
        """Read a little-endian integer of that many bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def sized(self, size: int) -> bytes:
        """Read bytes after their number, which itself takes `size` bytes."""
        return self.take(self.integer(size))

    def text(self, size: int) -> str:
        """Read UTF-8 after the number of its bytes."""
        return self.sized(size).decode("utf-8", "surrogatepass")

    def line(self) -> bytes:
        """Read up to the end of the line, without it."""
        end = self.data.find(b"\n", self.place)
        if end < 0:
            raise pickle.UnpicklingError("it ends too early")
        return self.take(end + 1 - self.place)[:-1]

    def decimal(self) -> int:
        """Read an integer in digits; "00" and "01" are truth values of old protocols."""
        line = self.line()
        return line == b"01" if line in (b"00", b"01") else int(line.rstrip(b"L"))

    def quoted(self) -> str:
        """Read a text of Python 2 in quotes, with its escapes."""
        line = self.line().strip()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
            raise pickle.UnpicklingError("a text without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode("latin1")

    # ---- memory ----

    def spend(self, count: int) -> None:
        """Count bytes that are made out of the file's; more than it can need are refused."""
        self.left -= count
        if self.left < 0:
            raise pickle.UnpicklingError("it makes more data than the file holds")

    def array(self, data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
        """Make an array from bytes, and count them."""
        self.spend(len(data))
        return make_array(data, dtype, shape, order)

    def items_of(self, value: object) -> list | tuple:
        """Return a list or tuple whose items a container shall get."""
        if not isinstance(value, (list, tuple)):
            raise pickle.UnpicklingError("a container of something else than a list")
        self.spend(8 * len(value))
        return value

    # ---- the stack ----

    def push_mark(self) -> None:
        """Begin a group of items."""
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Return the items since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self) -> None:
        """Drop the last item, or else the last mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, place: int) -> None:
        """Remember the last item."""
        value = self.stack[-1]
        if isinstance(value, Array):
            value.memo_places.append(place)
        self.memo[place] = value

    def pop_many(self, count: int) -> tuple[Any, ...]:
        """Return the last items."""
        if len(self.stack) < count:
            raise pickle.UnpicklingError("its stack is empty")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def container(self, kind: type) -> Any:
        """Return the last item, which must be a container of that kind."""
        if not isinstance(self.stack[-1], kind):
            raise pickle.UnpicklingError(f"items for a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def set_items(self, items: list[Any] | tuple[Any, ...]) -> None:
        """Put keys and values, in turn, into the dict below them."""
        target = self.container(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def find(self, module: str, name: str) -> Name:
        """Return the mark of a function or class that is answered here."""
        home = (
            "builtins" if module == "__builtin__" else module.replace("numpy._core", "numpy.core")
        )
        full = f"{home}.{name}"
        if full not in CALLS and full != "numpy.ndarray":
            raise UnsafePickle(f"{module}.{name}")
        return Name(full)

    def call(self, function: Any, arguments: Any) -> Any:
        """Answer a call that the file asks for."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call of something that is no function")
        if function.name not in CALLS:
            raise UnsafePickle(function.name)
        return CALLS[function.name](self, *arguments)

    def call_without_keywords(self) -> Any:
        """Answer a call with keyword arguments, of which there may be none."""
        function, arguments, keywords = self.pop_many(3)
        if keywords != {}:
            raise pickle.UnpicklingError("a call with keyword arguments")
        return self.call(function, arguments)

    def build(self) -> None:
        """Give a state to what was made before it."""
        target, state = self.pop_many(2)
        if isinstance(target, Array):
            if not isinstance(state, tuple) or len(state) != 5:
                raise pickle.UnpicklingError("the state of an array has another form")
            _, shape, dtype, is_fortran, data = state
            places = target.memo_places
            target = self.array(data, dtype, shape, "F" if is_fortran else "C")
            self.memo.update(dict.fromkeys(places, target))
        elif isinstance(target, DType):
            target.build(state)
        elif not isinstance(target, collections.OrderedDict):
            raise pickle.UnpicklingError(f"a state for a {type(target).__name__}")
        self.stack.append(target)


_VALUES: dict[bytes, Callable[[_Machine], Any]] = {
    b"N": lambda m: None,
    b"\x88": lambda m: True,
    b"\x89": lambda m: False,
    b"I": _Machine.decimal,
    b"L": _Machine.decimal,
    b"J": lambda m: m.integer(4, signed=True),
    b"K": lambda m: m.integer(1),
    b"M": lambda m: m.integer(2),
    b"\x8a": lambda m: m.integer(m.integer(1), signed=True),
    b"\x8b": lambda m: m.integer(m.integer(4, signed=True), signed=True),
    b"F": lambda m: float(m.line()),
    b"G": lambda m: struct.unpack(">d", m.take(8))[0],
    b"S": _Machine.quoted,
    b"T": lambda m: m.sized(4).decode("latin1"),
    b"U": lambda m: m.sized(1).decode("latin1"),
    b"V": lambda m: m.line().decode("raw-unicode-escape"),
    b"X": lambda m: m.text(4),
    b"\x8c": lambda m: m.text(1),
    b"\x8d": lambda m: m.text(8),
    b"B": lambda m: m.sized(4),
    b"C": lambda m: m.sized(1),
    b"\x8e": lambda m: m.sized(8),
    b"\x96": lambda m: bytearray(m.sized(8)),
    b"]": lambda m: [],
    b"}": lambda m: {},
    b")": lambda m: (),
    b"\x8f": lambda m: set(),
    b"l": lambda m: m.pop_mark(),
    b"t": lambda m: tuple(m.pop_mark()),
    b"d": lambda m: dict(_pairs(m.pop_mark())),
    b"\x91": lambda m: frozenset(map(key_of, m.pop_mark())),
    b"\x85": lambda m: m.pop_many(1),
    b"\x86": lambda m: m.pop_many(2),
    b"\x87": lambda m: m.pop_many(3),
    b"2": lambda m: m.stack[-1],
    b"g": lambda m: m.memo[m.decimal()],
    b"h": lambda m: m.memo[m.integer(1)],
    b"j": lambda m: m.memo[m.integer(4)],
    b"c": lambda m: m.find(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.find(*map(_text, m.pop_many(2))),
    b"R": lambda m: m.call(*m.pop_many(2)),
    b"\x81": lambda m: m.call(*m.pop_many(2)),
    b"\x92": _Machine.call_without_keywords,
    b"i": lambda m: m.call(m.find(m.line().decode(), m.line().decode()), tuple(m.pop_mark())),
}
_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # the protocol
    b"\x95": lambda m: m.take(8),  # the length of a frame
    b"(": _Machine.push_mark,
    b"0": _Machine.pop,
    b"1": _Machine.pop_mark,
    b"p": lambda m: m.put(m.decimal()),
    b"q": lambda m: m.put(m.integer(1)),
    b"r": lambda m: m.put(m.integer(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"a": lambda m: _append(m, m.pop_many(1)),
    b"e": lambda m: _append(m, m.pop_mark()),
    b"s": lambda m: m.set_items(m.pop_many(2)),
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x90": lambda m: _add(m, m.pop_mark()),
    b"b": _Machine.build,
}


def _append(machine: _Machine, items: list[Any] | tuple[Any, ...]) -> None:
    machine.container(list).extend(items)


def _add(machine: _Machine, items: list[Any]) -> None:
    machine.container(set).update(map(key_of, items))


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return [(key_of(k), value) for k, value in zip(items[::2], items[1::2], strict=True)]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise pickle.UnpicklingError("a name that is no text")
    return value
