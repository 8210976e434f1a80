"""Ctrl-C while a program of this project still imports its libraries ends it without a traceback.

Importing torch takes seconds, and `main` with its handlers of signals (`stopping`) comes later.
Nothing can be lost yet, so the system's own way to die is right: the shell sees status 130.
Programs that import other libraries first import this module before them. Standard library only.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = (_ROOT / "tools", _ROOT / "panoptic_tools")  # from source, and installed
_COMMAND = "panoptic-"


def die_of_interrupts() -> None:
    """Let SIGINT kill this process, if it is a program of this project and nobody handles it.

    `orderly_end` takes its place as soon as there is something to lose. Where a user's own program
    imports this package nothing changes.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and _is_a_program()
    ):
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_a_program() -> bool:
    """Return whether this process was started as a program of this project, or by one."""
    name = getattr(sys, "argv", [""])[0]
    if name == "-m":  # Python still looks for the module
        words = sys.orig_argv
        module = words[words.index("-m") + 1] if "-m" in words else ""
        return module.startswith(("panoptic_common.", "panoptic_tools."))
    path = Path(name)
    return path.name.startswith(_COMMAND) or path.resolve().parent in _PROGRAMS
