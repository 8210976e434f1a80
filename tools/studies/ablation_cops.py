#!/usr/bin/env python3
r"""What training through the solver brings, on the synthetic scenes: the whole pipeline, by seed.

    python tools/studies/ablation_cops.py --seeds 0 1 2 --jobs 2
    python tools/studies/ablation_cops.py --configs configs/cops/cityscapes --jobs 1 \
        --names full full_N1 full_separate --test-set cityscapes_fine_panoptic_val
    python tools/studies/ablation_cops.py --configs configs/cops/nuclei --test-set nuclei_val \
        --names control full full_lambda_1000 --start cops/zoo/cops-nuclei.safetensors

For each seed, trains the config `pretrain` of configs/cops/scenes. Then it trains every other
config from these weights, or from random ones if the config names none (`single_stage`). `control`
goes on with the pre-training losses for as long as the others take, which is what a gain must be
measured against. All are evaluated on --test-set, by default `scenes_test`, which neither training
nor tuning saw.

Prints, and writes to table.md and table.json of the output folder, mean and spread over the seeds.
Also the differences to the control and to the baseline seed by seed. A run that was stopped goes on
when the command is repeated; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from panoptic_common.engine.training_run import TrainingRun
from panoptic_tools.arguments import checked, input_file
from panoptic_tools.studies.library.config_runs import (
    check_study,
    prepare_data,
    run_config,
    run_folder,
    run_study,
    say,
    study_parser,
    threads_per_job,
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
from panoptic_tools.studies.library.surrogate_curves import read_curves
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.studies.library.training_queue import Finished, run_all

if TYPE_CHECKING:
    from detectron2.config import CfgNode

BASELINE, CONTROL = "pretrain", "control"
CONFIGS = (
    CONTROL,
    "control_all",
    "full_linear_share",
    "full_paper",
    "full_N1",
    "full_separate",
    "full_mix",
    "full_separate_mix",
)
COLUMNS = (
    *QUALITIES,
    Column("mIoU sem", "sem_seg/mIoU", False),
    Column("AP mask", "segm/AP", False),
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = study_parser(__doc__, "configs/cops/scenes", CONFIGS, "output/ablation_cops")
    parser.add_argument(
        "--iterations",
        nargs="+",
        default=[],
        metavar="NAME=N",
        help="of pretrain and of other configs; default: SOLVER.MAX_ITER of each",
    )
    parser.add_argument(
        "--start",
        type=input_file,
        metavar="FILE",
        help="weights that stand for the trained baseline, the same for all seeds",
    )
    parser.add_argument("--variants", nargs="*", default=[], help="of TEST.PANOPTIC_VARIANTS")
    parsed = parser.parse_args(arguments)
    if BASELINE in parsed.names:
        parser.error(f"--names: {BASELINE} is always trained, as the others start from it")
    names = (BASELINE, *parsed.names)
    parsed.iterations = checked(parser, lambda: read_iterations(parsed.iterations, names))
    check_study(parser, parsed, names)
    return parsed


def read_iterations(words: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Return numbers of iterations by config from NAME=N.

    Args:
        words: of the command line.
        names: of the configs that are trained.

    Raises:
        ValueError: a word has another form, a number below 1, or a config that is not trained.
    """
    iterations = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in names or not number.isdecimal() or int(number) < 1:
            raise ValueError(
                f"--iterations: {word!r} is not NAME=N with N of at least 1 and one of {names}"
            )
        iterations[name] = int(number)
    return iterations


def starts_from_baseline(cfg: CfgNode) -> bool:
    """Return whether a config goes on from the baseline: it names weights, or starts afresh."""
    return bool(cfg.MODEL.WEIGHTS)


