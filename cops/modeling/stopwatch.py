"""How long a device works on something, without making it wait."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Time from here to `stop`, as the device spends it.

    A GPU works behind the program: kernels are queued, and a clock of the CPU would see how long
    queueing takes. Synchronising at either end would stall the queue in every step, so two CUDA
    events are queued with the kernels instead. Only `seconds` waits, and only for the second event.

    Args:
        device: where the work is done; all but CUDA devices are timed by the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._began = time.perf_counter()
        self._ended = self._began
        if device.type == "cuda":
            self._events = (
                torch.cuda.Event(enable_timing=True),
                torch.cuda.Event(enable_timing=True),
            )
            self._events[0].record()

    def stop(self) -> None:
        """End the time here; does not wait."""
        self._ended = time.perf_counter()
        if self._events is not None:
            self._events[1].record()

    def seconds(self) -> float:
        """Return the seconds between start and stop; ask late, when the device is past both."""
        if self._events is None:
            return self._ended - self._began
        first, last = self._events
        last.synchronize()
        return first.elapsed_time(last) / 1000  # milliseconds
