"""Time, peak memory and multiply-adds of named parts of a program.

A part is a span: `with meter.span("backbone"): ...`. Spans may nest, and one name may occur many
times in a run; the same program can so be run under a stopwatch, a memory meter and a counter in
turn, none of which disturbs what another one reads. Seconds and multiply-adds of equal names add
up, of peaks the largest counts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

WHOLE = "whole"
MIB, GIB = 2**20, 2**30
Span = Callable[[str], AbstractContextManager]
Table = list[dict[str, Any]]


class Stopwatch:
    """Seconds of each span; on a GPU, of finished work: the device is waited for at both ends."""

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Args:
        device: where the work is done.
        clock: seconds; `time.process_time` counts the processor's work, of all threads, and is
            less disturbed by other programs, but sees nothing of a GPU.
        """
        self.device = device
        self.clock = clock
        self.results: dict[str, float] = {}

    def __enter__(self) -> Stopwatch:
        self._whole = self.span(WHOLE)
        self._whole.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._whole.__exit__(*error)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.results[name] = self.results.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


class CudaMemory:
    """Bytes by which a span's allocations rise, at their peak, above their level at its start."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.results: dict[str, int] = {}
        self._open: list[list[int]] = []  # of every open span, level at the start and peak so far

    def __enter__(self) -> CudaMemory:
        self._whole = self.span(WHOLE)
        self._whole.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._whole.__exit__(*error)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
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


class CpuMemory:
    """As `CudaMemory`, for the memory of CPU tensors.

    The profiler records every allocation and release of torch's CPU allocator, scratch space inside
    operators included; the running sum of these is the level. The resident size of the process
    would not do: it also holds what the allocator keeps for later.
    """

    def __init__(self) -> None:
        # The profiler otherwise reports on stderr that it starts, stops and sees no GPU.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self.results: dict[str, int] = {}
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __enter__(self) -> CpuMemory:
        self._profile.__enter__()
        self._whole = self.span(WHOLE)
        self._whole.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._whole.__exit__(*error)
        self._profile.__exit__(*error)
        self._read()

    @staticmethod
    def span(name: str) -> AbstractContextManager:
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
    """The memory meter for a device."""
    return CudaMemory(device) if device.type == "cuda" else CpuMemory()


def _deform_conv_flops(x, weight, *arguments, out_shape=None, **keywords) -> int:
    """Of the product alone, as for a plain convolution: sampling is no matrix product."""
    batch, _, height, width = out_shape
    return 2 * batch * height * width * weight.numel()


class MultiplyAdds:
    """Multiply-adds of each span in convolutions and matrix products.

    One multiply-add is two floating-point operations. Elementwise work, resampling, RoIAlign, the
    sampling inside deformable convolutions and their backward pass count as nothing.
    """

    def __init__(self) -> None:
        self.results: dict[str, int] = {}
        mapping = {}
        if hasattr(torch.ops.torchvision, "deform_conv2d"):
            mapping[torch.ops.torchvision.deform_conv2d] = _deform_conv_flops
        self._counter = FlopCounterMode(display=False, custom_mapping=mapping)

    def __enter__(self) -> MultiplyAdds:
        self._counter.__enter__()
        self._whole = self.span(WHOLE)
        self._whole.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._whole.__exit__(*error)
        self._counter.__exit__(*error)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        before = self._counter.get_total_flops()
        yield
        counted = self._counter.get_total_flops() - before
        self.results[name] = self.results.get(name, 0) + counted // 2


def repeated_times(
    run: Callable[[Stopwatch], object], new_stopwatch: Callable[[], Stopwatch], repeat: int
) -> list[dict[str, float]]:
    """Readings of `repeat` runs, each with a stopwatch of its own.

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
    runs: Collection[Callable[[], object]], new_stopwatch: Callable[[], Stopwatch], repeat: int
) -> list[list[float]]:
    """Seconds of several programs, run in turn so that a busy machine slows all alike.

    Args:
        runs: what to compare.
        new_stopwatch: makes one.
        repeat: rounds that count; one before them does not.

    Returns:
        A list of `repeat` times for each program.
    """
    rounds = []
    for _ in range(repeat + 1):
        seconds = []
        for run in runs:
            with new_stopwatch() as watch:
                run()
            seconds.append(watch.results[WHOLE])
        rounds.append(seconds)
    return [list(times) for times in zip(*rounds[1:], strict=True)]


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes by which a run's tensors rise, at their peak, above their level at its start."""
    with memory_meter(device) as meter:
        run()
    return meter.results[WHOLE]


def multiply_adds(run: Callable[[], object]) -> int:
    """Multiply-adds of a run; see `MultiplyAdds` for what counts."""
    with MultiplyAdds() as meter:
        run()
    return meter.results[WHOLE]


def spread(values: Sequence[float]) -> dict[str, float]:
    """{"median", "min", "max"} of repeated readings."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def growth_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """B of the power law y = a x^b that fits best: the slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def format_value(key: str, value: Any) -> str:
    """A reading, or the spread of several, in the unit that its key names."""
    if isinstance(value, dict):
        median, least, greatest = (format_value(key, value[k]) for k in ("median", "min", "max"))
        return f"{median} ({least} to {greatest})"
    if isinstance(value, str):
        return value
    if key.endswith("share"):
        return f"{100 * value:.2f} %"
    if key == "peak bytes" and isinstance(value, int):
        return f"{value / MIB:.1f} MiB" if value < GIB else f"{value / GIB:.2f} GiB"
    if key == "multiply-adds" and isinstance(value, int):
        return f"{value / 1e9:.3f} G"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def format_table(rows: Table) -> str:
    """Rows as a Markdown table; a column for each key that occurs, in order of appearance."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
    for row in rows:
        cells = [format_value(key, row[key]) if key in row else "" for key in keys]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
