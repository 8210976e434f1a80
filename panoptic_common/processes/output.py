"""The standard streams of a program as users leave them. Standard library only.

The reader of an output may have gone, as in `check_dataset.py ... | head`. A stream may be closed,
as daemons start programs. Or it may take ASCII alone, where a class has another name.
"""

from __future__ import annotations

import io
import os
import select
import sys

UNREAD = 141  # the status that shells give: 128 + SIGPIPE


def complete_streams() -> None:
    r"""See that the standard streams are there, and that they take any text.

    The system gives the number of a closed stream to the next file that is opened. What a library
    writes to its standard error would go there, into a checkpoint for instance. Characters that an
    output does not know are written as escapes, such as \u8eca: results are not lost for a name.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def nobody_reads(error: OSError) -> bool:
    """Tell whether an error is that of an output without a reader; it is thrown away from then on.

    Pipes to other processes break with the same error.
    """
    if not isinstance(error, BrokenPipeError) or not hasattr(select, "poll"):
        return False
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file
        return False
    pipe = select.poll()
    pipe.register(output, 0)  # errors are told without being asked for
    broken = any(event & select.POLLERR for _, event in pipe.poll(0))
    if broken:
        with open(os.devnull, "wb") as nothing:  # Python's own flush at its end would fail again
            os.dup2(nothing.fileno(), output)
    return broken
