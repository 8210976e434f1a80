"""A program of this project ends without a traceback while it still imports its libraries.

Importing torch takes seconds, and `main` with its handlers of signals (`stopping`) comes later.
Nothing can be lost yet, so the system's own way to die is right: the shell sees status 130. And a
program that was started in a folder which is gone would be ended by the first library that looks.
Programs that import other libraries first import this module before them. Standard library only.
"""

from __future__ import annotations

import os
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


def require_folder() -> None:
    """End a program of this project with status 2 if the folder that it was started in is gone."""
    try:
        os.getcwd()
    except OSError:
        if _is_a_program():
            name = Path(sys.argv[0]).name
            sentence = f"{name}: the folder that it was started in is gone: change to another one"
            sys.stderr.write(f"{sentence}\n")
            raise SystemExit(2) from None


def _is_a_program() -> bool:
    """Return whether this process was started as a program of this project, or by one."""
    name = getattr(sys, "argv", [""])[0]
    if name == "-m":  # Python still looks for the module
        words = sys.orig_argv
        module = words[words.index("-m") + 1] if "-m" in words else ""
        return module.startswith(("panoptic_common.", "panoptic_tools."))
    path = Path(name)
    try:
        folder = path.resolve().parent
    except OSError:  # a name below a folder that is gone
        folder = path.parent
    return path.name.startswith(_COMMAND) or folder in _PROGRAMS
