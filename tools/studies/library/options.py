"""Command lines: a wrong option gets one sentence and exit status 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from detectron2.config import CfgNode

from panoptic_common.config import load_config


class Parser(argparse.ArgumentParser):
    """A parser that complains in one sentence; `--help` says the rest."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def make_parser(document: str | None, *, whole: bool = False) -> Parser:
    """Return a parser that describes a program by its docstring.

    Args:
        document: the docstring.
        whole: show all of it, laid out as it is, and not its first paragraph alone.
    """
    text = document or ""
    if not whole:
        return Parser(description=text.split("\n\n")[0])
    return Parser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def require_at_least(parser: Parser, parsed: argparse.Namespace, least: int, *names: str) -> None:
    """End the program unless each of some numbers, or of their lists, is `least` or more.

    Args:
        parser: of the program.
        parsed: what it has read.
        least: the smallest value allowed.
        names: attributes of `parsed`; None and empty lists pass.
    """
    for name in names:
        value = getattr(parsed, name)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if any(number is not None and number < least for number in numbers):
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")


def require_pairs(parser: Parser, opts: Sequence[str]) -> None:
    """End the program unless config options come in pairs."""
    if len(opts) % 2:
        parser.error("opts are pairs of key and value")


def read_config(parser: Parser, file: str, opts: Sequence[str], **keywords: Any) -> CfgNode:
    """Load a config for a program, which ends if the file or an option is wrong.

    Args:
        parser: of the program.
        file: the config's.
        opts: keys and values by turns.
        **keywords: as for `panoptic_common.config.load_config`.
    """
    return checked(parser, lambda: load_config(file, opts, **keywords))


def checked(parser: Parser, load: Callable[[], Any]) -> Any:
    """Return what a function loads; its ValueError, KeyError or OSError ends the program."""
    try:
        return load()
    except (ValueError, KeyError, OSError, AssertionError) as error:
        sentence = error.args[0] if isinstance(error, KeyError) else error
        parser.error(str(sentence))
