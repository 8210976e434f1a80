#!/usr/bin/env python3
r"""Table 1 of the Unified paper on synthetic scenes or any data set: which part brings what.

    python tools/studies/ablation.py --seeds 0 1 2 --iterations 1500 --jobs 2
    python tools/studies/ablation.py --configs configs/unified/cityscapes --jobs 1 \
        --test-set cityscapes_fine_panoptic_val

Trains the configs A, B, C2 and D2 of configs/unified/scenes, or any others by --names, with several
seeds. All have one budget: the same scenes, batch and number of iterations. C1 and D1 are the
networks of C2 and D2 with the heuristic merger, so they need no training of their own. All are
evaluated on --test-set, by default `scenes_test`, which neither training nor tuning saw. They are
also evaluated with the residual off, P formed at stride 4, and small stuff kept.

Prints, and writes to table.md and table.json of the output folder, mean and spread over the seeds.
Also the differences between the models seed by seed. A run that was stopped goes on when the
command is repeated; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from panoptic_tools.arguments import require_at_least
from panoptic_tools.studies.library.config_runs import (
    check_study,
    prepare_data,
    run_config,
    run_study,
    say,
    study_parser,
    training_run,
)
from panoptic_tools.studies.library.seed_tables import (
    MAIN_OUTPUT,
    QUALITIES,
    Column,
    Difference,
    SeedTable,
    comparison_in_markdown,
    panoptic_outputs,
)
from panoptic_tools.studies.library.training_queue import Finished, run_all, run_label

if TYPE_CHECKING:
    from detectron2.config import CfgNode

CONFIGS = ("A", "B", "C2", "D2")
# Models that are another one's network with the heuristic merger: name, trained config.
MERGED = {"C1": "C2", "D1": "D2"}
DIFFERENCES = (
    Difference("B", "A", "affinity and panoptic loss, no masks"),
    Difference("D2", "C2", "the same with masks, argmax"),
    Difference("D1", "C1", "end-to-end training, seen through the merger"),
    Difference("C2", "C1", "argmax instead of the merger, trained in parts"),
    Difference("D2", "D1", "argmax instead of the merger, trained end to end"),
    Difference("B", "B, residual off", "the residual alone"),
    Difference("D2", "D2, residual off", "the residual alone, with masks"),
    Difference("B", "control_no_affinity_boxes", "affinity, both with the panoptic loss"),
    Difference("D2", "control_no_affinity", "affinity with masks, both with the panoptic loss"),
    Difference("control_no_affinity", "C2", "panoptic loss without affinity"),
    Difference("B", "H_truth", "predicted detections in training instead of true ones"),
    Difference("D2", "F_variant_B", "potential C instead of B"),
    Difference("D2", "F_variant_A", "potential C instead of A"),
)
# What becomes of a row's name with each variant, and what the difference to it shows.
SUFFIXES = {
    "residual_off": ("residual off", ""),  # in DIFFERENCES
    "stride4": ("P at stride 4", "P at output resolution"),
    "untrimmed": ("untrimmed", "trimming of small stuff"),
}
COLUMNS = (
    *QUALITIES,
    Column("mIoU", "mIoU", True),
    Column("mIoU sem", "sem_seg/mIoU", False),
    Column("AP box", "bbox/AP", False),
    Column("AP mask", "segm/AP", False),
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = study_parser(__doc__, "configs/unified/scenes", CONFIGS, "output/ablation")
    parser.add_argument("--iterations", type=int, help="default: SOLVER.MAX_ITER of the configs")
    parsed = parser.parse_args(arguments)
    for name in parsed.names:
        if name in MERGED:
            parser.error(f"{name} is {MERGED[name]} with the heuristic merger: name {MERGED[name]}")
    require_at_least(parser, parsed, 1, "iterations")
    check_study(parser, parsed, parsed.names)
    return parsed


def train(arguments: argparse.Namespace) -> Finished:
    """Run all trainings, seed by seed, on scenes that are made before."""
    runs = {}
    for seed in arguments.seeds:
        for name in arguments.names:
            cfg = run_config(arguments, name)
            runs[name, seed] = training_run(
                arguments,
                name,
                seed,
                arguments.iterations or cfg.SOLVER.MAX_ITER,
                opts={"TEST.PANOPTIC_VARIANTS": repr(variants_of(cfg))},
                defaults={"DATALOADER.NUM_WORKERS": 0},
            )
    prepare_data(cfg)
    return run_all(runs, arguments.jobs, say)


def variants_of(cfg: CfgNode) -> tuple[str, ...]:
    """Return what can be evaluated beside a model's own way: the merger needs masks, for example.

    Args:
        cfg: the model's.
    """
    merger = ("heuristic",) if cfg.MODEL.MASK_ON else ()
    residual = ("residual_off",) if cfg.MODEL.UNIFIED.AFFINITY.ENABLED else ()
    return (*merger, *residual, "stride4", "untrimmed")


# ---- the tables ---------------------------------------------------------------------------------


def make_rows(finished: Finished) -> dict[str, tuple[str, str]]:
    """Return the rows of the table: name -> (trained config, output of the evaluation)."""
    outputs = panoptic_outputs(finished)
    merged = {config: name for name, config in MERGED.items()}
    order = sorted(outputs, key=lambda config: (config not in CONFIGS, config))
    rows = {}
    for config in order:
        if f"{MAIN_OUTPUT}_heuristic" in outputs[config]:
            name = merged.get(config, f"{config}, heuristic merger")
            rows[name] = (config, f"{MAIN_OUTPUT}_heuristic")
        rows[config] = (config, MAIN_OUTPUT)
        if f"{MAIN_OUTPUT}_residual_off" in outputs[config]:
            rows[f"{config}, residual off"] = (config, f"{MAIN_OUTPUT}_residual_off")
    for variant in ("stride4", "untrimmed"):
        for config in order:
            if f"{MAIN_OUTPUT}_{variant}" in outputs[config]:
                rows[f"{config}, {SUFFIXES[variant][0]}"] = (config, f"{MAIN_OUTPUT}_{variant}")
    return rows


def make_tables(finished: Finished, seeds: Sequence[int]) -> dict[str, Any]:
    """Return rows and differences as plain numbers, all in percent.

    Args:
        finished: results of each (config, seed).
        seeds: in the order of the differences.
    """
    table = SeedTable(finished, make_rows(finished), seeds)
    wanted = list(DIFFERENCES)
    for row, (config, output) in table.rows.items():
        meaning = SUFFIXES.get(output.removeprefix(f"{MAIN_OUTPUT}_"), ("", ""))[1]
        wanted += [Difference(config, row, meaning)] if meaning else []
    return {
        "seeds": list(seeds),
        "rows": {row: table.spreads(row, COLUMNS) for row in table.rows},
        "differences": table.difference_entries(wanted),
        "seconds": {
            run_label(key): round(done["seconds"]) for key, done in sorted(finished.items())
        },
    }


def as_markdown(tables: Mapping[str, Any]) -> str:
    """Return both tables in Markdown."""
    headings = [column.heading for column in COLUMNS]
    return comparison_in_markdown(tables, headings, {"": "of", "what it shows": "meaning"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    return run_study("ablation", parse_arguments(arguments), train, make_tables, as_markdown)


if __name__ == "__main__":
    sys.exit(main())
