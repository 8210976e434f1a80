"""Ending a training before its last iteration: at a signal, in time, or as it gets no better."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.engine.run_folder import FINAL, METRICS
from panoptic_common.engine.training_run import read_metrics
from panoptic_common.processes import stopping

logger = logging.getLogger(__name__)


TIME_IS_UP = 1  # beside the signals by number + 1, which come first


class EndOfTraining(BaseException):
    """Ends the loop of a training in good order; `PanopticTrainer.train` catches it."""


class EndOnDemand(HookBase):
    """Ends all processes after one step, once any has got a signal or its time is up.

    The schedule does not know of the time: the learning rate is where it is at that iteration, and
    a resume goes on from there. Must come after the hook that saves and before that which
    evaluates, in every process.
    """

    def __init__(
        self,
        checkpointer: PanopticCheckpointer,
        max_seconds: float | None = None,
        eval_period: int = 0,
    ) -> None:
        """Prepare to save.

        Args:
            checkpointer: writes the file in the main process.
            max_seconds: from now on; None: as long as it takes.
            eval_period: steps between evaluations, which a signal ends at once; 0: there is one at
                the end.
        """
        self.checkpointer = checkpointer
        self.eval_period = eval_period
        self._deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self._group: dist.ProcessGroup | None = None

    def before_train(self) -> None:
        """Make a group on the CPU: a look at the GPU would wait for its step."""
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def before_step(self) -> None:
        """From here on a signal waits for the end of the step."""
        stopping.request.deferred = True

    def after_step(self) -> None:
        """Save and end if a signal came, or time is up."""
        late = TIME_IS_UP if time.monotonic() > self._deadline else 0
        signalled = stopping.request.number
        reason = torch.tensor(late if signalled is None else signalled + TIME_IS_UP)
        if self._group is not None:
            dist.all_reduce(reason, dist.ReduceOp.MAX, group=self._group)
        if int(reason):
            self._end(int(reason))
        if self._group is not None or not self._evaluation_follows():
            # What comes from here on waits for the next step, after which all is saved. And of
            # several processes one that left now would break the others' next step.
            return
        stopping.request.deferred = False
        if stopping.request.number is not None:  # it came just now
            raise SystemExit(128 + stopping.request.number)

    def _evaluation_follows(self) -> bool:
        """Return whether the other hooks take long after this step."""
        done = self.trainer.iter + 1
        return done >= self.trainer.max_iter or (
            self.eval_period > 0 and done % self.eval_period == 0
        )

    def _end(self, reason: int) -> None:
        """Save the state after this step, and leave."""
        iteration = self.trainer.iter
        last = iteration + 1 == self.trainer.max_iter
        if reason == TIME_IS_UP:
            if not last:
                self._end_in_time(iteration)
            return
        number = reason - TIME_IS_UP
        stopping.request.deferred = False
        stopping.request.number = number
        name = FINAL if last else f"model_{iteration:07d}"
        if comm.is_main_process():
            self.checkpointer.save(name, iteration=iteration)
            logger.warning(
                "Signal %d: saved after iteration %d and ending; --resume goes on from there.",
                number,
                iteration,
            )
        comm.synchronize()  # whoever ends first would have the others killed
        raise SystemExit(128 + number)

    def _end_in_time(self, iteration: int) -> None:
        """Save, and leave the loop without an evaluation, for which there is no time."""
        stopping.request.deferred = False
        if comm.is_main_process():
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            logger.warning(
                "Time is up: saved after iteration %d of %d and ending; --resume goes on from "
                "there.",
                iteration + 1,
                self.trainer.max_iter,
            )
        comm.synchronize()  # nobody leaves before the file is there
        raise EndOfTraining

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


class EarlyStop(HookBase):
    """Ends a training after some evaluations in a row without a new best value of a metric.

    It goes by metrics.json, so that a resumed run counts what was before. Must come after the hook
    that evaluates, in every process.
    """

    def __init__(
        self,
        checkpointer: PanopticCheckpointer,
        metric: str,
        patience: int,
        eval_period: int,
        metrics: str,
    ) -> None:
        """Prepare to watch a metric.

        Args:
            checkpointer: writes the last state in the main process.
            metric: name of the result, such as "panoptic_seg/PQ"; more is better.
            patience: how many evaluations may pass without a new best.
            eval_period: in iterations.
            metrics: path of metrics.json.
        """
        self.checkpointer = checkpointer
        self.metric = metric
        self.patience = patience
        self.eval_period = eval_period
        self.metrics = metrics
        self.values: list[float] = []

    @classmethod
    def from_config(cls, cfg: CfgNode, checkpointer: PanopticCheckpointer) -> EarlyStop:
        """Read TEST.EARLY_STOP, the metric and the period, and where the run writes."""
        path = os.path.join(cfg.OUTPUT_DIR, METRICS)
        test = cfg.TEST
        return cls(checkpointer, test.BEST_METRIC, test.EARLY_STOP, test.EVAL_PERIOD, path)

    def before_train(self) -> None:
        """Read what the run has reached before it was resumed."""
        if self.trainer.start_iter > 0 and os.path.isfile(self.metrics):
            lines = read_metrics(Path(self.metrics))
            self.values = [line[self.metric] for line in lines if self.metric in line]

    def after_step(self) -> None:
        """End the run if it was evaluated, and it is time."""
        done = self.trainer.iter + 1
        if done % self.eval_period or done >= self.trainer.max_iter:
            return
        if comm.is_main_process():
            self.values.append(float(self.trainer.storage.latest()[self.metric][0]))
        if comm.all_gather(self._is_time())[0]:
            self._end()

    def _is_time(self) -> bool:
        """Tell whether the best value lies `patience` evaluations back; NaN is never the best."""
        known = [-math.inf if math.isnan(value) else value for value in self.values]
        return bool(known) and len(known) - 1 - known.index(max(known)) >= self.patience

    def _end(self) -> None:
        iteration = self.trainer.iter
        if comm.is_main_process():
            self.checkpointer.save(FINAL, iteration=iteration)
            logger.warning(
                "%s has not risen for %d evaluations (TEST.EARLY_STOP): ended after iteration %d. "
                "model_final.pth is of now, model_best.pth of the best.",
                self.metric,
                self.patience,
                iteration + 1,
            )
        comm.synchronize()
        raise EndOfTraining
