"""Time of a device: by the clock on a CPU, by events that nobody waits for on a GPU."""

from __future__ import annotations

import pytest
import torch

from cops.modeling.stopwatch import Stopwatch


class FakeEvent:
    """A CUDA event on a device that is `lag` behind the program."""

    calls: list[str] = []
    recorded = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.calls.append("record")
        FakeEvent.recorded += 1
        self.at = 1000.0 * FakeEvent.recorded

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def elapsed_time(self, other: FakeEvent) -> float:
        assert "synchronize" in self.calls
        return other.at - self.at


def test_a_gpu_is_waited_for_only_when_the_time_is_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "calls", [])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("waits for all"))
    watch = Stopwatch(torch.device("cuda"))
    watch.stop()
    assert FakeEvent.calls == ["record", "record"]
    assert watch.seconds() == 1.0
    assert FakeEvent.calls == ["record", "record", "synchronize"]


def test_a_cpu_is_timed_by_the_clock(monkeypatch):
    times = iter([3.0, 5.5])
    monkeypatch.setattr("cops.modeling.stopwatch.time.perf_counter", lambda: next(times))
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: pytest.fail("there is no GPU"))
    watch = Stopwatch(torch.device("cpu"))
    watch.stop()
    assert watch.seconds() == 2.5
    assert watch.seconds() == 2.5  # also when asked again


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_to_the_end_of_its_kernels():
    x = torch.randn(4096, 4096, device="cuda")
    x @ x
    torch.cuda.synchronize()
    watch = Stopwatch(x.device)
    for _ in range(20):
        x = (x @ x).clamp(-1, 1)
    watch.stop()
    # 20 products of 2 * 4096^3 operations each: no GPU has 10^16 of them a second.
    assert watch.seconds() > 20 * 2 * 4096**3 / 1e16
