#!/usr/bin/env python3
"""The Unified system from nothing to panoptic pictures on a CPU; `make demo` calls this program.

    python tools/run_demo.py
    python tools/run_demo.py --iterations 3000 --output output/longer

Makes synthetic scenes, trains configs/unified/scenes/D2.yaml on them, evaluates on scenes that were
not trained on, prints the panoptic quality and draws a contact sheet. When it was stopped, the same
command goes on where it was; when it was finished, it only draws again (--restart repeats it all).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # also runs where the packages are not installed

import panoptic_common.compat  # noqa: F401, E402  (before detectron2)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402

from panoptic_common.media import read_picture, write_picture  # noqa: E402
from panoptic_common.predictor import Predictor  # noqa: E402
from panoptic_common.register_datasets import (  # noqa: E402
    builtin_root,
    load_panoptic,
    register_scenes,
)
from panoptic_common.segment_ids import read_id_map  # noqa: E402
from panoptic_common.training_run import TrainingFailed, TrainingRun  # noqa: E402
from panoptic_common.visualize import (  # noqa: E402
    contact_sheet,
    draw_affinity,
    draw_boxes,
    draw_panoptic,
    draw_semantic,
    legend,
)
from unified_panoptic import add_unified_panoptic_config  # noqa: E402

CONFIG = ROOT / "configs/unified/scenes/D2.yaml"
SYSTEMS = {"UnifiedPanoptic": "unified_panoptic"}
TITLES = ("picture", "truth", "semantic", "boxes", "panoptic", "affinity of the marked pixel")
# The ways to make the panoptic map that are compared, by their names in TEST.PANOPTIC_VARIANTS.
VARIANTS = {
    "": "argmax of P (the system)",
    "residual_off": "residual off: argmax of the potential",
    "heuristic": "heuristic merger",
    "stride4": "P at stride 4, then enlarged",
    "untrimmed": "small stuff kept",
    "duplicates_kept": "duplicate detections kept",
}
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="output/demo", help="folder (default output/demo)")
    parser.add_argument("--iterations", type=int, help="to train (default: that of the config)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default 0)")
    parser.add_argument("--scenes", help="folder above scenes/ (default: DETECTRON2_DATASETS)")
    parser.add_argument("--rows", type=int, default=6, help="of the contact sheet (default 6)")
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


class Stages:
    """Announces the stages of the demo and keeps their wall times."""

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


def demo_config(options: argparse.Namespace) -> tuple[CfgNode, dict[str, Any]]:
    """The config of the demo, and what it changes about the file."""
    opts: dict[str, Any] = dict(FAST) if options.fast else {}
    opts["SEED"] = options.seed
    # Whoever stops the demo loses at most a minute.
    opts |= {"SOLVER.CHECKPOINT_PERIOD": 50, "SOLVER.CHECKPOINT_KEEP": 1}
    if options.iterations is not None:
        opts["SOLVER.MAX_ITER"] = options.iterations
    opts["TEST.PANOPTIC_VARIANTS"] = repr(tuple(name for name in VARIANTS if name))
    cfg = get_cfg()
    add_unified_panoptic_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list([word for key, value in opts.items() for word in (key, str(value))])
    return cfg, opts


def prepare_training(
    options: argparse.Namespace, cfg: CfgNode, opts: Mapping[str, Any], stages: Stages
) -> TrainingRun:
    """The training; an older one with other settings is moved out of its way, not mixed with it."""
    folder = Path(options.output) / "training"
    environment = {
        # train_net.py expects installed packages.
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DETECTRON2_DATASETS": str(Path(options.scenes or builtin_root()).resolve()),
    }
    flags: list[str] = []
    if (os.cpu_count() or 1) >= 2 and not options.fast:
        # Two processes with a thread each train faster than one with two: much of an iteration is
        # small steps (proposals, matching) that do not fill two cores.
        flags = ["--num-processes", "2"]
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    run = TrainingRun(
        ROOT / "tools/train_net.py",
        CONFIG,
        folder,
        cfg.SOLVER.MAX_ITER,
        opts,
        environment,
        {"config": CfgNode.load_yaml_with_base(str(CONFIG))},
        flags,
    )
    try:
        run.check_settings()
        changed = ""
    except ValueError as error:
        changed = str(error)
    if folder.exists() and (changed or options.restart):
        old = next(
            p for n in range(1, 10**6) if not (p := folder.with_name(f"training.{n}")).exists()
        )
        shutil.move(folder, old)
        reason = "Its settings differ" if changed else "Restart"
        stages.say(f"{reason}: the training of an earlier demo is now in {old}")
    return run


def train(run: TrainingRun, stages: Stages, period: float = 10.0) -> None:
    """Train and evaluate in a process of its own, and say now and then how far it is.

    Raises:
        TrainingFailed: with the end of its log.
    """
    before = run.progress().get("iteration", -1)
    if before >= 0:
        stages.say(f"Going on from the last checkpoint (it was at iteration {before + 1:.0f}).")
    start = last = time.monotonic()
    trained, told = 0.0, before
    run.start()
    try:
        while run.running():
            time.sleep(0.5)
            now = time.monotonic()
            if not trained and run.trained():
                trained = now - start
                stages.say("Trained; evaluating on the validation scenes.")
            # The process reports every 20 iterations; nothing new is told once a minute only.
            iteration = run.progress().get("iteration", -1)
            wait = period if iteration != told else 60.0
            if trained or now - last < wait:
                continue
            last, told = now, iteration
            stages.say(_progress_line(run, before, now - start))
    finally:
        run.stop()
    total = time.monotonic() - start
    stages.seconds["training"] = trained or total
    stages.seconds["evaluation"] = total - stages.seconds["training"]


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


def quality_tables(results: Mapping[str, float]) -> str:
    """PQ, SQ and RQ of all, things and stuff; then PQ of the ways to make the panoptic map."""
    lines = ["", "Panoptic quality on the validation scenes, in percent", ""]
    lines.append(f"{'':10}" + "".join(f"{name:>8}" for name in ("PQ", "SQ", "RQ", "mIoU")))
    for title, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
        values = [results[f"panoptic_seg/{name}{suffix}"] for name in ("PQ", "SQ", "RQ", "mIoU")]
        lines.append(f"{title:10}" + "".join(f"{value:8.1f}" for value in values))
    width = max(len(text) for text in VARIANTS.values()) + 2
    lines += ["", f"{'PQ by the way it is made':{width}}{'all':>8}{'things':>8}{'stuff':>8}"]
    for variant, text in VARIANTS.items():
        output = f"panoptic_seg_{variant}" if variant else "panoptic_seg"
        values = [results.get(f"{output}/PQ{suffix}") for suffix in ("", "_th", "_st")]
        cells = "".join(f"{'-':>8}" if value is None else f"{value:8.1f}" for value in values)
        lines.append(f"{text:{width}}{cells}")
    parts = [("mIoU of the semantic output", "sem_seg/mIoU"), ("box AP", "bbox/AP")]
    parts.append(("mask AP", "segm/AP"))
    told = [f"{text} {results[key]:.1f}" for text, key in parts if key in results]
    return "\n".join([*lines, "", ", ".join(told), ""])


def draw_sheet(predictor: Predictor, records: Sequence[dict[str, Any]]) -> np.ndarray:
    """A row for each record: picture, truth, semantic, boxes, panoptic, affinity."""
    table = predictor.class_table
    rows = []
    for record in records:
        picture = read_picture(record["file_name"])
        truth = read_id_map(record["pan_seg_file_name"])
        found = predictor(picture)
        kept = found.scores >= 0.5
        pixel = central_pixel(truth, record["segments_info"])
        scale = max(1, round(512 / picture.shape[1]))
        rows.append(
            [
                picture,
                draw_panoptic(picture, truth, record["segments_info"], table, scale=scale),
                draw_semantic(picture, found.semantic, table, scale=scale),
                draw_boxes(
                    picture,
                    found.boxes[kept],
                    found.classes[kept].tolist(),
                    found.scores[kept].tolist(),
                    table,
                    scale=scale,
                ),
                draw_panoptic(picture, found.id_map, found.segments_info, table, scale=scale),
                draw_affinity(picture, predictor.affinity(picture, *pixel), pixel, scale=scale),
            ]
        )
    sheet = contact_sheet(rows, TITLES)
    return np.concatenate([sheet, legend(table, sheet.shape[1])])


def central_pixel(id_map: np.ndarray, segments_info: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The pixel deepest inside the largest single thing (without one: the largest segment).

    Args:
        id_map: (H, W) segment ids.
        segments_info: at least "id", "isthing", "iscrowd" and "area".

    Returns:
        x, y.
    """
    if not segments_info:
        return id_map.shape[1] // 2, id_map.shape[0] // 2
    best = max(segments_info, key=lambda s: (s["isthing"] and not s["iscrowd"], s["area"]))
    inside = (id_map == best["id"]).astype(np.uint8)
    # A frame of zeros: the border of the picture counts as a border of the segment.
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(arguments)
    stages = Stages()
    output = Path(options.output)
    cfg, opts = demo_config(options)
    try:
        run = prepare_training(options, cfg, opts, stages)
        sizes = cfg.DATASETS.SCENES
        text = (
            f"Making {sizes.NUM_TRAIN} + {sizes.NUM_VAL} scenes of {sizes.WIDTH} x {sizes.HEIGHT}."
        )
        with stages.stage("scenes", text):
            register_scenes(options.scenes or builtin_root(), sizes)
            load_panoptic("scenes_train")
            validation = load_panoptic("scenes_val")
        finished = run.finished()
        if finished is None:
            stages.say(f"Training for {run.max_iter} iterations; full log: {run.log_path}")
            train(run, stages)
            finished = run.finished()
            assert finished is not None  # or `train` has raised
        else:
            stages.say("Training and evaluation are finished already (--restart repeats them).")
        print(quality_tables(finished["results"]), flush=True)
        path = output / "contact_sheet.png"
        with stages.stage("contact sheet", "Drawing the contact sheet."):
            checkpoint = run.output_dir / "model_final.pth"
            predictor = Predictor.from_checkpoint(str(checkpoint), SYSTEMS)
            write_picture(path, draw_sheet(predictor, validation[: options.rows]))
    except (TrainingFailed, ValueError, OSError) as error:
        print(f"run_demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items())
    stages.say(f"Done. Wall time: {times}.")
    print(f"Contact sheet: {path}")
    program = os.path.relpath(sys.executable)
    if program.startswith(".."):
        program = sys.executable
    print(f"Your own: {program} tools/demo.py --checkpoint {checkpoint} PICTURES --output FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main())
