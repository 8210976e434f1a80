#!/usr/bin/env python3
"""Both systems from nothing to panoptic images on a CPU; `make demo` calls this program.

    python tools/quickstart.py
    python tools/quickstart.py --systems cops --iterations 3000 --output output/longer

Makes synthetic scenes; trains the Unified system on them; pre-trains COPS. From there COPS goes on
twice: through its solver, as the paper does, and with the losses of pre-training. The second ends
with edge costs that are balanced on training images. All are evaluated on scenes that were not
trained on. Their panoptic quality is printed side by side, and contact sheets are drawn. When it
was stopped, the same command goes on where it was; what is finished is only drawn again (--restart
repeats it all).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_common.config import find_config, load_config
from panoptic_common.data.catalog import builtin_root, load_panoptic, register_scenes
from panoptic_common.engine.training_progress import follow, make_room
from panoptic_common.engine.training_run import TrainingFailed, TrainingRun
from panoptic_common.evaluation.comparison import quality_table, variant_table
from panoptic_common.inference.media import write_image
from panoptic_common.inference.predictor import Predictor
from panoptic_common.inference.record_sheets import demo_columns, draw_record_sheet
from panoptic_common.processes import stopping
from panoptic_tools.arguments import (
    FAULTY,
    make_parser,
    orderly,
    output_folder,
    refuse,
    require_at_least,
)
from panoptic_tools.stage_clock import Clock

TRAIN_NET = Path(__file__).resolve().with_name("train_net.py")
MODEL = "model_final.pth"
COPS_VARIANTS = {"": "solved at stride 4 (the system)", "untrimmed": "small segments kept"}


@dataclass(frozen=True, eq=False)
class Step:
    """One training of the demo.

    Attributes:
        name: of its folder.
        title: in tables.
        config: file below configs/, in the folder of its system.
        variants: ways to make the panoptic map that are compared, by their names in
            TEST.PANOPTIC_VARIANTS; "" is the system's own.
        start: name of the step whose weights it starts from; "": from random weights.
        split_batch: whether two processes may share a batch.
    """

    name: str
    title: str
    config: str
    variants: Mapping[str, str]
    start: str = ""
    split_batch: bool = True

    @property
    def system(self) -> str:
        """What --systems calls its system."""
        return self.config.partition("/")[0]


STEPS = (
    Step(
        "unified",
        "Unified",
        "unified/scenes/one_image.yaml",
        {
            "": "argmax of P (the system)",
            "missed_stuff": "missed things become stuff, as in the paper",
            "residual_off": "residual off: argmax of the potential",
            "heuristic": "heuristic merger",
            "stride4": "P at stride 4, then enlarged",
            "untrimmed": "small stuff kept",
            "duplicates_kept": "duplicate detections kept",
        },
    ),
    Step("cops_baseline", "COPS baseline", "cops/scenes/pretrain.yaml", COPS_VARIANTS),
    # Panoptic quality is no mean over images, so two losses of four are not one of eight.
    Step("cops_full", "COPS full", "cops/scenes/full.yaml", COPS_VARIANTS, "cops_baseline", False),
    Step(
        *("cops_calibrated", "COPS calibrated", "cops/scenes/calibrated.yaml"),
        *(COPS_VARIANTS, "cops_baseline"),
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


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    systems = sorted({step.system for step in STEPS}, reverse=True)
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--output", type=output_folder, default="output/demo", help="folder (default output/demo)")
    add("--systems", nargs="+", choices=systems, default=systems, help="default: both")
    add("--iterations", type=int, help="of each training (default: its config's)")
    add("--seed", type=int, default=0, help="of the trainings (default 0)")
    add("--scenes", type=output_folder, help="folder above scenes/ (default: DETECTRON2_DATASETS)")
    add("--rows", type=int, default=6, help="of the contact sheets (default 6)")
    add("--restart", action="store_true", help="repeat what is finished")
    add("--fast", action="store_true", help="tiny: only shows that all runs")
    options = parser.parse_args(words)
    require_at_least(parser, options, 1, "iterations", "rows")
    require_at_least(parser, options, 0, "seed")
    return options


def prepare_training(options: argparse.Namespace, step: Step, clock: Clock) -> TrainingRun:
    """Describe the training; an older one with other settings is moved out of its way."""
    file = find_config(Path("configs", step.config))
    opts: dict[str, Any] = dict(FAST) if options.fast else {}
    opts["SEED"] = options.seed
    # Whoever stops the demo loses at most a minute.
    opts |= {"SOLVER.CHECKPOINT_PERIOD": 50, "SOLVER.CHECKPOINT_KEEP": 1}
    if options.iterations is not None:
        opts["SOLVER.MAX_ITER"] = options.iterations
    if step.start:
        opts["MODEL.WEIGHTS"] = str(Path(options.output) / step.start / MODEL)
    opts["TEST.PANOPTIC_VARIANTS"] = repr(tuple(name for name in step.variants if name))
    cfg = load_config(file, opts)
    folder = Path(options.output, step.name)
    environment = {"DETECTRON2_DATASETS": str(Path(options.scenes or builtin_root()).resolve())}
    flags: list[str] = []
    if (os.cpu_count() or 1) >= 2 and step.split_batch and not options.fast:
        # Two processes with a thread each train faster than one with two. Much of an iteration is
        # small steps (proposals, matching) that do not fill two cores.
        flags = ["--num-processes", "2"]
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    content = {"config": cfg.load_yaml_with_base(str(file))}
    max_iter = cfg.SOLVER.MAX_ITER
    run = TrainingRun(TRAIN_NET, file, folder, max_iter, opts, environment, content, flags)
    if moved := make_room(run, options.restart):
        clock.say(moved)
    return run


def run_step(
    options: argparse.Namespace, step: Step, repeated: set[str], clock: Clock
) -> dict[str, float]:
    """Train and evaluate, if that is not done yet; returns the results by name.

    `repeated` names the steps that were trained in this call; the step joins them if it is.

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
        if "iteration" in run.progress():
            clock.say(f"Going on from iteration {run.progress()['iteration'] + 1:.0f} or before.")
        trained, evaluated = follow(run, lambda: clock.say("Trained; evaluating."))
        clock.seconds |= {f"{step.title} training": trained, f"{step.title} evaluation": evaluated}
        finished = run.finished()
        assert finished is not None  # or `follow` has raised
    else:
        clock.say(f"{step.title}: finished already (--restart repeats it).")
    return finished["results"]


