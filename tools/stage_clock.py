"""What a program of several stages says, with the time since its start."""

from __future__ import annotations

import time
from datetime import timedelta


class Clock:
    """Says what happens, with the time since the start, and keeps the stages' wall times."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        print(f"[{timedelta(seconds=int(time.monotonic() - self.begin))}] {text}", flush=True)

    def mark(self, stage: str) -> None:
        """End a stage, which began with the end of the one before."""
        self.seconds[stage] = time.monotonic() - self.begin - sum(self.seconds.values())
