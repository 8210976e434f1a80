#!/usr/bin/env python3
"""Make the notebooks of docs/notebooks from the pages of the documentation.

    python tools/notebooks.py            write them
    python tools/notebooks.py --check    only tell which are not as their page has them

A page is the one source. Its text becomes cells of text, and its blocks become cells to run. Python
stands as it is, without the prompts and the output of doctests. Shell commands become `%%bash`,
preceded by the variables that blocks before have set, as each such cell is a shell of its own. A
block of YAML that begins with `# name.yaml` is written to that file. A comment of the page that
begins with `<!-- notebook` holds blocks for the notebook alone, such as one that makes data. In it,
a line `old => new` replaces a word in the blocks that follow. Exit status: 1 for `--check` that
found a difference.
"""

from __future__ import annotations

import argparse
import doctest
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from panoptic_tools.arguments import FAULTY, make_parser, orderly

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "notebooks"
PAGES = {
    "own_data": "tutorials/own_data.md",
    "nuclei": "tutorials/nuclei.md",
    "solver": "tutorials/solver.md",
    "python": "howto/python.md",
}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
_HIDDEN = re.compile(r"^<!-- notebook\n(.*?)^-->\n?", re.MULTILINE | re.DOTALL)
_REPLACE = re.compile(r"^(.+) => (.+)$", re.MULTILINE)
_ASSIGNMENT = re.compile(r'^(?:export )?[A-Z0-9_]+=(?:"[^"]*"|\S*)$', re.MULTILINE)

SET_UP = """\
# Files go to output/{name} beside this notebook, and `python` is the one that runs it.
import os
import sys
from pathlib import Path

if "START" not in globals():
    START = Path.cwd()
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
folder = START / "output" / "{name}"
folder.mkdir(parents=True, exist_ok=True)
os.chdir(folder)
"""


def cell(kind: str, source: str, *tags: str) -> dict[str, Any]:
    """Return one cell; `kind` is "markdown" or "code"."""
    found: dict[str, Any] = {
        "cell_type": kind,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source.strip("\n").splitlines(keepends=True),
    }
    return found if kind == "markdown" else {**found, "execution_count": None, "outputs": []}


def python_cell(text: str) -> dict[str, Any]:
    """Return a block of Python as a cell; one that shall raise is marked so."""
    if ">>>" not in text:
        return cell("code", text)
    examples = doctest.DocTestParser().get_examples(text)
    raises = any(example.exc_msg for example in examples)
    lines = [_shown(example) for example in examples]
    return cell("code", "".join(lines), *(["raises-exception"] if raises else []))


def _shown(example: doctest.Example) -> str:
    """Return the source of an example, printed where the prompt would show a value."""
    if not example.want or example.exc_msg or re.match(r"(for|with) ", example.source):
        return example.source
    return f"display({example.source.strip()})\n"


def shell_text(text: str) -> str:
    """Return shell commands in the form that runs in a checkout and with a wheel."""
    text = re.sub(r"\bpython tools/studies/(\w+)\.py", r"python -m panoptic_tools.studies.\1", text)
    text = re.sub(r"\bpython tools/(\w+)\.py", r"python -m panoptic_tools.\1", text)
    return text


class Cells:
    """Turns the parts of one page into cells, one after another."""

    def __init__(self) -> None:
        self.variables: list[str] = []
        self.replacements: dict[str, str] = {}

    def of_text(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield the cells of Markdown with blocks."""
        position = 0
        for block in _BLOCK.finditer(text):
            if before := text[position : block.start()].strip():
                yield cell("markdown", before)
            position = block.end()
            yield self._of_block(block[1], block[2])
        if rest := text[position:].strip():
            yield cell("markdown", rest)

    def of_comment(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield the cells of a comment for the notebook alone; its replacements come first."""
        self.replacements.update(_REPLACE.findall(_BLOCK.sub("", text)))
        yield from self.of_text(_REPLACE.sub("", text))

    def _of_block(self, language: str, text: str) -> dict[str, Any]:
        for old, new in self.replacements.items():
            text = text.replace(old, new)
        if language == "python":
            return python_cell(text)
        named = re.match(r"# (\S+\.yaml)\n", text)
        if language == "yaml" and named:
            return cell("code", f"%%writefile {named[1]}\n{text}")
        if language != "bash":
            return cell("markdown", f"```{language}\n{text}```")
        before = "".join(f"{line}\n" for line in self.variables)
        self.variables.extend(_ASSIGNMENT.findall(text))
        return cell("code", f"%%bash\nset -e\n{before}{shell_text(text)}")


def cells_of(page: str, name: str) -> list[dict[str, Any]]:
    """Return the cells of a page.

    Args:
        page: its Markdown.
        name: of the notebook.
    """
    cells, found, position = Cells(), [], 0
    for hidden in _HIDDEN.finditer(page):
        found += [*cells.of_text(page[position : hidden.start()]), *cells.of_comment(hidden[1])]
        position = hidden.end()
    found += cells.of_text(page[position:])
    set_up = SET_UP.format(name=name)
    return [found[0], cell("code", set_up), *found[1:]]


def notebook(name: str) -> str:
    """Return a notebook, without outputs, as the text of its file.

    Args:
        name: a key of `PAGES`.
    """
    page = (DOCS / PAGES[name]).read_text(encoding="utf-8")
    cells = [{"id": f"{name}-{i}", **made} for i, made in enumerate(cells_of(page, name))]
    content = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("--check", action="store_true", help="write nothing")
    return parser.parse_args(words)


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Write or check the notebooks and return the exit status."""
    args = parse_args(words)
    status = 0
    for name in PAGES:
        path, text = FOLDER / f"{name}.ipynb", notebook(name)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        print(f"{path.name}: {'is not as docs/' + PAGES[name] if args.check else 'written'}")
        if args.check:
            status = FAULTY
        else:
            path.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
