#!/usr/bin/env python3
"""Learning curves of several systems, also of others: quality against processor time and images.

    python tools/studies/curves.py --lengths 400 860 1500 --seeds 0 1 --jobs 2
    python tools/studies/curves.py --models PanopticFPN "Unified D2" --lengths 400 --jobs 1
    python tools/studies/curves.py --add "Wider" my_config.yaml --lengths 400

A point is a training of its own, with a schedule of that length. The middle of a longer training
has a learning rate that no finished one has. All are evaluated on `scenes_test`. A model that
starts from another one's weights (COPS full) is trained for the same share of the length as in its
config. What came before counts into its time and its images.

Writes table.md, table.json and curves.png to the output folder. Processor time is that of the whole
process: reading images, training, evaluation. Times of different calls can be compared only if the
machine was as busy. The table therefore also gives the ratio to the first model, length by length.
A run that was stopped goes on when the command is repeated; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_common.config import load_config
from panoptic_common.engine.training_run import TrainingRun, with_packages
from panoptic_tools.arguments import Parser, make_parser, require_at_least, require_pairs
from panoptic_tools.studies.library.config_runs import (
    config_content,
    prepare_scenes,
    run_study,
    say,
    threads_per_job,
)
from panoptic_tools.studies.library.curve_points import CurvePoint, curves_in_markdown, draw_curves
from panoptic_tools.studies.library.options import read_config
from panoptic_tools.studies.library.paths import ROOT, TRAIN_NET
from panoptic_tools.studies.library.training_queue import Finished, run_all


@dataclass(frozen=True)
class Model:
    """One curve.

    Attributes:
        config: its file.
        start: the model whose weights it goes on from, after a training of the same length.
    """

    config: str
    start: str = ""


MODELS = {
    "PanopticFPN": Model("configs/peers/scenes/panoptic_fpn.yaml"),
    "Unified A": Model("configs/unified/scenes/A.yaml"),
    "Unified C2": Model("configs/unified/scenes/C2.yaml"),
    "Unified D2": Model("configs/unified/scenes/D2.yaml"),
    "Unified D2, msra": Model("configs/unified/scenes/semantic_msra.yaml"),
    "Unified D2, per level": Model("configs/unified/scenes/semantic_per_level.yaml"),
    "Unified, one image": Model("configs/unified/scenes/one_image.yaml"),
    "Unified, in parts": Model("configs/unified/scenes/in_parts.yaml"),
    "COPS baseline": Model("configs/cops/scenes/pretrain.yaml"),
    "COPS full": Model("configs/cops/scenes/full.yaml", "COPS baseline"),
}
LENGTHS = (400, 860, 1500, 3000, 6000)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; `models` becomes a dict of what is to be trained."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--models", nargs="+", default=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    add(
        "--add",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "CONFIG"),
        help="a further model that starts from random weights; may be repeated",
    )
    add("--lengths", nargs="+", type=int, default=list(LENGTHS), help="iterations of the trainings")
    add("--seeds", nargs="+", type=int, default=[0], help="default 0")
    add("--jobs", type=int, default=2, help="trainings side by side (default 2)")
    add("--output", default="output/curves", metavar="FOLDER", help="default output/curves")
    add("opts", nargs="*", help="config keys and values for all runs, after --")
    parsed = parser.parse_args(words)
    require_pairs(parser, parsed.opts)
    require_at_least(parser, parsed, 1, "lengths", "jobs")
    require_at_least(parser, parsed, 0, "seeds")
    parsed.models = _models(parser, parsed)
    for model in parsed.models.values():
        read_config(parser, _file(model), parsed.opts)
    return parsed


def _models(parser: Parser, parsed: argparse.Namespace) -> dict[str, Model]:
    """Return what is trained, with the models that others start from before these."""
    for name in parsed.models:
        if name not in MODELS:
            parser.error(f"--models: {name!r} is none of {', '.join(MODELS)}")
    for name, _ in parsed.add:
        if name in MODELS:
            parser.error(f"--add: {name!r} is the name of another model")
    starts = [MODELS[name].start for name in parsed.models if MODELS[name].start]
    chosen = {name: MODELS[name] for name in dict.fromkeys([*parsed.models, *starts])}
    return chosen | {name: Model(config) for name, config in parsed.add}


def _file(model: Model) -> Path:
    path = Path(model.config)
    return path if path.is_file() else ROOT / path


def iterations_of(model: Model, length: int, options: argparse.Namespace) -> int:
    """Return the iterations of a model's own training at a point of the curve."""
    if not model.start:
        return length
    own, before = (_max_iter(x, options) for x in (model, options.models[model.start]))
    return max(1, round(length * own / before))


