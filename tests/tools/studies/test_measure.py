"""tools/studies/library/measure.py: every meter against a program whose readings follow by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision

from panoptic_tools.studies.library.measure import (
    WHOLE,
    CpuMemory,
    CudaMemory,
    MultiplyAdds,
    Stopwatch,
    growth_exponent,
    median_range,
    memory_meter,
    multiply_adds,
    peak_memory,
    repeated_times,
    seconds_of,
    times_in_turn,
)

CPU = torch.device("cpu")
MIB = 2**20
FLOATS = MIB // 4  # a tensor of this many single-precision numbers takes 1 MiB


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# ---- stopwatch -------------------------------------------------------------------------------


def test_stopwatch_adds_up_equal_names_and_nests():
    clock = FakeClock()
    with Stopwatch(CPU, clock) as watch:
        for seconds in (1, 2):
            with watch.span("outer"):
                clock.now += seconds
                with watch.span("inner"):
                    clock.now += 10 * seconds
        clock.now += 100
    assert watch.results == {"outer": 33.0, "inner": 30.0, WHOLE: 133.0}


def test_stopwatch_measures_real_time():
    with Stopwatch(CPU) as watch:
        torch.rand(300, 300) @ torch.rand(300, 300)
    assert 0 < watch.results[WHOLE] < 10


def test_repeated_times_drop_the_first_run():
    clock, lengths = FakeClock(), iter([50, 1, 2, 3])

    def run(watch: Stopwatch) -> None:
        with watch:
            clock.now += next(lengths)

    readings = repeated_times(run, lambda: Stopwatch(CPU, clock), 3)
    assert readings == [{WHOLE: 1}, {WHOLE: 2}, {WHOLE: 3}]


def test_seconds_of_one_run():
    clock = FakeClock()

    def run() -> None:
        clock.now += 7

    assert seconds_of(run, Stopwatch(CPU, clock)) == 7
    assert 0 <= seconds_of(lambda: None) < 1


def test_stopwatch_waits_for_a_gpu_at_both_ends(monkeypatch):
    """The clock is read only when the device has finished what it was given."""
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))

    def clock() -> float:
        events.append("read")
        return 0.0

    seconds_of(lambda: events.append("work"), Stopwatch(torch.device("cuda"), clock))
    assert events == ["wait", "read", "work", "wait", "read"]


def test_programs_run_in_turn():
    clock, order = FakeClock(), []

    def program(name: str, seconds: float):
        def run() -> None:
            order.append(name)
            clock.now += seconds + len(order)

        return run

    runs = (program("a", 0), program("b", 100))
    seconds = times_in_turn(runs, 2, lambda: Stopwatch(CPU, clock))
    assert order == ["a", "b"] * 3
    assert seconds == [[3, 5], [104, 106]]


# ---- memory ----------------------------------------------------------------------------------


def memory_program(span) -> None:
    with span("kept"):
        kept = torch.empty(8 * FLOATS)
    with span("both at once"):
        first = torch.empty(2 * FLOATS)
        second = torch.empty(3 * FLOATS)
        with span("inside"):
            torch.empty(FLOATS)
        del first, second
    with span("one after the other"):
        for _ in range(3):
            torch.empty(2 * FLOATS)
    with span("releases"):
        del kept
        torch.empty(FLOATS)
    for size in (4, 1):
        with span("twice"):
            torch.empty(size * FLOATS)


EXPECTED_MIB = {
    "kept": 8,
    "both at once": 6,  # 2 + 3 + 1
    "inside": 1,
    "one after the other": 2,
    "releases": 0,  # 1 MiB more after 8 MiB less
    "twice": 4,
    WHOLE: 14,  # 8 + 6
}


def test_cpu_memory_of_tensors():
    with CpuMemory() as meter:
        memory_program(meter.span)
    assert {name: value / MIB for name, value in meter.results.items()} == EXPECTED_MIB


def test_cpu_memory_sees_scratch_space_inside_operators():
    x, weight = torch.rand(1, 16, 64, 64), torch.rand(16, 16, 3, 3)
    offset = torch.zeros(1, 18, 64, 64)

    def run() -> None:
        torchvision.ops.deform_conv2d(x, offset, weight, padding=1)

    result, columns = 16 * 64 * 64 * 4, 16 * 9 * 64 * 64 * 4
    assert peak_memory(run, CPU) >= result + columns


class FakeGpu:
    """Stands in for the allocator's counters of torch.cuda."""

    def __init__(self) -> None:
        self.allocated = self.peak = 5 * MIB  # something lies there before

    def change(self, mebibytes: float) -> None:
        self.allocated += int(mebibytes * MIB)
        self.peak = max(self.peak, self.allocated)

    def reset(self, device) -> None:
        self.peak = self.allocated


