"""An exponential moving average of the weights: smoother than the last step's, for nothing.

After each step t the average moves towards the weights by 1 - d, with d the smaller of the decay
and (1 + t) / (10 + t). So a short run does not go on remembering how it was initialised. Buffers,
such as the statistics of batch norm, are averaged with the weights that they belong to.

What is evaluated is the average, and so is "model" in every checkpoint: whoever loads the file gets
it. The weights of the training itself lie beside it, as "average", for a resume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch.optim.swa_utils import AveragedModel

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import CheckpointError, advice_on_neighbours

logger = logging.getLogger(__name__)

AVERAGE = "average"  # in checkpoints


class WeightAverage:
    """The average of a model's weights, which can change places with them.

    Args:
        model: not wrapped for several processes, whose copies all are the same.
        decay: d, in 0..1, of long runs.

    Raises:
        ValueError: a decay outside of 0..1.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"SOLVER.EMA_DECAY is {decay}: give a decay below 1, or 0 for none")
        self.model = model
        self.decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._move, use_buffers=True)

    def _move(
        self,
        averages: tuple[torch.Tensor, ...],
        values: tuple[torch.Tensor, ...],
        count: torch.Tensor | int,
    ) -> None:
        """Move averages towards values; `count` is the number of steps before this one."""
        step = float(count)
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:  # a counter
                average.copy_(value)

    def update(self) -> None:
        """Take in the weights after a step; the first are taken as they are."""
        self._averaged.update_parameters(self.model)

    @torch.no_grad()
    def exchange(self) -> None:
        """Let the average and the weights of the model change places."""
        if not int(self._averaged.n_averaged):  # no step was made: there is no average yet
            self._averaged.module.load_state_dict(self.model.state_dict())
        own, averaged = self.model.state_dict(), self._averaged.module.state_dict()
        for name, value in own.items():
            kept = value.clone()
            value.copy_(averaged[name])
            averaged[name].copy_(kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the average for the duration of a block."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def state_dict(self) -> dict[str, Any]:
        """Return what stands in the average's place, and how many steps it has seen."""
        return {
            "steps": int(self._averaged.n_averaged),
            "weights": self._averaged.module.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._averaged.module.load_state_dict(state["weights"])
        self._averaged.n_averaged.fill_(state["steps"])


class AverageWeights(HookBase):
    """Takes the weights into the average after each step; must come before what saves.

    Args:
        average: of the model that trains.
    """

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def after_step(self) -> None:
        """Take in this step."""
        self.average.update()


class AveragingCheckpointer(PanopticCheckpointer):
    """Saves the average as the model, and restores both at a resume.

    Attributes:
        average: None saves the weights themselves.
    """

    average: WeightAverage | None = None

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write a checkpoint as `PanopticCheckpointer` does."""
        if self.average is None:
            super().save(name, tag=tag, **kwargs)
            return
        with self.average.applied():
            super().save(name, tag=tag, **{AVERAGE: self.average.state_dict(), **kwargs})

    def load(
        self, path: str, checkpointables: list[str] | None = None, purpose: str | None = None
    ) -> dict[str, Any]:
        """Load a file as `PanopticCheckpointer` does.

        A run that is resumed with an average from a checkpoint without one starts it there. One
        that goes on without an average goes on from the weights of the training all the same.

        Raises:
            CheckpointError: as there, or the average is damaged.
        """
        contents = super().load(path, checkpointables, purpose)
        stored = contents.pop(AVERAGE, None)
        if not path or checkpointables == []:  # weights to start from, or to evaluate
            return contents
        if stored is None:
            if self.average is not None:
                logger.warning("%s has no averaged weights: their average starts there.", path)
            return contents
        self._require_average(stored, path)
        if self.average is None:
            self.model.load_state_dict(stored["weights"])
        else:
            self.average.load_state_dict(stored)
            self.average.exchange()
        return contents

    def _require_average(self, stored: Any, path: str) -> None:
        """Raise CheckpointError unless the stored entry fits the model."""
        own = self.model.state_dict()
        steps = stored.get("steps") if isinstance(stored, dict) else None
        weights = stored.get("weights") if isinstance(stored, dict) else None
        fits = (
            isinstance(steps, int)
            and 0 <= steps < 2**53
            and isinstance(weights, dict)
            and weights.keys() == own.keys()
            and all(isinstance(v, torch.Tensor) for v in weights.values())
            and all(value.shape == own[name].shape for name, value in weights.items())
            and all(value.dtype == own[name].dtype for name, value in weights.items())
        )
        if not fits:
            raise CheckpointError(
                f"the averaged weights of {path} are damaged, or those of another model"
                + advice_on_neighbours(path)
            )
        self._require_finite({AVERAGE: weights}, path)


def build_average(cfg: CfgNode, model: torch.nn.Module) -> WeightAverage | None:
    """Build the average that SOLVER.EMA_DECAY asks for; None for 0.

    Raises:
        ValueError: the decay is no share, or TEST.PRECISE_BN would change only the weights.
    """
    decay = cfg.SOLVER.EMA_DECAY
    if not decay:
        return None
    if cfg.TEST.PRECISE_BN.ENABLED:
        raise ValueError(
            "SOLVER.EMA_DECAY and TEST.PRECISE_BN.ENABLED do not go together: the statistics of "
            "batch norm are averaged, too. Switch one of them off"
        )
    return WeightAverage(model, decay)
