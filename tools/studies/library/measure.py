"""Measure time, peak memory and multiply-adds of named parts of a program.

A part is a span: `with meter.span("backbone"): ...`. Spans may nest, and one name may occur many
times in a run. So one program can be run under a stopwatch, a memory meter and a counter in turn.
None disturbs what another one reads. Seconds and multiply-adds of equal names add up, of peaks the
largest counts.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

WHOLE = "whole"
CPU = torch.device("cpu")
Clock = Callable[[], float]
# "cpu" counts the processor's work, of all threads; it is less disturbed by other programs than
# "wall", but sees nothing of a GPU.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
Span = Callable[[str], AbstractContextManager]


class Meter(ABC):
    """What all meters share: entered, a meter has a span `WHOLE` open.

    Attributes:
        results: the reading of each span by its name, complete once the meter is left.
    """

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    @abstractmethod
    def span(self, name: str) -> AbstractContextManager:
        """Return a context whose reading counts for `name`."""

    def __enter__(self) -> Meter:
        self._whole = self.span(WHOLE)
        self._whole.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._whole.__exit__(*error)


class Stopwatch(Meter):
    """Seconds of each span; on a GPU, of finished work: the device is waited for at both ends."""

    def __init__(self, device: torch.device = CPU, clock: Clock = time.perf_counter) -> None:
        """Set the clock.

        Args:
            device: where the work is done.
            clock: one of `CLOCKS`, or anything that returns seconds.
        """
        super().__init__()
        self.device = device
        self.clock = clock

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the seconds of the context to `name`."""
        start = self._now()
        yield
        self.results[name] = self.results.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


class CudaMemory(Meter):
    """Bytes by which a span's allocations rise, at their peak, above their level at its start."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self._open: list[list[int]] = []  # of every open span, level at the start and peak so far

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Hold the context's peak against that of `name`."""
        self._collect()
        level = torch.cuda.memory_allocated(self.device)
        self._open.append([level, level])
        yield
        self._collect()
        start, peak = self._open.pop()
        self.results[name] = max(self.results.get(name, 0), peak - start)

    def _collect(self) -> None:
        """Hand the peak since the last call to all open spans, and start a new one."""
        torch.cuda.synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device)
        for span in self._open:
            span[1] = max(span[1], peak)
        torch.cuda.reset_peak_memory_stats(self.device)


class CpuMemory(Meter):
    """As `CudaMemory`, for the memory of CPU tensors.

    The profiler records every allocation and release of torch's CPU allocator, scratch space inside
    operators included; the running sum of these is the level. The resident size of the process
    would not do: it also holds what the allocator keeps for later.
    """

    def __init__(self) -> None:
        # The profiler otherwise reports on stderr that it starts, stops and sees no GPU.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        super().__init__()
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __enter__(self) -> Meter:
        self._profile.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._profile.__exit__(*error)
        self._read()

    def span(self, name: str) -> AbstractContextManager:
        """Return a context of the profiler by which `name` is found again."""
        return record_function(f"span:{name}")

    def _read(self) -> None:
        events = self._profile.profiler.kineto_results.events()
        on_cpu = torch.autograd.DeviceType.CPU
        changes = sorted(
            (event.start_ns(), event.nbytes())
            for event in events
            if event.name() == "[memory]" and event.device_type() == on_cpu
        )
        for event in events:
            kind, _, name = event.name().partition(":")
            if kind != "span":
                continue
            start, level, peak = event.start_ns(), 0, 0
            for moment, bytes_more in changes:
                if start <= moment <= start + event.duration_ns():
                    level += bytes_more
                    peak = max(peak, level)
            self.results[name] = max(self.results.get(name, 0), peak)


def memory_meter(device: torch.device) -> CpuMemory | CudaMemory:
    """Return the memory meter for a device."""
    return CudaMemory(device) if device.type == "cuda" else CpuMemory()


def _deform_conv_flops(x, weight, *arguments, out_shape=None, **keywords) -> int:
    """Count those of the product alone, as for a plain convolution: sampling is no product."""
    batch, _, height, width = out_shape
    return 2 * batch * height * width * weight.numel()


class MultiplyAdds(Meter):
    """Multiply-adds of each span in convolutions and matrix products.

    One multiply-add is two floating-point operations. Elementwise work, resampling, RoIAlign, the
    sampling inside deformable convolutions and their backward pass count as nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        mapping = {}
        if hasattr(torch.ops.torchvision, "deform_conv2d"):
            mapping[torch.ops.torchvision.deform_conv2d] = _deform_conv_flops
        self._counter = FlopCounterMode(display=False, custom_mapping=mapping)

    def __enter__(self) -> Meter:
        self._counter.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._counter.__exit__(*error)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the multiply-adds of the context to `name`."""
        before = self._counter.get_total_flops()
        yield
        counted = self._counter.get_total_flops() - before
        self.results[name] = self.results.get(name, 0) + counted // 2


def repeated_times(
    run: Callable[[Stopwatch], object], new_stopwatch: Callable[[], Stopwatch], repeat: int
) -> list[dict[str, float]]:
    """Return the readings of `repeat` runs, each with a stopwatch of its own.

    Args:
        run: enters the stopwatch, and its spans, itself.
        new_stopwatch: makes one.
        repeat: runs that count; one before them does not.
    """
    readings = []
    for _ in range(1 + repeat):
        watch = new_stopwatch()
        run(watch)
        readings.append(watch.results)
    return readings[1:]


def times_in_turn(
    runs: Collection[Callable[[], object]],
    repeat: int,
    new_stopwatch: Callable[[], Stopwatch] = Stopwatch,
) -> list[list[float]]:
    """Time several programs, run in turn so that a busy machine slows all alike.

    Args:
        runs: what to compare.
        repeat: rounds that count; one before them does not.
        new_stopwatch: makes one.

    Returns:
        A list of `repeat` times for each program, in seconds.
    """
    rounds = [[seconds_of(run, new_stopwatch()) for run in runs] for _ in range(1 + repeat)]
    return [list(times) for times in zip(*rounds[1:], strict=True)]


def seconds_of(run: Callable[[], object], stopwatch: Stopwatch | None = None) -> float:
    """Time one run.

    Args:
        run: what to do.
        stopwatch: a new one; None takes the wall clock on the CPU.
    """
    with stopwatch or Stopwatch() as watch:
        run()
    return watch.results[WHOLE]


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Return by how many bytes a run's tensors rise, at their peak, above their level before."""
    with memory_meter(device) as meter:
        run()
    return meter.results[WHOLE]


def multiply_adds(run: Callable[[], object]) -> int:
    """Count the multiply-adds of a run; see `MultiplyAdds` for what counts."""
    with MultiplyAdds() as meter:
        run()
    return meter.results[WHOLE]


def median_range(values: Sequence[float]) -> dict[str, float]:
    """Return {"median", "min", "max"} of repeated readings."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def growth_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return b of the power law y = a x^b that fits best: the slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _status_bytes(field: str) -> int:
    """Read a line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def peak_extra_bytes(call: Callable[[], Any]) -> int | None:
    """Find by how much a call raises the process's peak memory, in bytes; None if not known."""
    try:
        # What earlier calls gave back to the allocator goes back to the system, or it would be
        # used again without a rise.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status_bytes("VmRSS")
    except (OSError, AttributeError):  # not Linux, or not the GNU C library
        call()
        return None
    call()
    return max(_status_bytes("VmHWM") - before, 0)
