"""Find and read config files with their _BASE_: as data, from regular files, to an end.

A path names a file of the user's, and where there is none, a config of this project. So
``configs/SYSTEM/scenes/NAME.yaml`` means the same in a checkout and with an installed wheel, on a
command line and behind a _BASE_. ``SYSTEM/scenes/NAME``, as in the model zoo, names it, too.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode as CN

from panoptic_common.coco.user_files import open_regular
from panoptic_common.plain_yaml import parse_yaml

CONFIG_FOLDERS = ("configs", "panoptic_configs")  # in a checkout, and installed from a wheel
_BASE = "_BASE_"
_MOST_FILES = 100  # a chain of _BASE_ has five or six
_WEB = ("http://", "https://")


def find_config(path: str | os.PathLike[str]) -> Path:
    """Find a config file: the path itself, or else the config of this project that it names.

    Args:
        path: such as ``my.yaml``, or ``configs/SYSTEM/scenes/NAME.yaml`` wherever one is.

    Raises:
        FileNotFoundError: neither exists; names a config of this project that is similar.
    """
    path = Path(path)
    found = path if path.is_file() else _shipped(path)
    if found is None:
        raise FileNotFoundError(f"there is no config file {path}: {_advice(path)}")
    return found


def shipped_configs() -> Iterator[str]:
    """Yield the names of this project's configs, such as "SYSTEM/coco/R50", without the Bases."""
    for folder in _shipped_folders():
        for path in folder.rglob("*.yaml"):
            if not path.name.startswith("Base"):
                yield path.relative_to(folder).with_suffix("").as_posix()


def read_yaml(place: str) -> dict[str, Any]:
    """Return what a YAML file and its _BASE_ hold.

    A _BASE_ is a path from the folder of the file that names it, or one as in `find_config`.

    Raises:
        ValueError: naming the file, if it or its _BASE_ cannot be read, or holds no keys.
    """
    return _read(place, [])


def _shipped_folders() -> Iterator[Path]:
    """Yield the folder of this project's configs: one, as a wheel has no `configs`."""
    root = Path(__file__).resolve().parents[2]
    for name in CONFIG_FOLDERS:
        if (root / name).is_dir():
            yield root / name


def _shipped(path: Path) -> Path | None:
    """Return the config of this project that a path names, if one does."""
    if path.is_absolute() or ".." in path.parts:
        return None
    named = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for folder in _shipped_folders():
        for name in (named, named.with_name(f"{named.name}.yaml") if named.name else named):
            if (folder / name).is_file():
                return folder / name
    return None


def _advice(path: Path, named_by: str = "") -> str:
    """Say what to write in place of a path that names no file; `named_by` is the file it is in."""
    beside = {p.name for p in path.parent.glob("*.y*ml") if p != Path(named_by)}
    if near := difflib.get_close_matches(path.name, sorted(beside), n=1, cutoff=0.75):
        return f"did you mean {path.parent / near[0]}?"
    inner = "/".join(path.with_suffix("").parts[-3:])  # ../configs/..., where no checkout is
    names = sorted(shipped_configs())
    near = difflib.get_close_matches(inner, names, n=1, cutoff=0.75)
    if near:
        return f"did you mean configs/{near[0]}.yaml, which comes along?"
    return f"give a path, or a config that comes along such as configs/{names[0]}.yaml"


def _read(place: str, opened: list[str]) -> dict[str, Any]:
    """Read a file and, before it, what its _BASE_ hold.

    Args:
        place: a path or an address.
        opened: all files that were opened before it, the one that was asked for first.
    """
    opened.append(place)
    if len(opened) > _MOST_FILES:
        raise ValueError(f"{opened[0]} is its own {_BASE}, directly or by way of others")
    content = _parsed(place, opened[0])
    if not isinstance(content, dict):
        raise ValueError(f"{place} holds no keys with values: it is no config")
    bases = content.pop(_BASE, [])
    whole: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base:
            raise ValueError(f"{place}: its {_BASE} {base!r} is no path: name a config file")
        _merge(_read(_place_of_base(base, place), opened), whole, place)
    _merge(content, whole, place)
    return whole


def _parsed(place: str, first: str) -> Any:
    """Return what one file holds; `first` is the one that was asked for."""
    try:
        file = CN._open_cfg(place) if place.startswith(_WEB) else open_regular(place)
        with file:
            content = file.read()
    except ValueError as error:  # a folder, a pipe, a device
        raise ValueError(
            str(error) if place == first else f"{first}: its {_BASE} {error}"
        ) from error
    except OSError as error:
        if place == first:
            raise
        advice = f"; {_advice(Path(place), first)}" if isinstance(error, FileNotFoundError) else ""
        raise ValueError(
            f"{first}: its {_BASE} {place} cannot be read: {error.strerror or error}{advice}"
        ) from error
    try:
        return parse_yaml(content if isinstance(content, str) else content.decode("utf-8"))
    except ValueError as error:  # of bytes that are no text, too
        raise ValueError(f"{place} cannot be read as a config: {error}") from error


def _place_of_base(base: str, file: str) -> str:
    """Return the path or address of a _BASE_ that a file names."""
    if base.startswith(_WEB):
        return base
    beside = os.path.join(os.path.dirname(file), os.path.expanduser(base))
    if file.startswith(_WEB) or os.path.lexists(beside):
        return beside
    return os.fspath(_shipped(Path(base)) or beside)


def _merge(new: Mapping[str, Any], into: dict[str, Any], place: str) -> None:
    """Merge sections key by key, in place; all other values replace what was there.

    Args:
        new: of the file at `place`.
        into: what its _BASE_ hold.
        place: named if a section would replace a value.
    """
    for key, value in new.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ValueError(
                    f"{place} cannot be read as a config: {key} is a section of keys here, "
                    f"but one value in its {_BASE}"
                )
            _merge(value, into[key], place)
        else:
            into[key] = value
