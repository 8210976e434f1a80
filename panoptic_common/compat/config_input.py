"""What yacs takes without a word, and what it needs another form of: contents and options.

None of it knows a key of this project.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode as CN

from panoptic_common.values import flatten

Options = Mapping[str, Any] | Sequence[str]

_MISMATCH = re.compile(
    r"Type mismatch \(<class '(.+?)'> vs. <class '(.+?)'>\) with values \((.*) vs. (.*)\) "
    r"for config key: (.*)",
    re.DOTALL,
)
_KINDS = {
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "tuple": "a list",
    "list": "a list",
}


def as_sections(content: Mapping[Any, Any], cfg: CN, above: str = "") -> CN:
    """Turn the contents of a YAML file into a config; "MODEL:" alone is an empty section.

    Raises:
        ValueError: a key is no text or has no value, or a section is none.
    """
    sections = CN()
    for key, value in content.items():
        name = f"{above}{key}"
        if not isinstance(key, str):
            raise ValueError(f"the key {name} is no text: put it in quotes")
        node = cfg.get(key)
        if isinstance(node, CN):
            if not isinstance(value, dict | None):
                raise ValueError(f"{name} is a section of keys, but holds {value!r}")
            sections[key] = as_sections(value or {}, node, f"{name}.")
        elif value is None and node is not None:
            raise ValueError(f"{name} has no value: give it one, or leave it out")
        else:
            value = _as_kind_of(node, value, name)
            sections[key] = CN(value) if isinstance(value, dict) else value
    return sections


def as_words(options: Options) -> list[str]:
    """List options as yacs wants them: key, value, key, value, ...

    Raises:
        ValueError: a key or a value is alone.
    """
    if isinstance(options, Mapping):
        return [word for key, value in options.items() for word in (key, str(value))]
    words = [str(word) for word in options]
    if len(words) % 2:
        raise ValueError(f"options are pairs of key and value, but {words[-1]!r} is alone")
    return words


def as_values(cfg: CN, words: Sequence[str]) -> list[Any]:
    """Return options with their values decoded, whole numbers as floats where a config has those.

    Raises:
        ValueError: a lone name where a config has a tuple (its comma is forgotten), None, or a
            number too large for a float.
    """
    values: list[Any] = []
    for key, value in zip(words[::2], words[1::2], strict=True):
        node: Any = cfg
        for name in key.split("."):
            node = node.get(name) if isinstance(node, CN) else None
        decoded = CN._decode_cfg_value(value)
        if isinstance(node, tuple | list) and isinstance(decoded, str | int | float):
            raise ValueError(f'{key} is a list, write "({decoded!r},)" instead of {value}')
        if decoded is None and node is not None:  # yacs would take it for any kind
            raise ValueError(f"{key} has no value: give it one, or leave it out")
        converted = _as_kind_of(node, decoded, key)
        values += [key, value if converted is decoded else converted]
    return values


def _as_kind_of(node: Any, value: Any, key: str) -> Any:
    """Return the value, as a float where the config has one and the value is a whole number."""
    if not isinstance(node, float) or type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{key} is too large a number") from None


def refusal_of(error: Exception, cfg: CN) -> str:
    """Say what yacs found wrong: of a missing key which one may be meant, and what a value must be.

    Args:
        error: that yacs or this module raised.
        cfg: that was merged into.
    """
    text = str(error.args[0] if error.args else error)
    if mismatch := _MISMATCH.fullmatch(text):
        wanted, given, default, value, key = mismatch.groups()
        kinds = [_KINDS.get(kind, "a section of keys") for kind in (wanted, given)]
        said = f"{value}, " if value and "\n" not in value else ""
        example = f", such as {default}" if default and "\n" not in default else ""
        return f"{key} is {said}{kinds[1]}: give {kinds[0]}{example}"
    introduction, _, key = text.rpartition(": ")
    if introduction not in ("Non-existent key", "Non-existent config key"):
        return text
    keys = set(flatten(cfg))
    known = keys | {name[: at + 1].rstrip(".") for name in keys for at in _dots(name)}
    name = key.rpartition(".")[2]
    elsewhere = [k for k in known if k.rpartition(".")[2] == name]  # in another section
    near = difflib.get_close_matches(key, sorted(elsewhere), n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.8)
    advice = f"did you mean {near[0]}?" if near else "correct it, or leave it out"
    return f"there is no config key {key}: {advice}"


def _dots(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."]
