"""Damaged, forged and odd files of weights, from one good checkpoint, by a seed.

`cases(seed, count, original, canary)` yields a name, a builder that writes the file, and the
weights that a program may load from it.
"""

from __future__ import annotations

import copy
import functools
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

NOT_A_NUMBER = float("nan")
NONSENSE: list[Any] = [
    *(None, 1, -5, 2**70, 1.5, NOT_A_NUMBER, float("inf"), True, "", "x", "\0", b"x", [], {}),
    *([1, "x"], {"x": 1}, {1: 2}, (1,), [None], [[]], [{}], "a: [", "!!python/name:os.system"),
]


class Case(NamedTuple):
    """One file of weights.

    Attributes:
        name: its number and its fault.
        build: writes it to a path.
        weights: what a program may load, by name; a name that is absent must stay fresh. None:
            bits were changed in a format without checksums, so that nobody can tell.
        sound: whether it must be loaded wherever the original would be.
    """

    name: str
    build: Callable[[Path], None]
    weights: dict[str, torch.Tensor] | None
    sound: bool


class Touch:
    """Pickles as a call that creates a file, the canary."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


# ---- of the contents ----------------------------------------------------------------------------


def _some_weight(contents: dict, draw: random.Random) -> str:
    return draw.choice(sorted(contents["model"]))


def top_nonsense(contents: dict, draw: random.Random, _: Path) -> None:
    contents[draw.choice(sorted(contents))] = draw.choice([*NONSENSE, torch.zeros(2)])


def top_missing(contents: dict, draw: random.Random, _: Path) -> None:
    contents.pop(draw.choice(sorted(contents)))


def weight_nonsense(contents: dict, draw: random.Random, _: Path) -> None:
    odd = [*NONSENSE, torch.zeros(3).to_sparse(), torch.zeros(2, dtype=torch.complex64)]
    odd += [torch.zeros(0), torch.ones(2, dtype=torch.bool), torch.zeros(1, 1, 1, 1, 1)]
    contents["model"][_some_weight(contents, draw)] = draw.choice(odd)


def weight_missing(contents: dict, draw: random.Random, _: Path) -> None:
    contents["model"].pop(_some_weight(contents, draw))


def weight_shape(contents: dict, draw: random.Random, _: Path) -> None:
    name = _some_weight(contents, draw)
    value = contents["model"][name]
    contents["model"][name] = draw.choice(
        (value[None], value.reshape(-1)[:1], torch.cat([value.reshape(-1)] * 2))
    )


def weight_not_finite(contents: dict, draw: random.Random, _: Path) -> None:
    names = [n for n, value in contents["model"].items() if value.is_floating_point()]
    value = contents["model"][draw.choice(sorted(names))]
    value.view(-1)[draw.randrange(value.numel())] = draw.choice((NOT_A_NUMBER, float("inf")))


def weight_type(contents: dict, draw: random.Random, _: Path) -> None:
    name = _some_weight(contents, draw)
    kind = draw.choice((torch.float64, torch.float16, torch.bfloat16, torch.int64))
    contents["model"][name] = contents["model"][name].to(kind)


def name_nonsense(contents: dict, draw: random.Random, _: Path) -> None:
    name = _some_weight(contents, draw)
    contents["model"][draw.choice((1, (1, 2), "", None, name.upper()))] = contents["model"].pop(
        name
    )


def nested_nonsense(contents: dict, draw: random.Random, _: Path) -> None:
    """Replace one value somewhere inside optimizer, scheduler or class table."""
    names = [name for name in ("optimizer", "scheduler", "class_table") if name in contents]
    if not names:
        top_nonsense(contents, draw, _)
        return
    node: Any = contents[draw.choice(names)]
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw.choice(keys)
        deeper = isinstance(node[key], (dict, list)) and len(node[key]) > 0
        if not deeper or draw.random() < 0.3:
            node[key] = draw.choice(NONSENSE)
            return
        node = node[key]


def forged(contents: dict, draw: random.Random, canary: Path) -> None:
    place = draw.choice((contents, contents["model"]))
    place[draw.choice(("x", *map(str, place)))] = Touch(canary)


def entry_more(contents: dict, draw: random.Random, _: Path) -> None:
    draw.choice((contents, contents["model"]))["one.more"] = torch.zeros(3)


def other_order(contents: dict, draw: random.Random, _: Path) -> None:
    items = list(contents["model"].items())
    draw.shuffle(items)
    contents["model"] = dict(items)


def untouched(contents: dict, draw: random.Random, _: Path) -> None:
    """A sound file among the others."""


CONTENTS = (
    *(top_nonsense, top_nonsense, top_missing, weight_nonsense, weight_missing, weight_shape),
    *(weight_not_finite, weight_type, name_nonsense, nested_nonsense, nested_nonsense, forged),
    *(forged, entry_more, other_order, untouched),
)
SOUND = ("entry_more", "other_order", "untouched")


# ---- of the file --------------------------------------------------------------------------------


def truncated(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.choice((0, 1, 100, len(data) - 1, draw.randrange(len(data))))])


def flipped(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 4))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def spliced(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place, other, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(99)
    data[place : place + draw.choice((0, length))] = data[other : other + length]
    path.write_bytes(data)


def compressed(path: Path, draw: random.Random) -> None:
    with zipfile.ZipFile(path) as archive:
        records = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records:
            archive.writestr(name, data)


def other_kind(path: Path, draw: random.Random) -> None:
    """Text, an image's header, a zip without a pickle, a pickle of a number, a long hole."""
    kind = draw.randrange(6)
    if kind == 5:
        os.truncate(path, 64 << 30)
    elif kind == 4:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", b"")
    else:
        path.write_bytes(
            (b"<html>404</html>", b"\xff\xd8\xff\xe0JFIF", pickle.dumps(1), b"\0" * 500)[kind]
        )


