#!/usr/bin/env python3
"""Table 1 of the Unified paper on the synthetic scenes: which part brings what.

    python tools/studies/ablation.py --seeds 0 1 2 --iterations 1500 --jobs 2

Trains the leaves A, B, C2 and D2 of configs/unified/scenes, or any others by --leaves, with several
seeds and one budget: the same scenes, batch and number of iterations. C1 and D1 are the networks of
C2 and D2 with the heuristic merger, so they need no training of their own. All are evaluated on
`scenes_test`, which neither training nor tuning saw, as their config says, and also with the
residual off, P formed at stride 4, and small stuff kept.

Prints, and writes to table.md and table.json of the output folder: mean and spread over the seeds,
and the differences between the models seed by seed. A run that was stopped goes on when the command
is repeated; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

from detectron2.config import CfgNode

from panoptic_common.engine.training_run import TrainingFailed, TrainingRun
from panoptic_tools.studies.library.leaf_runs import (
    check_leaf_arguments,
    leaf_config,
    leaf_run,
    prepare_scenes,
)
from panoptic_tools.studies.library.seed_tables import (
    Column,
    SeedTable,
    comparison_in_markdown,
    write_tables,
)
from panoptic_tools.studies.library.training_queue import Finished, run_all, run_label

ROOT = Path(__file__).resolve().parents[2]

TRAIN_NET = ROOT / "tools/train_net.py"
LEAVES = ("A", "B", "C2", "D2")
# Models that are another one's network with the heuristic merger: name, trained leaf.
MERGED = {"C1": "C2", "D1": "D2"}
DIFFERENCES = (
    ("B", "A", "affinity and panoptic loss, no masks"),
    ("D2", "C2", "the same with masks, argmax"),
    ("D1", "C1", "end-to-end training, seen through the merger"),
    ("C2", "C1", "argmax instead of the merger, trained in parts"),
    ("D2", "D1", "argmax instead of the merger, trained end to end"),
    ("B", "B, residual off", "the residual alone"),
    ("D2", "D2, residual off", "the residual alone, with masks"),
    ("B", "control_no_affinity_boxes", "affinity, both with the panoptic loss"),
    ("D2", "control_no_affinity", "affinity with masks, both with the panoptic loss"),
    ("control_no_affinity", "C2", "panoptic loss without affinity"),
    ("B", "H_truth", "predicted detections in training instead of true ones"),
    ("D2", "F_variant_B", "potential C instead of B"),
    ("D2", "F_variant_A", "potential C instead of A"),
)
# What becomes of a row's name with each variant, and what the difference to it shows.
SUFFIXES = {
    "residual_off": ("residual off", ""),  # in DIFFERENCES
    "stride4": ("P at stride 4", "P at output resolution"),
    "untrimmed": ("untrimmed", "trimming of small stuff"),
}
COLUMNS = (
    Column("PQ", "PQ", True),
    Column("PQ th", "PQ_th", True),
    Column("PQ st", "PQ_st", True),
    Column("SQ", "SQ", True),
    Column("RQ", "RQ", True),
    Column("mIoU", "mIoU", True),
    Column("mIoU sem", "sem_seg/mIoU", False),
    Column("AP box", "bbox/AP", False),
    Column("AP mask", "segm/AP", False),
)
# In the table of differences.
COMPARED = COLUMNS[:3]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--leaves", nargs="+", default=list(LEAVES), help="default A B C2 D2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, help="default: SOLVER.MAX_ITER of the configs")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side (default 2)")
    parser.add_argument("--output", default="output/ablation", help="default output/ablation")
    parser.add_argument("--configs", default=str(ROOT / "configs/unified/scenes"))
    parser.add_argument("opts", nargs="*", help="config keys and values for all runs, after --")
    parsed = parser.parse_args(arguments)
    for leaf in parsed.leaves:
        if leaf in MERGED:
            parser.error(f"{leaf} is {MERGED[leaf]} with the heuristic merger: name {MERGED[leaf]}")
    check_leaf_arguments(parser, parsed, parsed.leaves, ("jobs", "iterations"))
    return parsed


# ---- running ------------------------------------------------------------------------------------


def make_runs(arguments: argparse.Namespace) -> dict[tuple[str, int], TrainingRun]:
    """All trainings, seed by seed, and the scenes that they need."""
    runs = {}
    for seed in arguments.seeds:
        for leaf in arguments.leaves:
            cfg = leaf_config(arguments, leaf)
            runs[leaf, seed] = leaf_run(
                TRAIN_NET,
                ROOT,
                arguments,
                leaf,
                seed,
                arguments.iterations or cfg.SOLVER.MAX_ITER,
                opts={"TEST.PANOPTIC_VARIANTS": repr(variants_of(cfg))},
                defaults={"DATALOADER.NUM_WORKERS": 0},
            )
    prepare_scenes(cfg.DATASETS.SCENES, say)
    return runs


def variants_of(cfg: CfgNode) -> tuple[str, ...]:
    """What can be evaluated beside a model's own way: the merger needs masks, for example."""
    merger = ("heuristic",) if cfg.MODEL.MASK_ON else ()
    residual = ("residual_off",) if cfg.MODEL.UNIFIED.AFFINITY.ENABLED else ()
    return (*merger, *residual, "stride4", "untrimmed")


