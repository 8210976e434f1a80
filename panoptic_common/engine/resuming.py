"""What a resumed run compares with the one it goes on with, and what it drops."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from tabulate import tabulate

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.values import flatten

# Settings that may differ at a resume without changing what is trained.
_FREE_KEYS = {"OUTPUT_DIR", "SEED", "VERSION", "MODEL.WEIGHTS", "MODEL.DEVICE"}


def config_differences(stored: str, cfg: CfgNode) -> list[tuple[str, Any, Any]]:
    """List what a config changes against the YAML of a checkpoint: (key, value there, here)."""
    before, now = flatten(CfgNode.load_cfg(stored)), flatten(cfg)
    return [
        (key, before.get(key, "absent"), now.get(key, "absent"))
        for key in sorted(before.keys() | now.keys())
        if key not in _FREE_KEYS
        and not cfg.key_is_deprecated(key)
        and _listless(before.get(key)) != _listless(now.get(key))
    ]


def differences_table(differences: list[tuple[str, Any, Any]]) -> str:
    """Draw `config_differences` as the table of the log."""
    return tabulate(
        [tuple(map(str, row)) for row in differences],
        headers=("setting", "of the checkpoint", "from now on"),
        tablefmt="pipe",
        disable_numparse=True,
    )


def require_same_optimizer(stored: str, cfg: CfgNode) -> None:
    """Raise CheckpointError if the optimizer's kind differs: its state would mean nothing."""
    before = str(flatten(CfgNode.load_cfg(stored)).get("SOLVER.OPTIMIZER", "SGD"))
    if before.upper() != cfg.SOLVER.OPTIMIZER.upper():
        raise CheckpointError(
            f"the checkpoint is of a run with SOLVER.OPTIMIZER {before}, whose state "
            f"{cfg.SOLVER.OPTIMIZER} cannot use: resume with {before}, or start from its weights "
            "by MODEL.WEIGHTS without --resume"
        )


class Hyperparameters:
    """What a config says of an optimizer and its schedule, to be applied after a checkpoint.

    `load_state_dict` brings the values of the old run back, together with the state that a resume
    is about. A new BASE_LR or WEIGHT_DECAY would be ignored, though log and config name it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: LRMultiplier) -> None:
        """Remember the values; to be made before the checkpoint is loaded.

        Args:
            optimizer: as the config describes it.
            scheduler: of that optimizer.
        """
        self._groups = [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in optimizer.param_groups
        ]
        self._base_lrs = list(scheduler.base_lrs)

    def apply(self, optimizer: torch.optim.Optimizer, scheduler: LRMultiplier) -> None:
        """Set them in optimizer and schedule, which keep their state and their place.

        Args:
            optimizer: that of `__init__`, after the checkpoint was loaded.
            scheduler: that of `__init__`, likewise.
        """
        scheduler.base_lrs = list(self._base_lrs)
        rates = scheduler.get_lr()
        for group, values, rate in zip(optimizer.param_groups, self._groups, rates, strict=True):
            group.update(values, lr=rate)
        scheduler._last_lr = rates


def _listless(value: Any) -> Any:
    """Turn lists into tuples: YAML has lists only, where the config may have tuples."""
    return tuple(_listless(item) for item in value) if isinstance(value, (list, tuple)) else value


def cut_metrics(path: str, start_iteration: int) -> None:
    """Drop the lines of metrics.json that a resumed run will write again, and a torn last one.

    Args:
        path: the file; need not exist.
        start_iteration: the first iteration that is run again.
    """
    if not os.path.isfile(path):
        return
    with open(path, "r+b") as file:
        kept = b"".join(line for line in file if _is_before(line, start_iteration))
        file.seek(0)
        file.write(kept)
        file.truncate()


def _is_before(line: bytes, iteration: int) -> bool:
    """Tell whether a line of metrics.json is whole and about an earlier iteration."""
    try:
        return line.endswith(b"\n") and json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False
