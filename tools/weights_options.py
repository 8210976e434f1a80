"""How programs are told which weights to use: a file, an address, or a model that comes along."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from panoptic_common.systems import shipped_models
from panoptic_tools.arguments import Parser


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint`` and ``--model``, one of which `require_weights` wants."""
    parser.add_argument("--checkpoint", default="", help="file of weights, or its address")
    text = "a model that comes along, such as nuclei; list shows them"
    parser.add_argument("--model", default="", metavar="NAME", help=text)


def require_weights(parser: Parser, options: argparse.Namespace) -> None:
    """Make `options.checkpoint` the weights that a command line names; list models if it asks.

    Raises:
        SystemExit: neither option is given, or both are, or there is no such model; or, with status
            0, after the list.
    """
    if options.model == "list":
        print(model_list())
        parser.exit()
    if bool(options.model) == bool(options.checkpoint):
        parser.error("give --checkpoint FILE, or --model NAME (--model list shows the names)")
    if options.model:
        models = shipped_models()
        if options.model not in models:
            parser.error(
                f"there is no model {options.model}: those that come along are "
                f"{', '.join(models) or 'none'}"
            )
        options.checkpoint = str(models[options.model])


def model_list() -> str:
    """Return a table of the models that come along: name, size, and the title of its card."""
    rows = []
    for name, path in shipped_models().items():
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        title = card.splitlines()[0].lstrip("# ")
        rows.append((name, f"{path.stat().st_size / 1e6:.1f} MB", title))
    return tabulate(rows, headers=("model", "size", "what it is"))
