"""What each of several processes does in a training of the tiny system; run by `run_processes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from panoptic_common.compat.amp_trainer import AMPTrainer

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tiny_system import TinyTrainer, forget_tiny, register_tiny_again, tiny_config
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from panoptic_common.engine import stop_hook


class MeanOverImages(nn.Module):
    """Squared error of a linear layer in float64: a mean over the images."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64))

    def forward(self, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        result = torch.stack(batch) @ self.weight.T
        return {"loss": mse_loss(result, torch.ones_like(result))}


def stepped_weights(rank: int, count: int, parts: int) -> torch.Tensor:
    """Weights after three steps of eight images, shared among processes and cut into parts."""
    model = MeanOverImages()
    images = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share = list(images[rank * 8 // count : (rank + 1) * 8 // count])
    wrapped = model if count == 1 else DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = AMPTrainer(wrapped, [share] * 3, optimizer, mixed=False, parts=parts)
    with EventStorage(0):
        for trainer.iter in range(3):
            trainer.run_step()
    return model.weight.detach().clone()


def train_together(root: Path, *opts: Any, resume: bool = False, **limits: Any) -> dict[str, Any]:
    """Train the tiny system in this process and its peers.

    Args:
        root: folder of the run.
        opts: further config keys and values.
        resume: whether to go on from the last checkpoint.
        limits: `max_seconds` of `TinyTrainer`.

    Returns:
        The last iteration, weights and average of this process.
    """
    trainer = TinyTrainer(tiny_config(root, *opts), **limits)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return {
        "iteration": trainer.iter,
        "weights": dict(trainer.checkpointer.model.state_dict()),
        "average": trainer.average and dict(trainer.average.state_dict()["weights"]),
    }


def late_process(root: Path, late: int) -> dict[str, Any]:
    """Train, while the time of one process is up after its fifth step; then go on to the end."""
    looks = iter(range(1000))  # of the clock: at the start, then once per step
    seconds = (lambda: float(next(looks))) if comm.get_rank() == late else (lambda: 0.0)
    with mock.patch.object(stop_hook.time, "monotonic", seconds):
        ended = train_together(root, max_seconds=4.5)
    files = sorted(path.name for path in (root / "out").glob("*.pth"))
    comm.synchronize()  # all have looked before the next run writes
    return {"ended": ended, "files": files, "resumed": train_together(root, resume=True)}


def early_end(root: Path) -> dict[str, Any]:
    """Train with evaluations that give PQ 30, 50, 40, 50 in the main process alone."""
    values = iter([30.0, 50.0, 40.0, 50.0])

    def test(*_: Any) -> dict[str, Any]:
        return {"panoptic_seg": {"PQ": next(values)}} if comm.is_main_process() else {}

    with mock.patch.object(TinyTrainer, "test", test):
        return train_together(
            *(root, "TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "panoptic_seg/PQ"),
            *("TEST.EARLY_STOP", 2),
        )


def averaged(root: Path) -> dict[str, Any]:
    """Train with an average; also tells what state each evaluation has measured."""
    measured = []

    def test(_: Any, __: Any, model: nn.Module) -> dict[str, Any]:
        state = getattr(model, "module", model).state_dict()
        measured.append({name: value.clone() for name, value in state.items()})
        return {}

    with mock.patch.object(TinyTrainer, "test", test):
        found = train_together(root, "SOLVER.EMA_DECAY", 0.6, "TEST.EVAL_PERIOD", 5)
    return {**found, "measured": measured}


def every_run(rank: int, count: int, root: Path) -> dict[str, Any]:
    """All of it in one start of the processes."""
    register_tiny_again(root)
    found = {
        "stepped": {parts: stepped_weights(rank, count, parts) for parts in (1, 2, 4)},
        "plain": train_together(root / "plain"),
        "parts": train_together(
            *(root / "parts", "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", 2),
        ),
        "late": [late_process(root / f"late{late}", late) for late in range(count)],
        "early": early_end(root / "early"),
        "averaged": averaged(root / "averaged"),
    }
    forget_tiny()
    return found
