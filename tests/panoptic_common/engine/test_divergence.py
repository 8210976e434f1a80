"""A gradient that turns NaN: the older checkpoint survives, and the program says what happened."""

from __future__ import annotations

import os

import pytest
import torch
from tiny_runs import assert_identical, final_state, train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.checkpoint.finite import NotFiniteError, first_not_finite, named_tensors
from panoptic_common.engine.divergence import batch_names

NAME = "backbone.0.weight"


def poisoned(cfg, step: int, monkeypatch, value: float = float("nan")) -> None:
    """Make the gradient of one weight NaN in a step whose losses are all finite."""
    whole = TinyTrainer.build_model.__func__

    def build_model(cls, config):
        model = whole(cls, config)
        calls = iter(range(1000))

        def poison(gradient):
            if next(calls) == step:
                gradient = gradient.clone()
                gradient[0, 0, 0, 0] = value
            return gradient

        model.get_parameter(NAME).register_hook(poison)
        return model

    monkeypatch.setattr(TinyTrainer, "build_model", classmethod(build_model))


# Saves come after iterations 3, 7 and 11 (the last one).
@pytest.mark.parametrize(("step", "last"), [(7, 3), (11, 7), (5, 3), (8, 7)])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_older_checkpoint_survives_and_training_goes_on(
    tiny_root, monkeypatch, caplog, step, last, value
):
    options = ("SOLVER.CHECKPOINT_KEEP", 1)
    whole = train(tiny_config(tiny_root / "whole", *options))
    cfg = tiny_config(tiny_root / "run", *options)
    with monkeypatch.context() as patch:
        poisoned(cfg, step, patch, value)
        with pytest.raises(NotFiniteError) as caught:
            train(cfg)
    sentence = str(caught.value)
    assert f"in iteration {step} with" in sentence and f"{NAME} is not finite" in sentence
    names = {os.path.basename(name) for name in whole.model.steps_seen[step]}
    assert all(name in sentence for name in names) and "\n" not in sentence
    assert not [record for record in caplog.records if record.exc_info]
    files = sorted(path.name for path in (tiny_root / "run/out").glob("*.pth"))
    assert files == [f"model_{last:07d}.pth"]
    train(cfg, resume=True)
    assert_identical(final_state(cfg)["model"], final_state(whole.cfg)["model"])


def test_failure_in_the_last_iteration_is_not_evaluated(tiny_root, monkeypatch):
    cfg = tiny_config(tiny_root)
    poisoned(cfg, 11, monkeypatch)
    evaluated = []
    monkeypatch.setattr(TinyTrainer, "test", classmethod(lambda *_: evaluated.append(1)))
    with pytest.raises(NotFiniteError):
        train(cfg)
    assert evaluated == []


def test_state_of_the_optimizer_alone_is_noticed(tiny_root):
    trainer = train(tiny_config(tiny_root, "DATASETS.TEST", ()))
    before = (tiny_root / "out/model_final.pth").read_bytes()
    state = next(iter(trainer.optimizer.state.values()))
    state["momentum_buffer"][0] = float("inf")
    with pytest.raises(NotFiniteError, match=r"optimizer\.state\.0\.momentum_buffer"):
        trainer.checkpointer.save("model_final", iteration=11)
    assert (tiny_root / "out/model_final.pth").read_bytes() == before


@pytest.mark.parametrize("purpose", ["evaluate", "initialise", "resume"])
def test_weights_that_are_not_finite_are_refused_by_name(tiny_root, purpose):
    trainer = train(tiny_config(tiny_root, "DATASETS.TEST", ()))
    path = tiny_root / "out/model_final.pth"
    contents = torch.load(path, weights_only=True)
    contents["model"]["backbone.1.running_var"][0] = float("nan")
    torch.save(contents, path)
    with pytest.raises(CheckpointError, match=r"first in backbone\.1\.running_var"):
        trainer.checkpointer.load(str(path), purpose=purpose)
    assert first_not_finite(trainer.model.state_dict().items()) is None


def test_names_of_a_batch_are_those_that_the_model_saw(tiny_root):
    trainer = train(tiny_config(tiny_root, "DATASETS.TEST", ()))
    for iteration, seen in enumerate(trainer.model.steps_seen):
        names = [os.path.basename(name) for name in seen]
        assert batch_names(trainer.data_loader, iteration) == names


def test_first_not_finite_looks_at_every_kind_of_tensor():
    huge = torch.tensor([3e38, -3e38])  # finite, though its sum of squares is not
    fine = {"a": huge, "b": torch.zeros(0), "c": torch.arange(3), "d": [huge.double(), 1.0, None]}
    assert first_not_finite(named_tensors(fine)) is None
    for bad in (float("nan"), float("inf"), float("-inf")):
        for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            value = torch.ones(2, 3, dtype=kind)
            value[1, 2] = bad
            assert first_not_finite(named_tensors({**fine, "e": {"f": [value]}})) == "e.f.0"
