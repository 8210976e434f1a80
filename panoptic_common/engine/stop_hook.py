"""Saving and ending a training after the step in which a signal came."""

from __future__ import annotations

import logging

from panoptic_common.compat import stopping

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer

logger = logging.getLogger(__name__)


class StopAtSignal(HookBase):
    """Ends all processes after one and the same step once a signal has reached any of them.

    Must come after the hook that saves and before that which evaluates, in every process.
    """

    def __init__(self, checkpointer: PanopticCheckpointer) -> None:
        """Prepare to save.

        Args:
            checkpointer: writes the file in the main process.
        """
        self.checkpointer = checkpointer
        self._group: dist.ProcessGroup | None = None

    def before_train(self) -> None:
        """Make a group on the CPU: a look at the GPU would wait for its step."""
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def before_step(self) -> None:
        """From here on a signal waits for the end of the step."""
        stopping.request.deferred = True

    def after_step(self) -> None:
        """Save and end if a signal came."""
        number = torch.tensor(stopping.request.number or 0)
        if self._group is not None:
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        if int(number):
            self._end(int(number))
        if self._group is not None:
            # What comes from here on waits for the next step. A process that left now would break
            # the others' next step, and their ends would look like failures.
            return
        stopping.request.deferred = False
        if stopping.request.number is not None:  # it came just now
            raise SystemExit(128 + stopping.request.number)

    def _end(self, number: int) -> None:
        """Save the state after this step, and leave."""
        stopping.request.deferred = False
        stopping.request.number = number
        iteration = self.trainer.iter
        last = iteration + 1 == self.trainer.max_iter
        name = "model_final" if last else f"model_{iteration:07d}"
        if comm.is_main_process():
            self.checkpointer.save(name, iteration=iteration)
            logger.warning(
                "Signal %d: saved after iteration %d and ending; --resume goes on from there.",
                number,
                iteration,
            )
        comm.synchronize()  # whoever ends first would have the others killed
        raise SystemExit(128 + number)

    def after_train(self) -> None:
        """End before the evaluation, which follows the last step even if that raised."""
        stopping.request.deferred = False
        number = stopping.request.number
        if number is None or self.trainer.iter + 1 < self.trainer.max_iter:
            return
        for hook in self.trainer._hooks:
            if isinstance(hook, PeriodicWriter):
                hook.after_train()  # it would write its last lines after the evaluation
        raise SystemExit(128 + number)