def test_cuda_memory_keeps_the_peaks_of_open_spans_apart(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: gpu.allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: gpu.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", gpu.reset)
    monkeypatch.setattr(torch, "empty", lambda count: Block(gpu, count / FLOATS))
    with CudaMemory(torch.device("cuda")) as meter:
        memory_program(meter.span)
    assert {name: value / MIB for name, value in meter.results.items()} == EXPECTED_MIB


class Block:
    """Memory of a `FakeGpu`, returned when nobody holds it any more."""

    def __init__(self, gpu: FakeGpu, mebibytes: float) -> None:
        self.gpu, self.mebibytes = gpu, mebibytes
        gpu.change(mebibytes)

    def __del__(self) -> None:
        self.gpu.change(-self.mebibytes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_memory_of_tensors():
    device = torch.device("cuda")
    with CudaMemory(device) as meter, meter.span("part"):
        torch.empty(64 * FLOATS, device=device)
    assert meter.results == {"part": 64 * MIB, WHOLE: 64 * MIB}


def test_the_meter_suits_the_device():
    assert isinstance(memory_meter(CPU), CpuMemory)
    assert isinstance(memory_meter(torch.device("cuda")), CudaMemory)


# ---- multiply-adds ---------------------------------------------------------------------------


def test_multiply_adds_by_hand():
    deformable = torchvision.ops.DeformConv2d(8, 16, 3, padding=1)
    with MultiplyAdds() as meter, torch.no_grad():
        with meter.span("product"):
            torch.rand(3, 4) @ torch.rand(4, 5)
        with meter.span("batch of products"):
            torch.rand(2, 3, 4) @ torch.rand(2, 4, 5)
        with meter.span("convolution"):
            torch.nn.Conv2d(8, 16, 3, padding=1)(torch.rand(2, 8, 10, 12))
        with meter.span("deformable"):
            deformable(torch.rand(2, 8, 10, 12), torch.zeros(2, 18, 10, 12))
        with meter.span("none"):
            torch.rand(100, 100).relu().sum()
        with meter.span("product"):
            torch.rand(1, 7) @ torch.rand(7, 1)
    convolution = 2 * 10 * 12 * 16 * 8 * 9
    assert meter.results == {
        "product": 3 * 4 * 5 + 7,
        "batch of products": 2 * 3 * 4 * 5,
        "convolution": convolution,
        "deformable": convolution,
        "none": 0,
        WHOLE: 67 + 120 + 2 * convolution,
    }


def test_multiply_adds_agree_with_fvcore():
    from fvcore.nn import FlopCountAnalysis

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, groups=4),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 6 * 8, 10),
    ).eval()
    image = torch.rand(1, 3, 16, 20)
    analysis = FlopCountAnalysis(model, image).unsupported_ops_warnings(False)
    with torch.no_grad():
        assert multiply_adds(lambda: model(image)) == analysis.total()


# ---- summaries -------------------------------------------------------------------------------


def test_range_and_growth_exponent():
    assert median_range([3.0, 1.0, 10.0]) == {"median": 3.0, "min": 1.0, "max": 10.0}
    x = [1, 2, 5, 9]
    assert growth_exponent(x, [7 * value**1.7 for value in x]) == pytest.approx(1.7)
    assert growth_exponent(x, [4, 4, 4, 4]) == pytest.approx(0)