def make_run(arguments: argparse.Namespace, name: str, seed: int) -> TrainingRun:
    """Return one training, from random weights or from those of the baseline of its seed."""
    opts: dict[str, Any] = {
        "TEST.PANOPTIC_VARIANTS": repr(tuple(arguments.variants)),
        "MODEL.COPS.SOLVER.THREADS": threads_per_job(arguments.jobs),
    }
    cfg = run_config(arguments, name)
    iterations = arguments.iterations.get(name, cfg.SOLVER.MAX_ITER)
    if name != BASELINE and starts_from_baseline(cfg):  # that may start from ImageNet's weights
        trained = run_folder(arguments, BASELINE, seed) / "model_final.pth"
        opts["MODEL.WEIGHTS"] = str(arguments.start or trained)
    elif name == BASELINE and arguments.start:  # evaluated only: one step of hardly any rate
        iterations, opts["MODEL.WEIGHTS"] = 1, str(arguments.start)
        opts |= {"SOLVER.BASE_LR": 1e-12, "MODEL.COPS.FREEZE": True}
    return training_run(arguments, name, seed, iterations, opts)


def train(arguments: argparse.Namespace) -> Finished:
    """Train what starts from random weights, with the baselines, then what starts from these."""
    configs = {name: run_config(arguments, name) for name in arguments.names}
    later = [name for name, cfg in configs.items() if starts_from_baseline(cfg)]
    first = [BASELINE, *(name for name in configs if name not in later)]
    prepare_data(run_config(arguments, BASELINE))
    finished: Finished = {}
    for names in (first, later):
        runs = {(x, s): make_run(arguments, x, s) for s in arguments.seeds for x in names}
        finished.update(run_all(runs, arguments.jobs, say))
    return finished


# ---- the tables ---------------------------------------------------------------------------------


def make_tables(finished: Finished, seeds: Sequence[int]) -> dict[str, Any]:
    """Return rows and differences as plain numbers, all in percent.

    Args:
        finished: results of each (config, seed).
        seeds: in the order of the differences.
    """
    table = SeedTable(finished, make_rows(finished), seeds)
    names = [row for row, (_, output) in table.rows.items() if output == MAIN_OUTPUT]
    wanted = [Difference(x, CONTROL) for x in names if x not in (BASELINE, CONTROL)]
    wanted += [Difference(x, BASELINE) for x in names if x != BASELINE]
    wanted += [Difference(row, table.rows[row][0]) for row in table.rows if row not in names]
    return {
        "seeds": list(seeds),
        "rows": {
            row: {**table.spreads(row, COLUMNS), "seconds": table.seconds(row)}
            for row in table.rows
        },
        "differences": table.difference_entries(wanted),
    }


def make_rows(finished: Finished) -> dict[str, tuple[str, str]]:
    """Return the rows of the table: name -> (trained config, output of the evaluation)."""
    outputs = panoptic_outputs(finished)
    rows = {config: (config, MAIN_OUTPUT) for config in outputs}
    for config, names in outputs.items():
        for output in names:
            if output != MAIN_OUTPUT:
                rows[f"{config}, {output.removeprefix(f'{MAIN_OUTPUT}_')}"] = (config, output)
    return rows


def as_markdown(tables: Mapping[str, Any]) -> str:
    """Return all tables in Markdown."""
    headings = [*(column.heading for column in COLUMNS), "seconds"]
    point = "{iteration}: {surrogate:.1f} / {true:.1f}"
    rows = [
        [config, ", ".join(point.format(**values) for values in curve)]
        for config, curve in tables["curves"].items()
    ]
    return (
        comparison_in_markdown(tables, headings, {"": "of"})
        + "\nSurrogate / true PQ of the training batches by iteration, mean over seeds.\n\n"
        + markdown_table(["", "iteration: surrogate / true"], rows)
        + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(arguments)

    def tables_with_curves(finished: Finished, seeds: Sequence[int]) -> dict[str, Any]:
        folders = {x: [run_folder(options, x, seed) for seed in seeds] for x in options.names}
        return {**make_tables(finished, seeds), "curves": read_curves(folders)}

    return run_study("ablation_cops", options, train, tables_with_curves, as_markdown)


if __name__ == "__main__":
    sys.exit(main())
