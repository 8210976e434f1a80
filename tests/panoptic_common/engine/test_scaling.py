"""Settings fitted to the number of processes, and to a machine without a GPU."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from tiny_system import tiny_config

from panoptic_common.engine.scaling import (
    require_schedule,
    require_trainable,
    scale_to_workers,
    use_cpu_without_cuda,
)


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
        scaled = scale_to_workers(cfg, 2)
    assert "batch_size=4, learning_rate=0.005, max_iter=4000" in caplog.text
    assert cfg.SOLVER.IMS_PER_BATCH == 16  # not changed
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.BASE_LR_END) == (4, 0.005, 0.00025)
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (4000, (2400, 3200), 400)
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (200, 0)
    many = scale_to_workers(cfg, 800)
    assert many.SOLVER.CHECKPOINT_PERIOD == 1  # half an iteration is not "never"
    assert scale_to_workers(cfg, 8) is cfg
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ValueError, match="no multiple of SOLVER.REFERENCE_WORLD_SIZE 8"):
        scale_to_workers(cfg, 2)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert scale_to_workers(cfg, 2) is cfg


def test_cpu_is_used_without_a_gpu(tiny_root, monkeypatch):
    cfg = tiny_config(tiny_root, "MODEL.DEVICE", "cuda")
    cfg.freeze()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert use_cpu_without_cuda(cfg) and cfg.MODEL.DEVICE == "cpu" and cfg.is_frozen()
    assert not use_cpu_without_cuda(cfg)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = tiny_config(Path(tiny_root), "MODEL.DEVICE", "cuda")
    assert not use_cpu_without_cuda(cfg) and cfg.MODEL.DEVICE == "cuda"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("SOLVER.MAX_ITER", 0), "MAX_ITER is 0: give a positive number"),
        (("SOLVER.MAX_ITER", 10**400), "MAX_ITER is 1000.*: give a positive number"),
        (("SOLVER.IMS_PER_BATCH", 0), "IMS_PER_BATCH is 0: give a positive number of images"),
        (("OUTPUT_DIR", ""), "OUTPUT_DIR is '': name a folder"),
        (("OUTPUT_DIR", "a\0b"), "OUTPUT_DIR is 'a.x00b': name a folder"),
        (("SEED", 2**70), "SEED is 1180591620717411303424: give a number below"),
        (("DATALOADER.NUM_WORKERS", -1), "NUM_WORKERS is -1: give a whole number of 0 or more"),
        (("INPUT.MIN_SIZE_TRAIN", ()), r"MIN_SIZE_TRAIN is \(\): give the sizes"),
        (
            ("INPUT.MAX_SIZE_TRAIN", -5),
            "MAX_SIZE_TRAIN is -5: give a whole number of 1 or more, in pixels",
        ),
        (("MODEL.PIXEL_STD", [0.0, 1.0, 1.0]), "PIXEL_STD is .*three, each above 0"),
        (("MODEL.PIXEL_MEAN", [1.0]), "PIXEL_MEAN is .*three"),
        (("SOLVER.IMS_PER_BATCH", 3), "is 3, which 2 processes cannot share equally"),
        # 4 images for 2 processes are 2 each, which are no 4 parts.
        (("SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", 4), "IMS_PER_BATCH 4 a multiple of 8"),
        (("SOLVER.ACCUMULATE", 0), "SOLVER.ACCUMULATE is 0"),
    ],
)
def test_schedules_that_cannot_be_trained_are_refused(tiny_root, opts, message):
    with pytest.raises(ValueError, match=message):
        require_trainable(tiny_config(tiny_root, *opts), 2)


def test_a_negative_number_of_processes_is_refused(tiny_root):
    with pytest.raises(ValueError, match="REFERENCE_WORLD_SIZE is -1: give a number"):
        scale_to_workers(tiny_config(tiny_root, "SOLVER.REFERENCE_WORLD_SIZE", -1), 1)


@pytest.mark.parametrize(
    ("key", "value"), [("MAX_ITER", 0), ("MAX_ITER", -1), ("BASE_LR", 0.0), ("BASE_LR", math.inf)]
)
def test_a_run_that_trains_nothing_is_refused(key, value):
    cfg = CfgNode({"SOLVER": {"MAX_ITER": 1, "BASE_LR": 0.1}})
    require_schedule(cfg)
    cfg.SOLVER[key] = value
    with pytest.raises(ValueError, match=f"SOLVER.{key} is {value}: give a positive number"):
        require_schedule(cfg)
