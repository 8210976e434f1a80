"""Command lines of studies: the config that one asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from panoptic_common.config import load_config
from panoptic_tools.arguments import Parser, checked


def read_config(parser: Parser, file: str, opts: Sequence[str], **keywords: Any) -> CfgNode:
    """Load a config for a program, which ends if the file or an option is wrong.

    Args:
        parser: of the program.
        file: the config's.
        opts: keys and values by turns.
        **keywords: as for `panoptic_common.config.load_config`.
    """
    return checked(parser, lambda: load_config(file, opts, **keywords))
