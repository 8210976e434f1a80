"""Ends before the last iteration: when time is up, and when a metric no longer rises."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from detectron2.engine import HookBase
from tiny_runs import assert_identical, final_state, train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.engine import stop_hook
from panoptic_common.engine.scaling import require_trainable
from panoptic_common.engine.training_run import read_metrics
from panoptic_common.processes import stopping


def test_a_run_that_ends_in_time_is_resumed_to_the_same_state(tiny_root, monkeypatch):
    """A clock that shows one second more at each look: five looks fit into 5.5 seconds."""
    plain, limited = tiny_config(tiny_root / "plain"), tiny_config(tiny_root / "limited")
    train(plain)
    seconds = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(stop_hook.time, "monotonic", lambda: float(next(seconds)))
        trainer = TinyTrainer(limited, max_seconds=5.5)
        trainer.resume_or_load(resume=False)
        assert trainer.train() is None  # nothing was evaluated
    out = tiny_root / "limited/out"
    # Looks at 1, 2, ... after that at 0: the sixth, after iteration 5, is the first past 5.5.
    assert (out / "last_checkpoint").read_text() == "model_0000005.pth"
    assert not (out / "model_final.pth").exists()
    train(limited, resume=True)
    for key in ("model", "optimizer", "scheduler"):
        assert_identical(final_state(plain)[key], final_state(limited)[key], key)


def test_time_that_is_up_in_the_last_step_changes_nothing(tiny_root):
    cfg = tiny_config(tiny_root, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()")
    trainer = TinyTrainer(cfg, max_seconds=1e-6)
    trainer.resume_or_load(resume=False)
    assert "panoptic_seg" in trainer.train()
    assert final_state(cfg)["iteration"] == 0


class SignalAfter(HookBase):
    """Sends SIGTERM to this process from the last hook after iteration 1."""

    def after_step(self):
        if self.trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("eval_period", "saved"), [(0, "model_0000002.pth"), (2, None)])
def test_a_signal_between_two_steps_waits_unless_an_evaluation_is_due(
    tiny_root, monkeypatch, eval_period, saved
):
    """Nothing is lost: iteration 2 is saved. An evaluation would take too long to wait for."""
    monkeypatch.setattr(TinyTrainer, "test", classmethod(lambda *_: {}))
    options = ["SOLVER.CHECKPOINT_PERIOD", 1000, "TEST.EVAL_PERIOD", eval_period]
    cfg = tiny_config(tiny_root, *options)
    with stopping.orderly_end(), pytest.raises(SystemExit) as end:
        trainer = TinyTrainer(cfg)
        trainer.register_hooks([SignalAfter()])
        trainer.resume_or_load(resume=False)
        trainer.train()
    assert end.value.code == 128 + signal.SIGTERM
    pointer = tiny_root / "out/last_checkpoint"
    assert (pointer.read_text() if pointer.exists() else None) == saved


def patient(root, **changes):
    options = {"TEST.EVAL_PERIOD": 1, "SOLVER.CHECKPOINT_PERIOD": 1, "TEST.EARLY_STOP": 2}
    words = [word for pair in {**options, **changes}.items() for word in pair]
    return tiny_config(root, "TEST.BEST_METRIC", "panoptic_seg/PQ", *words)


def scripted(monkeypatch, *values: float) -> None:
    """Let the evaluations give these values of PQ, one after the other."""
    left = iter(values)
    monkeypatch.setattr(
        TinyTrainer, "test", classmethod(lambda *_: {"panoptic_seg": {"PQ": next(left)}})
    )


def test_a_run_ends_two_evaluations_after_its_best(tiny_root, monkeypatch):
    """PQ 30, 50, 40, 50: the second best of iteration 1 is not beaten by iterations 2 and 3."""
    scripted(monkeypatch, 30.0, 50.0, 40.0, 50.0)
    cfg = patient(tiny_root)
    results = train(cfg)._last_eval_results
    assert results["panoptic_seg"]["PQ"] == 50.0
    assert final_state(cfg)["iteration"] == 3
    best = torch.load(tiny_root / "out/model_best.pth", weights_only=True)
    assert (best["iteration"], best["value"]) == (1, 50.0)


def test_a_resumed_run_counts_what_was_before(tiny_root, monkeypatch):
    """PQ 30, 50, 40, [killed and resumed] 45: ends after iteration 3, as without the kill."""
    scripted(monkeypatch, 30.0, 50.0, 40.0, 45.0)
    cfg = patient(tiny_root)
    train(cfg, until=3)
    train(cfg, resume=True)
    assert final_state(cfg)["iteration"] == 3
    lines = read_metrics(tiny_root / "out/metrics.json")
    found = [line["panoptic_seg/PQ"] for line in lines if "panoptic_seg/PQ" in line]
    assert found == [30.0, 50.0, 40.0, 45.0]  # none is lost


def test_values_that_do_not_exist_are_never_the_best(tiny_root, monkeypatch):
    scripted(monkeypatch, 30.0, math.nan, math.nan)
    cfg = patient(tiny_root)
    train(cfg)
    assert final_state(cfg)["iteration"] == 2


@pytest.mark.parametrize(
    "changes", [{"TEST.EVAL_PERIOD": 0}, {"TEST.BEST_METRIC": ""}, {"TEST.EARLY_STOP": -1}]
)
def test_an_early_stop_needs_to_know_by_what(tiny_root, changes):
    with pytest.raises(ValueError, match="TEST.EARLY_STOP is"):
        require_trainable(patient(tiny_root, **changes), 1)
