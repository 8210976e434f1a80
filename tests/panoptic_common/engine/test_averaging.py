"""Averaged weights: the formula, what is saved and evaluated, and that a resume changes nothing."""

from __future__ import annotations

import copy
import os

import cops_factory
import model_factory
import pytest
import torch
from tiny_runs import assert_identical, final_state, train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.engine.averaging import WeightAverage, build_average

EMA = ("SOLVER.EMA_DECAY", 0.6)


def test_the_average_by_hand():
    """Weights 8, 4, 0: 8; then d = 2/11, 8 + 9/11 (4 - 8) = 52/11; then d = 3/12, 13/11."""
    model = torch.nn.Linear(1, 1)
    average = WeightAverage(model, 0.999)
    for value in (8.0, 4.0, 0.0):
        torch.nn.init.constant_(model.weight, value)
        average.update()
    with average.applied():
        assert float(model.weight.detach()) == pytest.approx(13 / 11)
    assert float(model.weight.detach()) == 0.0


def test_long_runs_forget_by_the_decay():
    """With d = 0.5, which (1 + t) / (10 + t) passes at t = 8: each step halves the distance."""
    model = torch.nn.Linear(1, 1)
    average = WeightAverage(model, 0.5)
    torch.nn.init.constant_(model.weight, 1.0)
    for _ in range(20):
        average.update()
    torch.nn.init.constant_(model.weight, 0.0)
    for _ in range(3):
        average.update()
    average.exchange()
    assert float(model.weight.detach()) == pytest.approx(0.125)


@pytest.mark.parametrize("factory", [model_factory, cops_factory])
def test_the_systems_can_be_averaged(factory):
    """Each entry of a real model: the average of two equal states is that state, to the bit."""
    model = factory.tiny_model()
    before = copy.deepcopy(model.state_dict())
    average = WeightAverage(model, 0.9)
    for _ in range(2):
        average.update()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    with average.applied():
        assert_identical(dict(model.state_dict()), dict(before))


def test_a_resumed_run_ends_in_the_same_state(tiny_root):
    plain, killed = (tiny_config(tiny_root / name, *EMA) for name in ("plain", "killed"))
    train(plain)
    train(killed, until=6)
    train(killed, resume=True)
    for key in ("model", "average", "optimizer", "scheduler"):
        assert_identical(final_state(plain)[key], final_state(killed)[key], key)


def test_the_training_itself_is_not_changed(tiny_root):
    """The weights beside the average are those of a run without one."""
    plain, averaged = tiny_config(tiny_root / "plain"), tiny_config(tiny_root / "ema", *EMA)
    train(plain)
    train(averaged)
    assert_identical(final_state(plain)["model"], final_state(averaged)["average"]["weights"])
    assert final_state(averaged)["average"]["steps"] == 12
    name = "predictor.weight"
    assert not torch.equal(final_state(plain)["model"][name], final_state(averaged)["model"][name])


def test_the_average_is_what_is_evaluated(tiny_root, monkeypatch):
    seen = []

    def test(cls, cfg, model):
        seen.append(copy.deepcopy(model.state_dict()))
        return {}

    monkeypatch.setattr(TinyTrainer, "test", classmethod(test))
    cfg = tiny_config(tiny_root, *EMA)
    trainer = train(cfg)
    assert_identical(dict(seen[-1]), dict(final_state(cfg)["model"]))
    left = dict(trainer.checkpointer.model.state_dict())
    assert_identical(left, dict(final_state(cfg)["average"]["weights"]))


def test_an_average_may_begin_or_end_at_a_resume(tiny_root):
    """Without an average from iteration 4 on, the run ends as one that never had any."""
    plain, without = tiny_config(tiny_root / "plain"), tiny_config(tiny_root / "without", *EMA)
    train(plain)
    train(without, until=6)
    without.SOLVER.EMA_DECAY = 0.0
    train(without, resume=True)
    assert_identical(final_state(plain)["model"], final_state(without)["model"])
    begun = tiny_config(tiny_root / "begun")
    train(begun, until=6)
    begun.SOLVER.EMA_DECAY = 0.6
    train(begun, resume=True)
    state = final_state(begun)
    assert state["average"]["steps"] == 8  # of 12, the checkpoint was after 4
    assert_identical(final_state(plain)["model"], state["average"]["weights"])


@pytest.mark.parametrize(
    "forge",
    [
        lambda average: average.pop("steps"),
        lambda average: average.update(steps=-1),
        lambda average: average.update(weights=[1]),
        lambda average: average["weights"].pop("predictor.bias"),
        lambda average: average["weights"].update({"predictor.bias": torch.zeros(7)}),
        lambda average: average["weights"].update({"predictor.bias": torch.zeros(6).long()}),
        lambda average: average["weights"]["predictor.bias"].fill_(float("nan")),
    ],
)
def test_a_damaged_average_is_refused(tiny_root, forge):
    cfg = tiny_config(tiny_root, *EMA, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ())
    train(cfg)
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    contents = torch.load(path, weights_only=True)
    forge(contents["average"])
    torch.save(contents, path)
    with pytest.raises(CheckpointError, match=r"averag.*(damaged|are damaged)|NaN"):
        TinyTrainer(cfg).resume_or_load(resume=True)


def test_settings_that_make_no_sense_are_refused(tiny_root):
    for decay in (1.0, -0.5):
        with pytest.raises(ValueError, match="give a decay below 1, or 0 for none"):
            build_average(tiny_config(tiny_root, "SOLVER.EMA_DECAY", decay), torch.nn.Linear(1, 1))
    cfg = tiny_config(tiny_root, *EMA, "TEST.PRECISE_BN.ENABLED", True)
    with pytest.raises(ValueError, match="do not go together"):
        build_average(cfg, torch.nn.Linear(1, 1))
    assert build_average(tiny_config(tiny_root), torch.nn.Linear(1, 1)) is None