def _max_iter(model: Model, options: argparse.Namespace) -> int:
    return load_config(_file(model), options.opts).SOLVER.MAX_ITER


def make_run(options: argparse.Namespace, name: str, length: int, seed: int) -> TrainingRun:
    """Return the training of one point."""
    model = options.models[name]
    given = dict(zip(options.opts[::2], options.opts[1::2], strict=True))
    opts: dict[str, Any] = {"SEED": seed, "DATASETS.TEST": "('scenes_test',)", **given}
    if model.start:
        weights = _folder(options, model.start, length, seed) / "model_final.pth"
        opts["MODEL.WEIGHTS"] = str(weights)
    threads = str(threads_per_job(options.jobs))
    return TrainingRun(
        TRAIN_NET,
        _file(model),
        _folder(options, name, length, seed),
        iterations_of(model, length, options),
        opts,
        {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **with_packages(ROOT)},
        # A changed config must not be mixed with results of the old one.
        {"config": config_content(_file(model))},
    )


def _folder(options: argparse.Namespace, name: str, length: int, seed: int) -> Path:
    return Path(options.output) / f"{name.replace(' ', '_')}_{length}_seed{seed}"


def key_of(name: str, length: int) -> str:
    """Return what the queue calls a point."""
    return f"{name}, {length} iterations"


def train(options: argparse.Namespace) -> Finished:
    """Train all points, short ones first, and those that start from others after these."""
    first = next(iter(options.models.values()))
    prepare_scenes(load_config(_file(first), options.opts).DATASETS.SCENES)
    finished: Finished = {}
    for later in (False, True):
        runs = {
            (key_of(name, length), seed): make_run(options, name, length, seed)
            for length in sorted(options.lengths)
            for seed in options.seeds
            for name, model in options.models.items()
            if bool(model.start) == later
        }
        finished.update(run_all(runs, options.jobs, say))
    return finished


def collect_points(options: argparse.Namespace, finished: Finished) -> list[CurvePoint]:
    """Return the points of all curves in the order of models, lengths and seeds."""
    points = []
    for name, model in options.models.items():
        batch = load_config(_file(model), options.opts).SOLVER.IMS_PER_BATCH
        for length in sorted(options.lengths):
            for seed in options.seeds:
                run = finished[key_of(name, length), seed]
                images = batch * iterations_of(model, length, options)
                seconds = run["processor_seconds"]
                if model.start:
                    before = options.models[model.start]
                    seconds += finished[key_of(model.start, length), seed]["processor_seconds"]
                    images += length * load_config(_file(before), options.opts).SOLVER.IMS_PER_BATCH
                points.append(CurvePoint(name, length, seed, seconds, images, run["results"]))
    return points


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(words)

    def make_tables(finished: Finished, seeds: Sequence[int]) -> dict[str, Any]:
        points = collect_points(options, finished)
        draw_curves(points, Path(options.output) / "curves.png")
        return {"seeds": list(seeds), "points": [point.as_dict() for point in points]}

    def as_markdown(tables: Mapping[str, Any]) -> str:
        return curves_in_markdown([CurvePoint(**point) for point in tables["points"]])

    return run_study("curves", options, train, make_tables, as_markdown)


if __name__ == "__main__":
    sys.exit(main())
