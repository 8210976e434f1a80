"""An output whose reader has gone, as in `check_dataset.py ... | head`. Standard library only."""

from __future__ import annotations

import os
import select
import sys

UNREAD = 141  # the status that shells give: 128 + SIGPIPE


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