def special(path: Path, draw: random.Random) -> None:
    kind = draw.randrange(5)
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind < 4:
        path.symlink_to(("/dev/zero", "nowhere")[kind - 2])


FILES = (truncated, truncated, flipped, flipped, flipped, spliced, compressed, other_kind, special)


# ---- all of them --------------------------------------------------------------------------------


def cases(seed: int, count: int, original: dict[str, Any], canary: Path) -> Iterator[Case]:
    """Yield the cases; the same for the same seed.

    Args:
        seed: of all choices.
        count: how many.
        original: contents of a good checkpoint, with its weights under "model".
        canary: a file that a forged pickle makes if it is obeyed.
    """
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        fault = draw.choice(draw.choice((CONTENTS, FILES)))
        contents = copy.deepcopy(original)
        if fault in CONTENTS:
            fault(contents, draw, canary)
        form = draw.choice(("zip", "zip", "zip", "legacy", "pkl"))
        if fault in (compressed, untouched, entry_more, other_order):
            form = "zip"
        model = contents.get("model")
        weights = {
            name: value
            for name, value in (model.items() if isinstance(model, dict) else ())
            if isinstance(value, torch.Tensor) and isinstance(name, str)
        }
        build = functools.partial(_build, contents, form, fault, draw)
        if form != "zip" and fault in (flipped, spliced):
            weights = None
        name = f"{number} {fault.__name__} ({form})"
        yield Case(name, build, weights, fault.__name__ in SOUND)


def _build(contents: dict, form: str, fault: Callable, draw: random.Random, path: Path) -> None:
    """Write one file; a program that goes by endings gets the right one from `suffix`."""
    if form == "pkl":
        path.write_bytes(pickle.dumps(_as_arrays(contents), draw.randrange(2, 6)))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=form == "zip")
    if fault in FILES:
        fault(path, draw)


def suffix(case: Case) -> str:
    """The ending of a case's file."""
    return ".pkl" if case.name.endswith("(pkl)") else ".pth"


def _as_arrays(value: Any) -> Any:
    """Tensors as numpy arrays, where numpy has the type."""
    if isinstance(value, torch.Tensor):
        if value.is_sparse or value.dtype == torch.bfloat16:
            return [1.0]
        return np.array(value)
    if isinstance(value, dict):
        return {key: _as_arrays(item) for key, item in value.items()}
    return [_as_arrays(item) for item in value] if isinstance(value, list) else value