# ---- the tables ---------------------------------------------------------------------------------


def make_rows(finished: Finished) -> dict[str, tuple[str, str]]:
    """Rows of the table: name -> (trained leaf, output of the evaluation)."""
    outputs: dict[str, set[str]] = {}
    for (leaf, _), done in finished.items():
        names = {name.split("/")[0] for name in done["results"]}
        outputs.setdefault(leaf, set()).update(n for n in names if n.startswith("panoptic_seg"))
    merged = {leaf: name for name, leaf in MERGED.items()}
    order = sorted(outputs, key=lambda leaf: (leaf not in LEAVES, leaf))
    rows = {}
    for leaf in order:
        if "panoptic_seg_heuristic" in outputs[leaf]:
            name = merged.get(leaf, f"{leaf}, heuristic merger")
            rows[name] = (leaf, "panoptic_seg_heuristic")
        rows[leaf] = (leaf, "panoptic_seg")
        if "panoptic_seg_residual_off" in outputs[leaf]:
            rows[f"{leaf}, residual off"] = (leaf, "panoptic_seg_residual_off")
    for variant in ("stride4", "untrimmed"):
        for leaf in order:
            if f"panoptic_seg_{variant}" in outputs[leaf]:
                rows[f"{leaf}, {SUFFIXES[variant][0]}"] = (leaf, f"panoptic_seg_{variant}")
    return rows


def make_tables(finished: Finished, seeds: Sequence[int]) -> dict[str, Any]:
    """Rows and differences as plain numbers, all in percent."""
    rows = make_rows(finished)
    table = SeedTable(finished, rows, seeds)
    wanted = list(DIFFERENCES)
    for row, (leaf, output) in rows.items():
        meaning = SUFFIXES.get(output.removeprefix("panoptic_seg_"), ("", ""))[1]
        wanted += [(leaf, row, meaning)] if meaning else []
    return {
        "seeds": list(seeds),
        "rows": {row: table.spreads(row, COLUMNS) for row in rows},
        "differences": [
            {
                "of": f"{more} - ({less})" if "," in less else f"{more} - {less}",
                "meaning": meaning,
                **table.differences(more, less, COMPARED),
            }
            for more, less, meaning in wanted
            if more in rows and less in rows
        ],
        "seconds": {
            run_label(key): round(done["seconds"]) for key, done in sorted(finished.items())
        },
    }


def as_markdown(tables: Mapping[str, Any]) -> str:
    """Both tables in Markdown."""
    lines = comparison_in_markdown(
        tables,
        [column.heading for column in COLUMNS],
        [column.heading for column in COMPARED],
        {"": "of", "what it shows": "meaning"},
    )
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """Print a line at once, also into a file."""
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        finished = run_all(make_runs(options), options.jobs, say)
    except (ValueError, OSError, TrainingFailed) as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoints.", file=sys.stderr)
        return 130
    tables = make_tables(finished, options.seeds)
    print(write_tables(Path(options.output), tables, as_markdown(tables)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
