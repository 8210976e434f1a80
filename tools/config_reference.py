#!/usr/bin/env python3
"""Write docs/reference/config.md: all config keys of this project, with defaults and meaning.

    python tools/config_reference.py            write it
    python tools/config_reference.py --check    only tell whether it is up to date

Keys and defaults are those of a complete config. What a key means is the comment above its
assignment, or behind it, in the files that `SOURCES` names. Detectron2's own keys are left out.
Exit status: 1 for `--check` that found a difference.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import panoptic_common.compat

from detectron2.config import CfgNode, get_cfg

from cops.config import add_cops_config
from panoptic_common.values import flatten
from panoptic_tools.arguments import FAULTY, make_parser, orderly
from unified_panoptic.config import add_unified_panoptic_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "config.md"


class Source(NamedTuple):
    """A file that adds keys; `prefixes` say what its variables stand for."""

    title: str
    file: str
    prefixes: dict[str, str]


SOURCES = (
    Source("Keys of both systems", "panoptic_common/config/keys.py", {"cfg": ""}),
    Source("Unified", "unified_panoptic/config.py", {"node": "MODEL.UNIFIED."}),
    Source(
        "COPS",
        "cops/config.py",
        {"cfg": "", "node": "MODEL.COPS.", "head": "MODEL.COPS.{SEMANTIC,AFFINITY}."},
    ),
)
_ASSIGNMENT = re.compile(r"^ +(cfg|node|head)\.([A-Z0-9_.]+) = (.*?)(?:  # (.*))?$")
_SECTION = re.compile(r"^-+ (.*?)(?: -+)?$")

HEAD = """\
# Config keys

What this project adds to Detectron2's config, with the defaults. The configs in `configs/` set what
differs from them, and pairs `KEY VALUE` at the end of a command change single ones. Detectron2's
own keys stand in [its documentation][detectron2]. Symbols and sections are those of the papers.
What is said of a key holds for those below it of which nothing is said.

[detectron2]: https://detectron2.readthedocs.io/en/latest/modules/config.html

"""


class Entry(NamedTuple):
    """A key, or a group of keys, that a file assigns; "{A,B}" in it stands for two keys."""

    key: str
    meaning: str
    section: str


def read_entries(text: str, prefixes: dict[str, str]) -> Iterator[Entry]:
    """Yield the assignments of a file, in its order.

    Args:
        text: Python.
        prefixes: what stands before the keys of each variable.
    """
    section, above = "", []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# "):
            comment = stripped.removeprefix("# ")
            if found := _SECTION.match(comment):
                section, above = found[1], []
                if found[1].count(":") and not comment.endswith("-"):
                    section, _, begun = found[1].partition(": ")
                    above = [begun]  # a comment that begins in the title
            else:
                above.append(comment)
            continue
        if (found := _ASSIGNMENT.match(line)) and found[1] in prefixes:
            told = ". ".join(filter(None, [found[4], " ".join(above)]))
            yield Entry(prefixes[found[1]] + found[2], told, section)
        above = []


def complete_config() -> CfgNode:
    """Return Detectron2's config with the keys of this project and their defaults."""
    cfg = get_cfg()
    add_unified_panoptic_config(cfg)
    add_cops_config(cfg)
    return cfg


def own_keys() -> dict[str, Any]:
    """Return the keys that Detectron2 lacks or has with another default, and their defaults."""
    theirs = flatten(get_cfg())
    return {
        key: value
        for key, value in flatten(complete_config()).items()
        if key not in theirs or theirs[key] != value
    }


def rows_of(entries: Sequence[Entry], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the headings and the rows of a file's tables."""
    named = {entry.key for entry in entries}
    section = None
    for entry in entries:
        key = re.sub(r"{(\w+),\w+}", r"\1", entry.key)  # both have one default
        group = {k: v for k, v in values.items() if k.startswith(key + ".") and k not in named}
        if key not in values and not entry.meaning:
            continue
        if entry.section != section:
            section = entry.section
            title = section[:1].upper() + section[1:]
            yield f"\n### {title}\n\n| key | default | meaning |\n|---|---|---|\n"
        default = f"`{values[key]!r}`" if key in values else ""
        yield f"| `{entry.key}` | {default} | {entry.meaning} |\n"
        yield from (f"| `{below}` | `{value!r}` | |\n" for below, value in group.items())


def page() -> str:
    """Return the page."""
    values, parts = own_keys(), [HEAD]
    for source in SOURCES:
        entries = list(read_entries((ROOT / source.file).read_text("utf-8"), source.prefixes))
        parts += [f"## {source.title}\n", *rows_of(entries, values), "\n"]
    return "".join(parts).rstrip() + "\n"


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("--check", action="store_true", help="write nothing")
    return parser.parse_args(words)


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    options = parse_arguments(words)
    text = page()
    if PAGE.is_file() and PAGE.read_text() == text:
        print(f"{PAGE.name}: up to date")
        return 0
    if options.check:
        print(f"{PAGE.name}: is not as the code has it; run tools/config_reference.py")
        return FAULTY
    PAGE.write_text(text)
    print(f"{PAGE.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
