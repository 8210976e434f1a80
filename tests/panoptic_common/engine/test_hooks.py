"""Hooks: which checkpoints are kept, which is the best, and images in TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from tiny_runs import train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.engine.hooks import BEST_NAME


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
