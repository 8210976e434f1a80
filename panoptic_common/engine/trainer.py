"""The training loop of every system: Detectron2's `DefaultTrainer`, made exact and resumable.

Killed at any moment and resumed, a run on the CPU ends in the very state, bit for bit, of the run
that nobody killed. Three things bring that about. Checkpoints are written atomically
(`panoptic_common.files`). The batch of iteration i is a function of (seed, i) (`train_loader`). So
is what the model draws in iteration i (`hooks.SeedEveryStep`). Two exceptions: TEST.PRECISE_BN
draws its images afresh after a resume, and on a GPU some kernels add in no fixed order.

The systems plug in by `build_target_function`; this module knows none.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from panoptic_common.compat.amp_trainer import AMPTrainer
from panoptic_common.compat.engine import apply_to_engine
from panoptic_common.compat.layout import lay_out

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, defaults
from detectron2.engine import hooks as detectron2_hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.data.catalog import class_table
from panoptic_common.data.mapper import PanopticDatasetMapper
from panoptic_common.data.train_loader import MODEL_INIT, TrainLoader, derive_seed, seed_everything
from panoptic_common.engine.announcement import announce
from panoptic_common.engine.averaging import (
    AverageWeights,
    AveragingCheckpointer,
    build_average,
)
from panoptic_common.engine.disk_space import checkpoint_bytes, require_space
from panoptic_common.engine.divergence import explain
from panoptic_common.engine.endings import explain_disk, without_traceback
from panoptic_common.engine.final_files import FinalFiles
from panoptic_common.engine.hooks import (
    BestCheckpoint,
    FinishModel,
    PeriodicCheckpoint,
    SeedEveryStep,
)
from panoptic_common.engine.loaders import test_loader, train_loader
from panoptic_common.engine.metrics_writer import MetricsWriter, WriteEvaluations
from panoptic_common.engine.optimizer import build_optimizer, build_poly_scheduler
from panoptic_common.engine.prediction_images import PredictionImages
from panoptic_common.engine.result_names import require_best_metric, require_expected_results
from panoptic_common.engine.resuming import (
    Hyperparameters,
    config_differences,
    cut_metrics,
    differences_table,
    require_same_optimizer,
)
from panoptic_common.engine.run_folder import METRICS, put_earlier_run_aside
from panoptic_common.engine.scaling import require_trainable, scale_to_workers
from panoptic_common.engine.shared_buffers import share_buffers
from panoptic_common.engine.stop_hook import EarlyStop, EndOfTraining, EndOnDemand
from panoptic_common.evaluation.build import build_evaluator

logger = logging.getLogger(__name__)


class PanopticTrainer(DefaultTrainer):
    """Trains and evaluates one system; a subclass gives its `build_target_function`."""

    def __init__(
        self,
        cfg: CfgNode,
        allow_unsafe_checkpoint: bool = False,
        asked: CfgNode | None = None,
        max_seconds: float | None = None,
    ) -> None:
        """Build all parts of a training.

        Args:
            cfg: a complete config (see `panoptic_common.config.load_config`). A SEED of -1
                draws one, which is logged, stored in the checkpoints, and used again at a resume.
            allow_unsafe_checkpoint: read pickles that could run code.
            asked: the config before it was scaled, for the log; None: `cfg`.
            max_seconds: from now on, after which the training saves its state and ends.

        Raises:
            ValueError: the config contradicts itself, its data sets or the number of processes.
        """
        # Not DefaultTrainer's: it would make Detectron2's checkpointer and loader.
        TrainerBase.__init__(self)
        apply_to_engine()
        self.asked = cfg if asked is None else asked
        cfg = scale_to_workers(cfg, comm.get_world_size())
        require_trainable(cfg, comm.get_world_size())
        require_best_metric(cfg, type(self), PanopticTrainer)
        require_expected_results(cfg, type(self), PanopticTrainer)
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        if cfg.SEED < 0:
            logger.info("SEED is -1: drew %d; SEED %d repeats this run.", self.seed, self.seed)

        seed_everything(derive_seed(self.seed, MODEL_INIT))
        mixed = cfg.SOLVER.AMP.ENABLED
        model = lay_out(self.build_model(cfg))
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        wrapped = defaults.create_ddp_model(model, broadcast_buffers=False)
        self._trainer = AMPTrainer(
            *(wrapped, data_loader, optimizer), mixed=mixed, parts=cfg.SOLVER.ACCUMULATE
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        scaler = self._trainer.grad_scaler
        scaled = {"grad_scaler": scaler} if scaler.is_enabled() else {}
        self.checkpointer = AveragingCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            cfg=cfg,
            class_table=class_table(cfg.DATASETS.TRAIN[0]),
            seed=self.seed,
            allow_unsafe=allow_unsafe_checkpoint,
            optimizer=optimizer,
            scheduler=self.scheduler,
            **scaled,
        )
        self.average = self.checkpointer.average = build_average(cfg, model)
        self.max_seconds = max_seconds
        self._seeding = SeedEveryStep(self.seed)
        self.register_hooks(self.build_hooks())

    # ---- what a system gives --------------------------------------------------------------------

    @classmethod
    def build_target_function(cls, cfg: CfgNode) -> Callable[[np.ndarray, list[dict]], dict]:
        """Build the system's function (id map after augmentation, segments) -> input entries."""
        raise NotImplementedError("give a subclass of PanopticTrainer its build_target_function")

    @classmethod
    def build_test_target_function(
        cls, cfg: CfgNode
    ) -> Callable[[np.ndarray, list[dict]], dict] | None:
        """Build that of test images, whose truth an oracle reads; None reads no truth."""
        return None

    @classmethod
    def build_train_mapper(cls, cfg: CfgNode) -> Callable[[dict], dict]:
        """Build the function (record of the data set) -> input of the model, for training."""
        return PanopticDatasetMapper.from_config(cfg, True, cls.build_target_function(cfg))

    @classmethod
    def outputs_may_lack(cls, cfg: CfgNode) -> bool:
        """Tell whether an output that the model does not give is left out, and no error."""
        return False

    @classmethod
    def build_finish_function(cls, cfg: CfgNode) -> Callable[[torch.nn.Module], None] | None:
        """Build what changes the trained model in place before its last checkpoint; None: nothing.

        Every process calls it, with one model.
        """
        return None

    # ---- parts ----------------------------------------------------------------------------------

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Build what `panoptic_common.engine.optimizer.build_optimizer` says."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build WarmupMultiStepLR, WarmupCosineLR (Detectron2's) or WarmupPolyLR (DeepLab's)."""
        if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR":
            return build_poly_scheduler(cfg, optimizer)
        if cfg.SOLVER.MAX_ITER in cfg.SOLVER.STEPS:  # a step right at the end trips Detectron2
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.STEPS = tuple(s for s in cfg.SOLVER.STEPS if s < cfg.SOLVER.MAX_ITER)
        return super().build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """Build endless batches of augmented training images of all sets in DATASETS.TRAIN.

        Raises:
            ValueError: a sampler that cannot be resumed exactly, or an unusable data set.
        """
        return train_loader(cfg, cls.build_train_mapper(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader:
        """Build a loader of a data set: each image once, shared among the processes."""
        return test_loader(cfg, dataset_name, cls.build_test_target_function(cfg))

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Build PQ, mIoU and AP; files go to OUTPUT_DIR/inference/<data set>."""
        if output_folder is None:
            output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, output_folder, may_lack=cls.outputs_may_lack(cfg))

    def build_hooks(self) -> list[HookBase]:
        """Build Detectron2's hooks, with ours for seeds, checkpoints, the best model and images."""
        cfg = self.cfg
        evaluation = detectron2_hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate)
        hooks = [
            evaluation if isinstance(hook, detectron2_hooks.EvalHook) else hook
            for hook in super().build_hooks()
            if hook is not None and not isinstance(hook, detectron2_hooks.PeriodicCheckpointer)
        ]
        hooks.insert(0, self._seeding)
        if self.average is not None:
            hooks.insert(1, AverageWeights(self.average))
        # Checkpoints come before the evaluation: should that fail, the model is on the disk.
        first_evaluation = hooks.index(evaluation)
        demand = EndOnDemand(self.checkpointer, self.max_seconds, cfg.TEST.EVAL_PERIOD)
        hooks.insert(first_evaluation, demand)
        if finish := self.build_finish_function(cfg):
            hooks.insert(first_evaluation, FinishModel(self.checkpointer, finish, self.average))
            first_evaluation += 1
        early = [EarlyStop.from_config(cfg, self.checkpointer)] if cfg.TEST.EARLY_STOP else []
        if not comm.is_main_process():
            return [*hooks, *early]
        hooks.insert(
            first_evaluation,
            PeriodicCheckpoint(
                self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINT_KEEP
            ),
        )
        *hooks, writer = hooks  # the writer comes last: it writes what the others measured
        if metric := cfg.TEST.BEST_METRIC:
            hooks.append(BestCheckpoint(self.checkpointer, metric, cfg.TEST.EVAL_PERIOD))
        if cfg.VIS_PERIOD > 0 and cfg.DATASETS.TEST:
            hooks.append(PredictionImages.from_config(cfg, self.checkpointer.model))
        evaluations = WriteEvaluations(self._metrics_writer, cfg.TEST.EVAL_PERIOD)
        final = FinalFiles.from_config(cfg, self.checkpointer)
        return [*hooks, evaluations, *early, final, writer]

    def _evaluate(self) -> dict[str, Any]:
        """Evaluate the weights, or their average."""
        averaged = contextlib.nullcontext() if self.average is None else self.average.applied()
        with averaged:
            share_buffers(self.model)
            self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """Build Detectron2's writers, with ours for metrics.json."""
        path = os.path.join(self.cfg.OUTPUT_DIR, METRICS)
        writers = [w for w in super().build_writers() if not isinstance(w, JSONWriter)]
        self._metrics_writer = MetricsWriter(path)
        return [*writers, self._metrics_writer]

    # ---- running --------------------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of OUTPUT_DIR, or else load MODEL.WEIGHTS.

        Args:
            resume: whether to look for a last checkpoint; without one, training starts anew.

        Raises:
            CheckpointError: the file is damaged or does not fit; says what to do.
        """
        found, optimizer = self.checkpointer.has_checkpoint(), self._trainer.optimizer
        settings = Hyperparameters(optimizer, self.scheduler)
        contents = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and found:
            self.start_iter = contents["iteration"] + 1
            if self.scheduler.last_epoch != self.start_iter:
                raise CheckpointError(
                    f"the last checkpoint of {self.cfg.OUTPUT_DIR} is after iteration "
                    f"{self.start_iter - 1}, but its schedule after {self.scheduler.last_epoch - 1}"
                    ": start from its weights by MODEL.WEIGHTS, without --resume"
                )
            self._take_seed(contents["seed"])
            require_same_optimizer(contents["config"], self.cfg)
            settings.apply(optimizer, self.scheduler)
            if differences := config_differences(contents["config"], self.cfg):
                logger.warning(
                    "These settings differ from the resumed run's. Weights, the optimizer's "
                    "state and the iteration go on from the checkpoint:\n%s",
                    differences_table(differences),
                )
            if comm.is_main_process():
                cut_metrics(os.path.join(self.cfg.OUTPUT_DIR, METRICS), self.start_iter)
        elif resume:
            logger.info("No checkpoint in %s to resume from.", self.cfg.OUTPUT_DIR)
        if not (resume and found):
            comm.synchronize()  # MODEL.WEIGHTS may be a file of the earlier run
            if comm.is_main_process():
                place = put_earlier_run_aside(self.cfg.OUTPUT_DIR, again=resume)
                if place:
                    logger.warning("What an earlier run left is now in %s.", place)
        if self.start_iter >= self.max_iter:
            logger.warning(
                "Nothing is left to train: the checkpoint has %d iterations, SOLVER.MAX_ITER is "
                "%d. Only the evaluation follows.",
                self.start_iter,
                self.max_iter,
            )
        self.data_loader.start_at(self.start_iter, self.seed)

    def _take_seed(self, stored: int) -> None:
        """Go on with the stored seed unless the config names another one."""
        if self.cfg.SEED < 0:
            self.seed = self._seeding.seed = self.checkpointer.seed = stored
            logger.info("Going on with the seed %d of the checkpoint.", stored)
        elif stored != self.cfg.SEED:
            logger.warning("The run had seed %d and goes on with %d.", stored, self.cfg.SEED)

    def train(self) -> dict[str, Any] | None:
        """Train from `start_iter` to SOLVER.MAX_ITER and evaluate.

        Returns:
            The results of the last evaluation in the main process, otherwise None.

        Raises:
            NotFiniteError: weights or losses became NaN or infinite; says when and where.
            CannotWrite: the disk is full, say.
            RunRefused: it would be full before the first checkpoint.
        """
        if comm.is_main_process():
            size = checkpoint_bytes(
                self.checkpointer.model, self._trainer.optimizer, averaged=self.average is not None
            )
            require_space(self.cfg.OUTPUT_DIR, size, self._num_checkpoints())
            logger.info("This run:\n%s", self._announcement())
        with without_traceback(), contextlib.suppress(EndOfTraining):
            super().train()
        return getattr(self, "_last_eval_results", None) if comm.is_main_process() else None

    def _announcement(self) -> str:
        """Say what the run is about to do."""
        return announce(
            self.cfg,
            asked=self.asked,
            seed=self.seed,
            start_iter=self.start_iter,
            workers=comm.get_world_size(),
            train_images=len(self.data_loader.records),
        )

    def _num_checkpoints(self) -> int:
        """Count the checkpoints that the rest of the run will leave."""
        period, keep = self.cfg.SOLVER.CHECKPOINT_PERIOD, self.cfg.SOLVER.CHECKPOINT_KEEP
        numbered = (self.max_iter - self.start_iter) // period if period > 0 else 0
        best = bool(self.cfg.TEST.BEST_METRIC) and self.cfg.TEST.EVAL_PERIOD > 0
        unfinished = any(isinstance(hook, FinishModel) for hook in self._hooks)
        return (min(numbered, keep) if keep > 0 else numbered) + best + unfinished + 1

    def run_step(self) -> None:
        """Run one step; name what became NaN or infinite if that stops it."""
        with self._explained(in_step=True):
            super().run_step()

    def after_step(self) -> None:
        """Save, evaluate and report; name what became NaN or infinite if that stops it."""
        with self._explained(in_step=False):
            super().after_step()

    def after_train(self) -> None:
        """Close what was opened, and evaluate, but not what an error has stopped."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            # In the last iteration Detectron2's hook takes an error for the end.
            if self.iter >= self.max_iter or not isinstance(hook, detectron2_hooks.EvalHook):
                hook.after_train()

    @contextlib.contextmanager
    def _explained(self, in_step: bool) -> Iterator[None]:
        """Turn an error that NaN, infinite values or the disk caused into one that says so."""
        try:
            yield
        except Exception as error:
            loader = self._trainer.data_loader
            known: Exception | None = explain_disk(error, self.cfg.OUTPUT_DIR, self.iter)
            if known is None:
                known = explain(error, self.checkpointer.model, loader, self.iter, in_step)
            if known is None:
                raise
            raise known from error
