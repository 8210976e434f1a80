"""Hooks: which checkpoints are kept, which is the best, and images in TensorBoard."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from tiny_runs import assert_identical, final_state, train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.coco.records import DataFileError
from panoptic_common.engine.hooks import BEST_NAME
from panoptic_common.processes import stopping


def test_old_checkpoints_are_deleted_across_resumes(tiny_root):
    cfg = tiny_config(
        tiny_root, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.CHECKPOINT_KEEP", 2, "DATASETS.TEST", ()
    )
    train(cfg, until=5)
    train(cfg, resume=True, until=8)
    names = sorted(path.name for path in (tiny_root / "out").glob("*.pth"))
    assert names == ["model_0000005.pth", "model_0000007.pth"]
    assert (tiny_root / "out/last_checkpoint").read_text() == "model_0000007.pth"


def test_best_model_is_kept_across_resumes(tiny_root, monkeypatch):
    """PQ 30, 50, [resume] 40, 45: the best is that of iteration 3, and stays."""
    values = iter([30.0, 50.0, 40.0, 45.0])
    monkeypatch.setattr(
        TinyTrainer, "test", classmethod(lambda *_: {"panoptic_seg": {"PQ": next(values)}})
    )
    cfg = tiny_config(
        tiny_root,
        *("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 2),
    )
    cfg.TEST.BEST_METRIC = "panoptic_seg/PQ"
    train(cfg, until=5)
    assert (tiny_root / "out/last_checkpoint").read_text() == "model_0000003.pth"
    train(cfg, resume=True)
    best = torch.load(tiny_root / f"out/{BEST_NAME}.pth", weights_only=True)
    assert (best["iteration"], best["value"]) == (3, 50.0)


def test_images_reach_tensorboard(tiny_root):
    trainer = TinyTrainer(tiny_config(tiny_root, "VIS_PERIOD", 4))
    hook = next(h for h in trainer._hooks if type(h).__name__ == "PredictionImages")
    with EventStorage(0) as storage:
        hook.show(storage)
    names = [name for name, _, _ in storage._vis_data]
    assert names == ["prediction/0", "prediction/1", "prediction/2"]
    image = storage._vis_data[0][1]
    assert image.shape == (3, 48, 64) and image.dtype == np.uint8
    assert trainer.model.training


class FinishedTrainer(TinyTrainer):
    """Its trained models get a bias of 7."""

    calls: ClassVar[list[int]] = []

    @classmethod
    def build_finish_function(cls, cfg):
        def finish(model):
            cls.calls.append(int(model.backbone[1].num_batches_tracked))
            torch.nn.init.constant_(model.predictor.bias, 7.0)

        return finish


@pytest.mark.parametrize("options", [(), ("SOLVER.EMA_DECAY", 0.6)])
def test_the_last_model_is_finished_before_it_is_saved(tiny_root, monkeypatch, options):
    measured = []

    def test(cls, cfg, model):
        measured.append(model.predictor.bias.clone())
        return {}

    monkeypatch.setattr(FinishedTrainer, "test", classmethod(test))
    FinishedTrainer.calls.clear()
    plain, finished = (tiny_config(tiny_root / name, *options) for name in ("plain", "finished"))
    train(plain)
    train(finished, until=9, kind=FinishedTrainer)
    train(finished, resume=True, kind=FinishedTrainer)
    assert FinishedTrainer.calls == [24]  # once, after 12 steps of two images each
    assert measured[-1].tolist() == [7.0] * len(measured[-1])
    expected = final_state(plain)["model"]
    assert not torch.equal(expected["predictor.bias"], measured[-1])
    expected["predictor.bias"] = measured[-1]
    assert_identical(dict(final_state(finished)["model"]), dict(expected))
    train(finished, resume=True, kind=FinishedTrainer)  # there is nothing left to do
    assert FinishedTrainer.calls == [24]
    assert not (tiny_root / "finished/out/model_unfinished.pth").exists()


def _fail(model):
    torch.nn.init.constant_(model.predictor.bias, 3.0)
    raise DataFileError("images/7.png is gone")


def _stop(model):
    torch.nn.init.constant_(model.predictor.bias, 3.0)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("finish", "error"), [(_fail, DataFileError), (_stop, SystemExit)], ids=["error", "signal"]
)
def test_what_was_trained_is_kept_and_finished_at_the_next_resume(
    tiny_root, monkeypatch, caplog, finish, error
):
    whole, ended = (
        tiny_config(tiny_root / name, "SOLVER.EMA_DECAY", 0.6, "SOLVER.CHECKPOINT_PERIOD", 5)
        for name in ("whole", "ended")
    )
    train(whole, kind=FinishedTrainer)
    with monkeypatch.context() as patch:
        patch.setattr(FinishedTrainer, "build_finish_function", classmethod(lambda *_: finish))
        with pytest.raises(error) as caught, stopping.orderly_end():
            train(ended, kind=FinishedTrainer)
    folder = tiny_root / "ended/out"
    if error is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM
    else:
        assert "--resume tries that again" in caplog.text and "7.png" in str(caught.value)
    assert (folder / "last_checkpoint").read_text() == "model_unfinished.pth"
    assert not (folder / "model_final.pth").exists()
    stopping.request.forget()
    trainer = train(ended, resume=True, kind=FinishedTrainer)
    assert trainer._last_eval_results  # the evaluation follows
    for key in ("model", "average", "optimizer", "iteration"):
        assert_identical(final_state(ended)[key], final_state(whole)[key], key)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert not (folder / "model_unfinished.pth").exists()
