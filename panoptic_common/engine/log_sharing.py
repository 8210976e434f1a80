"""One log for Detectron2 and for the packages of this project, and a screen that can be read.

What Detectron2 says of a run before it begins (environment, config, the layers of the model) takes
hundreds of lines. They belong into the log file.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from functools import partial

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from panoptic_common.config import find_config

logger = logging.getLogger(__name__)

# How the messages of Detectron2 begin that are for the log file only, by their loggers.
_DUMPS = {
    "detectron2": (
        "Rank of current process",
        "Environment info:",
        "Command line arguments:",
        "Contents of args.config_file",
        "Running with full config:",
        "Full config saved to",
    ),
    "detectron2.engine.defaults": ("Model:\n",),
    "detectron2.data.common": ("Serializ",),
}


def set_up_log(cfg: CfgNode, args: Namespace, names: Iterable[str], verbose: bool) -> None:
    """Set up log, OUTPUT_DIR and seeds as Detectron2 does, for our packages, too.

    Args:
        cfg: as it is run.
        args: the command line, which goes into the log; its config file is named by a path then.
        names: of the loggers of further packages.
        verbose: show what Detectron2 tells of environment, config and model on the screen as well.
    """
    if args.config_file:
        args.config_file = str(find_config(args.config_file))  # Detectron2 opens it to log it
    # As `default_setup` does it once more, which then finds it done.
    for handler in setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank()).handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.filters = [] if verbose else [_is_no_dump]
    default_setup(cfg, args)
    for name in names:
        share_log(name)
    if not verbose:
        logger.info("Environment, config and model: %s/log.txt, or --verbose", cfg.OUTPUT_DIR)


def _is_no_dump(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_DUMPS.get(record.name, ("\0",)))


def share_log(name: str) -> None:
    """Send the messages of a package to where Detectron2's go."""
    package_logger = logging.getLogger(name)
    package_logger.setLevel(logging.DEBUG)
    package_logger.handlers = list(logging.getLogger("detectron2").handlers)
    for handler in package_logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            vars(handler)["handleError"] = partial(give_up_log, handler)


def give_up_log(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """Say once that a log cannot be written, where Python would print a traceback per message."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.StreamHandler.handleError(handler, record)
        return
    name = getattr(handler.stream, "name", "the log")
    sys.stderr.write(f"{name} cannot be written to any more ({error})\n")
    # What is still in the buffer, and what comes, goes nowhere: else the end would fail as well.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), handler.stream.fileno())
