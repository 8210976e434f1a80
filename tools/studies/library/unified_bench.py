"""A model of the Unified system with random weights, and what is measured of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from panoptic_common.config import load_config, read_config
from panoptic_common.data.builtin_sets import known_categories
from panoptic_common.data.catalog import class_table as table_of_set
from panoptic_common.data.catalog import register_builtin, register_scenes
from panoptic_tools.studies.library.forced_runs import forced_detections, settle_frozen_norms
from panoptic_tools.studies.library.measure import CLOCKS, Meter, Stopwatch
from panoptic_tools.studies.library.probes import instrumented
from panoptic_tools.studies.library.workload import Workload, grid_of, make_workload

Size = tuple[int, int]


@dataclass(frozen=True)
class Bench:
    """What every section needs: the model in evaluation mode, and the command line."""

    cfg: CfgNode
    model: torch.nn.Module
    options: argparse.Namespace

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @property
    def channels(self) -> int:
        """C of the affinity."""
        return self.cfg.MODEL.UNIFIED.AFFINITY.CHANNELS

    @property
    def num_stuff(self) -> int:
        """N_st."""
        return len(self.model.panoptic.stuff_ids)

    def workload(self, size: Size | None = None, num_detections: int | None = None) -> Workload:
        """Draw an image and detections; size and number are the command line's if not given."""
        return make_workload(
            size or self.options.size,
            num_detections=self.options.detections if num_detections is None else num_detections,
            num_proposals=self.cfg.MODEL.RPN.POST_NMS_TOPK_TEST,
            num_things=self.cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            least_score=self.cfg.MODEL.UNIFIED.INFERENCE.SCORE_THRESH,
            seed=0,
            device=self.device,
        )

    def random(self, *shape: int) -> torch.Tensor:
        """Draw standard normal numbers, the same in every run."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(self.device)

    def random_semantic(self, size: Size) -> torch.Tensor:
        """Draw probabilities V (K, h, w)."""
        return self.random(self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, *grid_of(size)).softmax(dim=0)

    def stopwatch(self) -> Stopwatch:
        """Return a new one, with the clock of the command line."""
        return Stopwatch(self.device, CLOCKS[self.options.clock])

    def measured(self, work: Workload, meter: Meter, run: Callable[[], object]) -> dict[str, float]:
        """Return one meter's readings of a run of the model, part by part."""
        with forced_detections(self.model, work), instrumented(self.model, meter.span), meter:
            run()
        return meter.results


def class_counts(file: str, opts: Sequence[str]) -> tuple[int, int]:
    """Return how many classes, and things among them, the training set of a config has.

    Args:
        file: the config's.
        opts: keys and values by turns.

    Raises:
        ValueError, FileNotFoundError: the config is wrong, or its data set is not there.
    """
    cfg = read_config(file, opts)
    if not cfg.DATASETS.TRAIN:
        raise ValueError(f"{file} names no training set: give --classes and --things")
    name = cfg.DATASETS.TRAIN[0]
    categories = known_categories(name)
    if categories is None:
        register_builtin()
        register_scenes(settings=cfg.DATASETS.SCENES)
        categories = table_of_set(name)
    return len(categories), sum(bool(entry["isthing"]) for entry in categories)


def class_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return as many classes and things as the command line asks for."""
    return [{"name": str(i), "isthing": i < options.things} for i in range(options.classes)]


def build_bench(options: argparse.Namespace) -> Bench:
    """Build the model of the command line with random weights.

    Args:
        options: of the command line.

    Raises:
        ValueError, FileNotFoundError: something about the config is wrong; says what.
    """
    cfg = load_config(options.config_file, options.opts, table=class_table(options))
    cfg.MODEL.DEVICE = options.device
    cfg.MODEL.WEIGHTS = ""
    cfg.TEST.PANOPTIC_VARIANTS = ()  # the main output alone
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    settle_frozen_norms(model)
    return Bench(cfg, model, options)
