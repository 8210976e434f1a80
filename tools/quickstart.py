#!/usr/bin/env python3
"""Both systems from nothing to panoptic images on a CPU; `make demo` calls this program.

    python tools/quickstart.py
    python tools/quickstart.py --systems cops --iterations 3000 --output output/longer

Makes synthetic scenes; trains the Unified system on them; pre-trains COPS, then fine-tunes it
through its solver; evaluates each on scenes that were not trained on, prints their panoptic quality
side by side and draws contact sheets. When it was stopped, the same command goes on where it was;
what is finished is only drawn again (--restart repeats it all).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

from detectron2.config import CfgNode

from panoptic_common.config import load_config
from panoptic_common.data.catalog import (
    builtin_root,
    load_panoptic,
    register_scenes,
)
from panoptic_common.demo_sheets import affinity_sheet, solver_sheet
from panoptic_common.engine.training_run import TrainingFailed, TrainingRun, with_packages
from panoptic_common.inference.media import write_image
from panoptic_common.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent

TRAIN_NET = ROOT / "tools/train_net.py"


@dataclass(frozen=True, eq=False)
class Step:
    """One training of the demo.

    Attributes:
        name: of its folder.
        title: in tables.
        system: "unified" or "cops".
        config: file below configs/.
        start: name of the step whose weights it starts from; "": from random weights.
        split_batch: whether two processes may share a batch.
        variants: ways to make the panoptic map that are compared, by their names in
            TEST.PANOPTIC_VARIANTS; "" is the system's own.
    """

    name: str
    title: str
    system: str
    config: str
    start: str = ""
    split_batch: bool = True
    variants: Mapping[str, str] = field(default_factory=dict)


STEPS = (
    Step(
        "unified",
        "Unified",
        "unified",
        "unified/scenes/D2.yaml",
        variants={
            "": "argmax of P (the system)",
            "residual_off": "residual off: argmax of the potential",
            "heuristic": "heuristic merger",
            "stride4": "P at stride 4, then enlarged",
            "untrimmed": "small stuff kept",
            "duplicates_kept": "duplicate detections kept",
        },
    ),
    Step(
        "cops_baseline",
        "COPS baseline",
        "cops",
        "cops/scenes/pretrain.yaml",
        variants={"": "solved at stride 4 (the system)", "untrimmed": "small segments kept"},
    ),
    Step(
        "cops_full",
        "COPS full",
        "cops",
        "cops/scenes/full.yaml",
        start="cops_baseline",
        # Panoptic quality is no mean over images, so two losses of four are not one of eight.
        split_batch=False,
        variants={"": "solved at stride 4 (the system)", "untrimmed": "small segments kept"},
    ),
)
# For tests of this program: shows that everything runs, and learns nothing.
FAST = {
    "DATASETS.SCENES.HEIGHT": 64,
    "DATASETS.SCENES.WIDTH": 96,
    "DATASETS.SCENES.NUM_TRAIN": 8,
    "DATASETS.SCENES.NUM_VAL": 2,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "DATALOADER.NUM_WORKERS": 0,
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    systems = sorted({step.system for step in STEPS}, reverse=True)
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="output/demo", help="folder (default output/demo)")
    parser.add_argument(
        "--systems", nargs="+", choices=systems, default=systems, help="default: both"
    )
    parser.add_argument("--iterations", type=int, help="of each training (default: its config's)")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (default 0)")
    parser.add_argument("--scenes", help="folder above scenes/ (default: DETECTRON2_DATASETS)")
    parser.add_argument("--rows", type=int, default=6, help="of the contact sheets (default 6)")
    parser.add_argument("--restart", action="store_true", help="repeat what is finished")
    parser.add_argument("--fast", action="store_true", help="tiny: only shows that all runs")
    options = parser.parse_args(arguments)
    if options.iterations is not None and options.iterations < 1:
        parser.error("--iterations must be at least 1")
    if options.rows < 1:
        parser.error("--rows must be at least 1")
    if options.seed < 0:
        parser.error("--seed must not be negative")
    return options


class Clock:
    """Says what happens, with the time since the start, and keeps the stages' wall times."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        elapsed = timedelta(seconds=int(time.monotonic() - self.begin))
        print(f"[{elapsed}] {text}", flush=True)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announce a stage; measure it."""
        self.say(text)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


# ---- training -----------------------------------------------------------------------------------


def step_config(options: argparse.Namespace, step: Step) -> tuple[CfgNode, dict[str, Any]]:
    """The config of a step, and what the demo changes about the file."""
    file = ROOT / "configs" / step.config
    opts: dict[str, Any] = dict(FAST) if options.fast else {}
    opts["SEED"] = options.seed
    # Whoever stops the demo loses at most a minute.
    opts |= {"SOLVER.CHECKPOINT_PERIOD": 50, "SOLVER.CHECKPOINT_KEEP": 1}
    if options.iterations is not None:
        opts["SOLVER.MAX_ITER"] = options.iterations
    if step.start:
        opts["MODEL.WEIGHTS"] = str(Path(options.output) / step.start / "model_final.pth")
    opts["TEST.PANOPTIC_VARIANTS"] = repr(tuple(name for name in step.variants if name))
    return load_config(file, opts), opts


def prepare_training(options: argparse.Namespace, step: Step, clock: Clock) -> TrainingRun:
    """The training; an older one with other settings is moved out of its way, not mixed with it."""
    file = ROOT / "configs" / step.config
    cfg, opts = step_config(options, step)
    folder = Path(options.output) / step.name
    environment = {
        **with_packages(ROOT),
        "DETECTRON2_DATASETS": str(Path(options.scenes or builtin_root()).resolve()),
    }
    flags: list[str] = []
    if (os.cpu_count() or 1) >= 2 and step.split_batch and not options.fast:
        # Two processes with a thread each train faster than one with two: much of an iteration is
        # small steps (proposals, matching) that do not fill two cores.
        flags = ["--num-processes", "2"]
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    run = TrainingRun(
        TRAIN_NET,
        file,
        folder,
        cfg.SOLVER.MAX_ITER,
        opts,
        environment,
        {"config": CfgNode.load_yaml_with_base(str(file))},
        flags,
    )
    try:
        run.check_settings()
        changed = ""
    except ValueError as error:
        changed = str(error)
    if folder.exists() and (changed or options.restart):
        old = next(
            p for n in range(1, 10**6) if not (p := folder.with_name(f"{step.name}.{n}")).exists()
        )
        shutil.move(folder, old)
        reason = "Its settings differ" if changed else "Restart"
        clock.say(f"{reason}: the training of an earlier demo is now in {old}")
    return run


def run_step(
    options: argparse.Namespace, step: Step, repeated: set[str], clock: Clock
) -> dict[str, float]:
    """Train and evaluate, if that is not done yet.

    Args:
        options: of the command line.
        step: what to train.
        repeated: names of the steps that were trained in this call; the step joins them if it is.
        clock: to say how far it is.

    Returns:
        The results by name.

    Raises:
        TrainingFailed: with the end of its log.
    """
    if step.start in repeated:  # what was trained from the old weights is of no use any more
        options = argparse.Namespace(**{**vars(options), "restart": True})
    run = prepare_training(options, step, clock)
    finished = run.finished()
    if finished is None:
        repeated.add(step.name)
        clock.say(f"{step.title}: training for {run.max_iter} iterations; log: {run.log_path}")
        train(run, step.title, clock)
        finished = run.finished()
        assert finished is not None  # or `train` has raised
    else:
        clock.say(f"{step.title}: finished already (--restart repeats it).")
    return finished["results"]


def train(run: TrainingRun, title: str, clock: Clock, period: float = 10.0) -> None:
    """Train and evaluate in a process of its own, and say now and then how far it is."""
    before = run.progress().get("iteration", -1)
    if before >= 0:
        clock.say(f"Going on from the last checkpoint (it was at iteration {before + 1:.0f}).")
    start = last = time.monotonic()
    trained, told = 0.0, before
    run.start()
    try:
        while run.running():
            time.sleep(0.5)
            now = time.monotonic()
            if not trained and run.trained():
                trained = now - start
                clock.say("Trained; evaluating on the validation scenes.")
            # The process reports every 20 iterations; nothing new is told once a minute only.
            iteration = run.progress().get("iteration", -1)
            wait = period if iteration != told else 60.0
            if trained or now - last < wait:
                continue
            last, told = now, iteration
            clock.say(_progress_line(run, before, now - start))
    finally:
        run.stop()
    total = time.monotonic() - start
    clock.seconds[f"{title} training"] = trained or total
    clock.seconds[f"{title} evaluation"] = total - clock.seconds[f"{title} training"]


def _progress_line(run: TrainingRun, before: float, seconds: float) -> str:
    state = run.progress()
    done = state.get("iteration", -1) - before
    if done <= 0:
        return "... starting"
    # "time" is measured by the process itself, without its start.
    each = state.get("time", seconds / done)
    left = timedelta(seconds=round(each * (run.max_iter - 1 - state["iteration"])))
    return (
        f"iteration {state['iteration'] + 1:.0f}/{run.max_iter}, loss {state['total_loss']:.2f}, "
        f"{each:.2f} s each, {left} left"
    )


# ---- results ------------------------------------------------------------------------------------


def quality_tables(results: Mapping[Step, Mapping[str, float]]) -> str:
    """PQ, SQ and RQ of the trainings side by side; then PQ of the ways to make the map.

    Args:
        results: of each step, by name.
    """
    names = ("PQ", "SQ", "RQ", "mIoU")
    width = 8 * len(names)
    lines = ["", "Panoptic quality on the validation scenes, in percent", ""]
    lines.append(f"{'':8}" + "".join(f"{step.title:>{width}}" for step in results))
    lines.append(f"{'':8}" + "".join(f"{name:>8}" for name in names) * len(results))
    for title, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
        values = [r[f"panoptic_seg/{name}{suffix}"] for r in results.values() for name in names]
        lines.append(f"{title:8}" + "".join(f"{value:8.1f}" for value in values))
    for step, found in results.items():
        lines += _variant_table(step, found)
    return "\n".join([*lines, ""])


def _variant_table(step: Step, results: Mapping[str, float]) -> list[str]:
    heading = f"{step.title}: PQ by the way it is made"
    width = max(len(text) for text in (*step.variants.values(), heading)) + 2
    lines = ["", f"{heading:{width}}{'all':>8}{'things':>8}{'stuff':>8}"]
    for variant, text in step.variants.items():
        output = f"panoptic_seg_{variant}" if variant else "panoptic_seg"
        values = [results.get(f"{output}/PQ{suffix}") for suffix in ("", "_th", "_st")]
        cells = "".join(f"{'-':>8}" if value is None else f"{value:8.1f}" for value in values)
        lines.append(f"{text:{width}}{cells}")
    parts = [("mIoU of the semantic output", "sem_seg/mIoU"), ("box AP", "bbox/AP")]
    parts.append(("mask AP", "segm/AP"))
    told = [f"{text} {results[key]:.1f}" for text, key in parts if key in results]
    return [*lines, ", ".join(told)]


def draw_sheets(
    options: argparse.Namespace, records: Sequence[dict[str, Any]], clock: Clock
) -> list[Path]:
    """Write a contact sheet for each system."""
    output = Path(options.output)
    paths = []

    def predictor(name: str) -> Predictor:
        return Predictor.from_checkpoint(str(output / name / "model_final.pth"))

    for system in options.systems:
        path = output / f"contact_sheet_{system}.png"
        with clock.stage(f"sheet of {system}", f"Drawing {path.name}."):
            if system == "unified":
                sheet = affinity_sheet(predictor("unified"), records)
            else:
                sheet = solver_sheet(predictor("cops_baseline"), predictor("cops_full"), records)
            write_image(path, sheet)
        paths.append(path)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(arguments)
    clock = Clock()
    steps = [step for step in STEPS if step.system in options.systems]
    try:
        sizes = step_config(options, steps[0])[0].DATASETS.SCENES
        text = (
            f"Making {sizes.NUM_TRAIN} + {sizes.NUM_VAL} scenes of {sizes.WIDTH} x {sizes.HEIGHT}."
        )
        with clock.stage("scenes", text):
            register_scenes(options.scenes or builtin_root(), sizes)
            load_panoptic("scenes_train")
            validation = load_panoptic("scenes_val")
        repeated: set[str] = set()
        results = {}
        for step in steps:
            results[step] = run_step(options, step, repeated, clock)
            print(quality_tables(results), flush=True)
        paths = draw_sheets(options, validation[: options.rows], clock)
    except (TrainingFailed, ValueError, OSError) as error:
        print(f"run_demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.seconds.items())
    clock.say(f"Done. Wall time: {times}.")
    print("\n".join(f"Contact sheet: {path}" for path in paths))
    program = os.path.relpath(sys.executable)
    if program.startswith(".."):
        program = sys.executable
    checkpoint = Path(options.output) / steps[-1].name / "model_final.pth"
    print(f"Your own: {program} tools/demo.py --checkpoint {checkpoint} IMAGES --output FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main())
