"""Devices that torch does not know, or that are not there, are one sentence."""

from __future__ import annotations

from panoptic_common.compat.devices import require_device

import pytest
import torch


def test_the_cpu_is_there() -> None:
    require_device("cpu")


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("gpu", 1, "'gpu' is none that torch knows"),
        ("cuda", 0, "device cuda: torch sees no GPU: use cpu"),
        ("cuda:1", 1, "device cuda:1: torch sees 1 GPU"),
        ("xla", 1, "cannot be used on this machine"),
    ],
)
def test_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=message):
        require_device(name)
