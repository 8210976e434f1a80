"""The training loop: scaling to workers, schedules, hooks, and what it reports or refuses."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from tiny_runs import assert_identical, final_state, train
from tiny_system import TinyPanoptic, TinyTrainer, tiny_config

from panoptic_common.engine import trainer as engine
from panoptic_common.engine.scaling import use_cpu_without_cuda

# ---- scaling to the number of workers -----------------------------------------------------------


def test_scaling_to_workers(tiny_root, caplog, monkeypatch):
    """16 images on 8 workers at rate 0.02; 2 workers take a quarter of it for 4 times as long."""
    cfg = tiny_config(
        tiny_root,
        *("SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.02),
        *("SOLVER.BASE_LR_END", 0.001, "SOLVER.MAX_ITER", 1000, "SOLVER.STEPS", "(600, 800)"),
        *("SOLVER.WARMUP_ITERS", 100, "SOLVER.CHECKPOINT_PERIOD", 50, "TEST.EVAL_PERIOD", 0),
    )
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.INFO):
        scaled = engine.scale_to_workers(cfg, 2)
    assert "batch_size=4, learning_rate=0.005, max_iter=4000" in caplog.text
    assert cfg.SOLVER.IMS_PER_BATCH == 16  # not changed
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.BASE_LR_END) == (4, 0.005, 0.00025)
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (4000, (2400, 3200), 400)
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (200, 0)
    many = engine.scale_to_workers(cfg, 800)
    assert many.SOLVER.CHECKPOINT_PERIOD == 1  # half an iteration is not "never"
    assert engine.scale_to_workers(cfg, 8) is cfg
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ValueError, match="no multiple of SOLVER.REFERENCE_WORLD_SIZE 8"):
        engine.scale_to_workers(cfg, 2)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert engine.scale_to_workers(cfg, 2) is cfg


# ---- training -----------------------------------------------------------------------------------


def test_evaluation_and_images_do_not_change_the_training(tiny_root):
    plain = tiny_config(tiny_root / "plain")
    watched = tiny_config(tiny_root / "watched", "TEST.EVAL_PERIOD", 3, "VIS_PERIOD", 2)
    train(plain)
    train(watched)
    assert_identical(final_state(plain)["model"], final_state(watched)["model"])


def test_number_of_loader_processes_does_not_change_the_training(tiny_root):
    cfgs = [tiny_config(tiny_root / str(n), "DATALOADER.NUM_WORKERS", n) for n in (0, 2)]
    for cfg in cfgs:
        train(cfg)
    assert_identical(final_state(cfgs[0])["model"], final_state(cfgs[1])["model"])


def test_training_learns_and_reports(tiny_root):
    cfg = tiny_config(
        tiny_root, "SOLVER.MAX_ITER", 60, "SOLVER.STEPS", "(50,)", "TEST.EVAL_PERIOD", 20
    )
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert results["sem_seg"]["mIoU"] > 20 and 0 <= results["panoptic_seg"]["PQ"] <= 100
    lines = [json.loads(line) for line in (tiny_root / "out/metrics.json").read_text().splitlines()]
    losses = {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
    assert losses[59] < losses[19] and {"lr", "eta_seconds"} <= lines[0].keys()
    assert list((tiny_root / "out").glob("events.out.tfevents.*"))
    assert sum("sem_seg/mIoU" in line for line in lines) == 3


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


def test_amp_runs_in_bfloat16_on_the_cpu(tiny_root, monkeypatch):
    seen = []
    original = TinyPanoptic._scores

    def spy(self, images):
        scores = original(self, images)
        seen.append((self.predictor(torch.zeros(1, 16, 2, 2)).dtype, self.predictor.weight.dtype))
        return scores

    monkeypatch.setattr(TinyPanoptic, "_scores", spy)
    train(
        tiny_config(
            tiny_root, "SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()
        )
    )
    assert set(seen) == {(torch.bfloat16, torch.float32)}


def test_cosine_schedule_ends_at_its_end(tiny_root):
    cfg = tiny_config(
        tiny_root,
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.01),
        *("SOLVER.WARMUP_ITERS", 0),
    )
    trainer = train(cfg)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    # Half-way: (0.05 + 0.01) / 2.
    middle = trainer.scheduler._multiplier(0.5) * 0.05
    assert middle == pytest.approx(0.03)


def test_loss_that_is_not_finite_stops_the_run(tiny_root):
    cfg = tiny_config(tiny_root, "SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_ITERS", 0)
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        train(cfg)


def test_sampler_that_cannot_resume_is_refused(tiny_root):
    cfg = tiny_config(tiny_root, "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    with pytest.raises(ValueError, match="TrainingSampler"):
        TinyTrainer(cfg)


def test_damaged_image_is_named(tiny_root):
    for path in (tiny_root / "panoptic_tiny").glob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"panoptic_tiny.*\.png"):
        train(tiny_config(tiny_root))


# ---- small parts --------------------------------------------------------------------------------


def test_metrics_are_cut_at_the_resumed_iteration(tmp_path):
    path = tmp_path / "metrics.json"
    engine.cut_metrics(str(path), 3)  # nothing there: nothing to do
    lines = [json.dumps({"iteration": i, "x": math.nan}) for i in (0, 4, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"iteration": 1, "lo')
    with open(path, "a") as writer:  # as the run has it open
        engine.cut_metrics(str(path), 3)
        writer.write(lines[3] + "\n")
    kept = [json.loads(line)["iteration"] for line in path.read_text().splitlines()]
    assert kept == [0, 2, 3]


def test_cpu_is_used_without_a_gpu(tiny_root, monkeypatch):
    cfg = tiny_config(tiny_root, "MODEL.DEVICE", "cuda")
    cfg.freeze()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert use_cpu_without_cuda(cfg) and cfg.MODEL.DEVICE == "cpu" and cfg.is_frozen()
    assert not use_cpu_without_cuda(cfg)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = tiny_config(Path(tiny_root), "MODEL.DEVICE", "cuda")
    assert not use_cpu_without_cuda(cfg) and cfg.MODEL.DEVICE == "cuda"
