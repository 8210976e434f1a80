"""Trainings of the tiny system, also such as end in a crash, and what they leave."""

from __future__ import annotations

import os

import pytest
import torch
from tiny_system import TinyTrainer


def train(
    cfg, resume: bool = False, until: int | None = None, kind: type[TinyTrainer] = TinyTrainer
) -> TinyTrainer:
    """Train; `until` stops before that iteration as a crash would."""
    trainer = kind(cfg)
    trainer.resume_or_load(resume=resume)
    if until is None:
        trainer.train()
        return trainer

    def crash():
        if trainer.iter == until:
            raise KeyboardInterrupt

    trainer._hooks[-1].before_step = crash
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer


def final_state(cfg) -> dict:
    return torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)


def assert_identical(a, b, where: str = "") -> None:
    """Equal bit for bit, through dicts and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, where
        # Compared as bytes: 0.0 and -0.0 are equal, but not identical.
        assert torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (a, b))), where
    else:
        assert a == b, where
