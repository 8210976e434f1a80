"""What happens around each training step: seeding, checkpoints, the best model, the last touch."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
from collections.abc import Callable

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import read_weights_file
from panoptic_common.checkpoint.own_format import is_own
from panoptic_common.data.train_loader import MODEL_STEP, derive_seed, seed_everything
from panoptic_common.engine.averaging import WeightAverage
from panoptic_common.engine.endings import RunRefused
from panoptic_common.engine.run_folder import FINAL
from panoptic_common.engine.shared_buffers import share_buffers
from panoptic_common.processes import stopping

logger = logging.getLogger(__name__)

BEST_NAME = "model_best"
UNFINISHED_NAME = "model_unfinished"
_NUMBERED = re.compile(r"model_\d{7}\.pth")


class SeedEveryStep(HookBase):
    """Seed the global generators before each step from (seed, iteration, rank).

    The models draw while they train: the RPN and the ROI heads sample their proposals. To store the
    generators' states, a checkpoint would have to gather them from all ranks and devices. What
    draws between two steps (an evaluation, an image) would still shift them. Seeded like
    this, a step depends on its number alone, a checkpoint needs no state, and a run may resume on
    another number of processes.
    """

    def __init__(self, seed: int) -> None:
        """Remember the seed.

        Args:
            seed: of the run; may be changed until training starts.
        """
        self.seed = seed

    def before_step(self) -> None:
        """Seed for the step that comes."""
        key = (MODEL_STEP, self.trainer.iter, comm.get_rank())
        seed_everything(derive_seed(self.seed, *key))


class PeriodicCheckpoint(HookBase):
    """Save model_<iteration> every `period` iterations, model_final at the end, and tidy up.

    Detectron2's hook forgets at each resume which files it wrote, and never deletes those.
    """

    def __init__(self, checkpointer: PanopticCheckpointer, period: int, keep: int = 0) -> None:
        """Prepare to save.

        Args:
            checkpointer: writes the files.
            period: in iterations; 0 saves at the end only.
            keep: how many numbered files to keep; 0 keeps all.
        """
        self.checkpointer = checkpointer
        self.period = period
        self.keep = keep

    def after_step(self) -> None:
        """Save if this iteration is one of those."""
        iteration = self.trainer.iter
        if self.period > 0 and (iteration + 1) % self.period == 0:
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            self._delete_old()
        if iteration + 1 == self.trainer.max_iter:
            self.checkpointer.save(FINAL, iteration=iteration)

    def _delete_old(self) -> None:
        """Delete all but the newest files; called after the pointer names the newest of them."""
        if self.keep <= 0 or not self.checkpointer.save_to_disk:
            return
        folder = self.checkpointer.save_dir
        names = sorted(name for name in os.listdir(folder) if _NUMBERED.fullmatch(name))
        for name in names[: -self.keep]:
            os.remove(os.path.join(folder, name))


class FinishModel(HookBase):
    """Let the system change the trained model, in place, before it is saved as model_final.

    What was trained is saved first. So a run that ends meanwhile, by a signal or an error, does it
    at the next resume. Must come before the hooks that save and that end, in every process.
    """

    def __init__(
        self,
        checkpointer: PanopticCheckpointer,
        finish: Callable[[torch.nn.Module], None],
        average: WeightAverage | None = None,
    ) -> None:
        """Prepare for the end.

        Args:
            checkpointer: has the model.
            finish: changes it; all processes call it at once.
            average: of its weights, which is what is saved; None: there is none.
        """
        self.checkpointer = checkpointer
        self.finish = finish
        self.average = average
        self.path = os.path.join(checkpointer.save_dir, f"{UNFINISHED_NAME}.pth")

    def before_train(self) -> None:
        """Finish the model of a run that was ended when nothing else was left to do."""
        if self.trainer.start_iter >= self.trainer.max_iter and self._last_is(UNFINISHED_NAME):
            self._finish()
            if comm.is_main_process():
                self.checkpointer.save(FINAL, iteration=self.trainer.start_iter - 1)

    def after_step(self) -> None:
        """Finish the model after the last step."""
        if self.trainer.iter + 1 < self.trainer.max_iter:
            return
        if comm.is_main_process():
            self.checkpointer.save(UNFINISHED_NAME, iteration=self.trainer.iter)
        if comm.get_world_size() == 1:
            stopping.request.deferred = False  # a signal ends it at once: all is saved
            if stopping.request.number is not None:
                raise SystemExit(128 + stopping.request.number)
        self._finish()
        stopping.request.deferred = True

    def after_train(self) -> None:
        """Delete what is not needed beside the finished model."""
        if comm.is_main_process() and os.path.isfile(self.path) and self._last_is(FINAL):
            os.remove(self.path)

    def _last_is(self, name: str) -> bool:
        """Tell whether a resume would start from that checkpoint."""
        return os.path.basename(self.checkpointer.get_checkpoint_file()) == f"{name}.pth"

    def _finish(self) -> None:
        """Change the model, or its average."""
        averaged = contextlib.nullcontext() if self.average is None else self.average.applied()
        try:
            with averaged:
                share_buffers(self.checkpointer.model)
                self.finish(self.checkpointer.model)
        except Exception:
            logger.error(
                "The training is done, but not what comes after it: --resume tries that again. "
                "The weights are in %s",
                self.path,
            )
            raise


class BestCheckpoint(HookBase):
    """Keep the model with the highest value of a metric as model_best, also across resumes.

    Must come after the hook that evaluates. Resuming never starts from model_best.
    """

    def __init__(self, checkpointer: PanopticCheckpointer, metric: str, eval_period: int) -> None:
        """Prepare to watch a metric.

        Args:
            checkpointer: writes the file.
            metric: name of the result, such as "panoptic_seg/PQ".
            eval_period: in iterations, that of the evaluation.
        """
        self.checkpointer = checkpointer
        self.metric = metric
        self.eval_period = eval_period
        self.best = -math.inf

    def before_train(self) -> None:
        """Read the value of the best model so far, if the run is resumed."""
        path = os.path.join(self.checkpointer.save_dir, f"{BEST_NAME}.pth")
        if self.trainer.start_iter > 0 and os.path.isfile(path):
            contents = read_weights_file(path)
            if is_own(contents) and contents.get("metric") == self.metric:
                self.best = contents.get("value", -math.inf)

    def after_step(self) -> None:
        """Save the model if it was evaluated and is the best."""
        done = self.trainer.iter + 1
        if self.eval_period > 0 and done % self.eval_period == 0 and done < self.trainer.max_iter:
            self._keep_if_better(self.trainer.iter)

    def after_train(self) -> None:
        """Save the final model if it is the best."""
        if self.trainer.iter >= self.trainer.max_iter:  # not after a failure
            self._keep_if_better(self.trainer.max_iter - 1)

    def _keep_if_better(self, iteration: int) -> None:
        """Compare the latest value with the best, and save if it is higher."""
        latest = self.trainer.storage.latest()
        if self.metric not in latest:
            known = sorted(name for name in latest if "/" in name)
            raise RunRefused(f"TEST.BEST_METRIC {self.metric!r} is not among the results {known}")
        value = float(latest[self.metric][0])
        if math.isnan(value) or value <= self.best:
            return
        logger.info("%s is %.3f, the best so far: saved as %s.", self.metric, value, BEST_NAME)
        self.best = value
        self.checkpointer.save(
            BEST_NAME, tag=False, iteration=iteration, metric=self.metric, value=value
        )
