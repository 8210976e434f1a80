"""Settings that depend on the machine: the number of processes, and whether there is a GPU."""

from __future__ import annotations

import math

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from panoptic_common.engine.ranges import require_ranges


def scale_to_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
    """Fit batch size, learning rate and schedule to the number of processes.

    With SOLVER.REFERENCE_WORLD_SIZE set, each process keeps the batch it had there. The learning
    rate follows the total batch, and the schedule is stretched to see as many images. 0 leaves
    everything as it is. Source: Goyal et al., "Accurate, large minibatch SGD", 2017.

    Args:
        cfg: the config; not changed.
        num_workers: processes that train together, 1 or more.

    Raises:
        ValueError: the batch cannot be shared by the reference number of processes, or that is
            negative.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference == 0 or reference == num_workers:
        return cfg
    if reference < 0:
        raise ValueError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}: give a number of processes, or 0 to "
            "scale nothing"
        )
    if cfg.SOLVER.IMS_PER_BATCH % reference:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is no multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE {reference}; set the latter to 0 to scale nothing"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, num_workers)  # a copy; logs what it changed
    frozen = scaled.is_frozen()
    scaled.defrost()
    scaled.SOLVER.BASE_LR_END = cfg.SOLVER.BASE_LR_END * num_workers / reference
    for section, key in (("SOLVER", "CHECKPOINT_PERIOD"), ("TEST", "EVAL_PERIOD")):
        if cfg[section][key] > 0:  # rounded to 0 it would mean "never"
            scaled[section][key] = max(1, scaled[section][key])
    if frozen:
        scaled.freeze()
    return scaled


def require_trainable(cfg: CfgNode, num_workers: int) -> None:
    """Refuse a schedule that no number of processes, or not this one, can train.

    Args:
        cfg: as it is to be trained, scaled.
        num_workers: processes that train together.

    Raises:
        ValueError: there is no iteration, or the processes cannot share the batch equally. Also if
            it is to end early, but nothing tells when.
    """
    solver, test = cfg.SOLVER, cfg.TEST
    if test.EARLY_STOP < 0 or (test.EARLY_STOP and not (test.BEST_METRIC and test.EVAL_PERIOD > 0)):
        raise ValueError(
            f"TEST.EARLY_STOP is {test.EARLY_STOP}: give a number of evaluations, TEST.BEST_METRIC "
            'such as "panoptic_seg/PQ", and TEST.EVAL_PERIOD in iterations'
        )
    require_schedule(cfg)
    require_ranges(cfg)
    batch = solver.IMS_PER_BATCH
    if batch < 1:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}: give a positive number of images")
    if batch % num_workers:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which {num_workers} processes cannot share "
            f"equally: make it a multiple of {num_workers}"
        )
    parts, share = solver.ACCUMULATE, batch // num_workers
    if parts < 1 or share % parts:
        raise ValueError(
            f"SOLVER.ACCUMULATE is {parts}, into which the {share} images that a process has per "
            f"step cannot be divided equally: make SOLVER.IMS_PER_BATCH {batch} a multiple of "
            f"{max(parts, 1) * num_workers}, or choose a divisor of {share}"
        )


def require_schedule(cfg: CfgNode) -> None:
    """Raise ValueError unless a config trains at all: MAX_ITER and BASE_LR are positive."""
    # Neither NaN nor infinity, nor an integer that numpy has none for.
    for key, limit in (("MAX_ITER", 2**63), ("BASE_LR", math.inf)):
        value = cfg.SOLVER[key]
        if not 0 < value < limit:
            raise ValueError(f"SOLVER.{key} is {value}: give a positive number")


def scaling_sentence(cfg: CfgNode, scaled: CfgNode) -> str:
    """Say what `scale_to_workers` made of a config; "" if nothing."""
    keys = ("IMS_PER_BATCH", "MAX_ITER", "BASE_LR", "STEPS", "WARMUP_ITERS")
    changes = [
        f"SOLVER.{key} {cfg.SOLVER[key]} -> {scaled.SOLVER[key]}"
        for key in keys
        if cfg.SOLVER[key] != scaled.SOLVER[key]
    ]
    if not changes:
        return ""
    return (
        f"{scaled.SOLVER.REFERENCE_WORLD_SIZE} processes instead of SOLVER.REFERENCE_WORLD_SIZE "
        f"{cfg.SOLVER.REFERENCE_WORLD_SIZE}: {', '.join(changes)} (0 there scales nothing)"
    )


def use_cpu_without_cuda(cfg: CfgNode) -> bool:
    """Set MODEL.DEVICE to "cpu" if it asks for a GPU that is not there.

    Returns:
        Whether it was changed; the caller logs it, once there is a log.
    """
    if not cfg.MODEL.DEVICE.startswith("cuda") or torch.cuda.is_available():
        return False
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    if frozen:
        cfg.freeze()
    return True
