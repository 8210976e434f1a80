#!/usr/bin/env python3
r"""Processor time of a training iteration of several configs, by turns in one process.

    python tools/studies/iteration_cost.py configs/peers/scenes/panoptic_fpn.yaml \
        configs/unified/scenes/D2.yaml configs/unified/scenes/semantic_per_level.yaml
    python tools/studies/iteration_cost.py configs/unified/nuclei/D2.yaml --roi-align both

Each config is trained on its own images, some iterations at a time, then the next one. So all meet
the machine as busy. Weights are random, and nothing is written. Detections are few at the start of
a training; --warm-up says how many iterations come first and do not count. Times are the median of
the turns and their range. Ratios are to the first row, turn by turn.

--roi-align both adds a row to each config, with Detectron2's ROIAlign in the place of ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from panoptic_common.compat.amp_trainer import AMPTrainer
from panoptic_common.compat.layout import lay_out

import torch
from detectron2.config import CfgNode
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_common.modeling.roi_align import PreciseROIAlign
from panoptic_tools.arguments import make_parser, require_at_least
from panoptic_tools.studies.library.options import read_config
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.system_trainer import Trainer

ROI_ALIGNS = ("ours", "both")


@dataclass
class Training:
    """One row.

    Attributes:
        name: of the config, and what is different.
        trainer: of the loop.
        storage: that its losses are written to.
        times: processor seconds of an iteration, by turn.
    """

    name: str
    trainer: AMPTrainer
    storage: EventStorage
    times: list[float] = field(default_factory=list)

    def run(self, iterations: int) -> None:
        """Train; the mean time of an iteration is noted."""
        start = time.process_time()
        with self.storage:
            for _ in range(iterations):
                self.trainer.iter = self.storage.iter
                self.trainer.run_step()
                self.storage.step()
        self.times.append((time.process_time() - start) / iterations)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; `loaded` becomes the config of each file."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("configs", nargs="+", metavar="FILE")
    add("--roi-align", choices=ROI_ALIGNS, default="ours", help="default: ours alone")
    add("--iterations", type=int, default=10, metavar="N", help="of a turn (default 10)")
    add("--turns", type=int, default=3, metavar="N", help="default: 3")
    add("--warm-up", type=int, default=20, metavar="N", help="iterations before (default 20)")
    add("--threads", type=int, default=1, metavar="N", help="default: 1")
    options = parser.parse_args(words)
    require_at_least(parser, options, 1, "iterations", "turns", "warm_up", "threads")
    options.loaded = [read_config(parser, file, []) for file in options.configs]
    return options


def use_detectron2s(model: nn.Module) -> None:
    """Put Detectron2's ROIAlign into all poolers of a model, in place."""
    for pooler in model.modules():
        if isinstance(pooler, ROIPooler):
            for index, layer in enumerate(pooler.level_poolers):
                if isinstance(layer, PreciseROIAlign):
                    pooler.level_poolers[index] = ROIAlign(
                        layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
                    )


def make_training(cfg: CfgNode, name: str, *, detectron2s: bool = False) -> Training:
    """Build what trains a config; equal configs start from equal weights and images.

    Args:
        cfg: complete.
        name: of the row.
        detectron2s: whether Detectron2's ROIAlign pools the boxes.
    """
    torch.manual_seed(0)
    mixed = cfg.SOLVER.AMP.ENABLED
    model = lay_out(Trainer.build_model(cfg))
    if detectron2s:
        use_detectron2s(model)
    trainer = AMPTrainer(
        model.train(),
        Trainer.build_train_loader(cfg),
        Trainer.build_optimizer(cfg, model),
        mixed=mixed,
        parts=cfg.SOLVER.ACCUMULATE,
    )
    return Training(name, trainer, EventStorage())


def main(words: Sequence[str] | None = None) -> int:
    """Train by turns and print a table; return the exit status."""
    options = parse_arguments(words)
    torch.set_num_threads(options.threads)
    trainings = []
    for file, cfg in zip(options.configs, options.loaded, strict=True):
        name = Path(file).with_suffix("").as_posix().removeprefix("configs/")
        trainings.append(make_training(cfg, name))
        if options.roi_align == "both":
            trainings.append(make_training(cfg, f"{name}, Detectron2's ROIAlign", detectron2s=True))
    for training in trainings:
        training.run(options.warm_up)
        training.times.clear()
    for _ in range(options.turns):
        for training in trainings:
            training.run(options.iterations)
    rows = []
    for training in trainings:
        ratios = [
            ours / first for ours, first in zip(training.times, trainings[0].times, strict=True)
        ]
        rows.append([training.name, spread(training.times, " s"), spread(ratios, "")])
    print(markdown_table(["", "an iteration", "times the first"], rows))
    return 0


def spread(values: Sequence[float], unit: str) -> str:
    """Return the median and the range of some values."""
    middle = statistics.median(values)
    return f"{middle:.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
