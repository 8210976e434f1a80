"""The model card: a page of Markdown beside a file of weights that says what it is.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, cut down to what can be known
here: classes, data, quality, licence, how it was made, and with what.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import yaml

from panoptic_common import __version__
from panoptic_common.checkpoint.weight_names import is_counter

_LIBRARIES = ("torch", "torchvision", "detectron2", "numpy")
UNSTATED = "not stated"


@dataclass(frozen=True)
class CardParts:
    """What a file of weights does not say about itself.

    Attributes:
        title: of the page, in one line.
        data: what it was trained on.
        licence: of data and weights.
        command: that trained it.
        results: figures in 0..100 by name, or a text; empty if it was not evaluated.
        notes: further lines, such as how the weights are stored.
        versions: of the libraries, in one line; "" takes those of now.
        model_name: by which it comes along with its system; "" for a file of one's own.
    """

    title: str
    data: str = UNSTATED
    licence: str = UNSTATED
    command: str = UNSTATED
    results: Mapping[str, float] | str = field(default_factory=dict)
    notes: str = ""
    versions: str = ""
    model_name: str = ""


def installed_versions() -> str:
    """Return the versions of Python, this project and the libraries that matter, in one line."""
    found = [f"Python {platform.python_version()}", f"panoptic-detectron2 {__version__}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:  # unpacked, not installed
            found.append(f"{name} of unknown version")
    return ", ".join(found)


def write_card(contents: Mapping[str, Any], parts: CardParts, file_name: str) -> str:
    """Write the text of a model card.

    Args:
        contents: of one of our checkpoints; reads "model", "config", "class_table", "iteration"
            and "seed".
        parts: the rest.
        file_name: of the weights, for the commands that use them.
    """
    weights = contents["model"]
    parameters = sum(value.numel() for name, value in weights.items() if not is_counter(name))
    architecture = yaml.safe_load(contents["config"]).get("MODEL", {}).get("META_ARCHITECTURE")
    rows = [
        ("model", f"{architecture}, {parameters / 1e6:.2f} million parameters"),
        ("data", parts.data),
        ("licence", parts.licence),
        ("trained by", f"`{parts.command}`" if parts.command != UNSTATED else UNSTATED),
        ("iterations, seed", f"{contents['iteration'] + 1}, {contents['seed']}"),
        ("versions", parts.versions or installed_versions()),
    ]
    lines = [f"# {parts.title}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows]
    lines += ["", "## Quality", "", *_results(parts.results)]
    lines += ["", "## Classes", "", *_classes(contents["class_table"])]
    if parts.notes:
        lines += ["", "## Notes", "", parts.notes]
    name = parts.model_name
    option = f"--model {name}" if name else f"--checkpoint {file_name}"
    lines += [
        *("", "## Use", "", "```bash"),
        f"panoptic-demo {option} image.png --output out",
        *("```", "", "```python", "from panoptic_common import load", ""),
        *(f'result = load("{name or file_name}")("image.png")', "```", ""),
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return a text that does not end a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _results(results: Mapping[str, float] | str) -> list[str]:
    """Return the lines of the section on quality."""
    if isinstance(results, str):
        return [results]
    figures = {name: value for name, value in results.items() if math.isfinite(value)}
    if not figures:
        return ["Not evaluated."]
    rows = [f"| {_cell(name)} | {value:.2f} |" for name, value in figures.items()]
    return ["| measure | value |", "|---|---|", *rows]


def _classes(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of classes."""
    rows = [
        f"| {position} | {_cell(entry['name'])} | {'thing' if entry['isthing'] else 'stuff'} |"
        for position, entry in enumerate(table)
    ]
    return ["| | class | kind |", "|---|---|---|", *rows]