def draw_sheet(system: str, output: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Write the contact sheet of a system; returns its place."""
    checkpoints = [output / step.name / MODEL for step in STEPS if step.system == system]
    predictors = [Predictor.from_checkpoint(str(place)) for place in checkpoints]
    path = output / f"contact_sheet_{system}.png"
    write_image(path, draw_record_sheet(predictors, records, demo_columns(predictors[-1])))
    return path


def print_tables(results: Mapping[Step, Mapping[str, float]]) -> None:
    """Print the quality of the trainings side by side, then the ways to make each one's map."""
    print("\nPanoptic quality on the validation scenes, in percent\n")
    print(quality_table({step.title: figures for step, figures in results.items()}))
    for step, figures in results.items():
        print(f"\n{variant_table(step.title, figures, step.variants)}")
    print(flush=True)


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    clock = Clock()
    steps = [step for step in STEPS if step.system in options.systems]
    try:
        file = find_config(Path("configs", steps[0].config))
        sizes = load_config(file, FAST if options.fast else {}).DATASETS.SCENES
        size = f"{sizes.WIDTH} x {sizes.HEIGHT}"
        clock.say(f"Making {sizes.NUM_TRAIN} + {sizes.NUM_VAL} scenes of {size}.")
        register_scenes(options.scenes or builtin_root(), sizes)
        load_panoptic("scenes_train")
        validation = load_panoptic("scenes_val")[: options.rows]
        clock.mark("scenes")
        repeated: set[str] = set()
        results, sheets = {}, []
        for step in steps:
            results[step] = run_step(options, step, repeated, clock)
            print_tables(results)
        for system in options.systems:
            clock.say(f"Drawing the contact sheet of {system}.")
            sheets.append(draw_sheet(system, Path(options.output), validation))
            clock.mark(f"sheet of {system}")
    except TrainingFailed as error:
        return refuse(__file__, error, FAULTY)
    except (ValueError, OSError) as error:
        return refuse(__file__, error)
    except SystemExit as end:
        sentence = "stopped; the same command goes on from here"
        return refuse(__file__, sentence, stopping.status_of(end))
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.seconds.items())
    clock.say(f"Done. Wall time: {times}.")
    print("\n".join(f"Contact sheet: {path}" for path in sheets))
    checkpoint = Path(options.output) / steps[-1].name / MODEL
    program = f"{sys.executable} {TRAIN_NET.with_name('demo.py')}"
    print(f"Your own: {program} --checkpoint {checkpoint} IMAGES --output FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main())
