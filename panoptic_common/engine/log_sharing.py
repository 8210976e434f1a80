"""One log for Detectron2 and for the packages of this project."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial


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
