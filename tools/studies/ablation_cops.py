#!/usr/bin/env python3
"""What training through the solver brings, on the synthetic scenes: the whole pipeline, by seed.

    python tools/studies/ablation_cops.py --seeds 0 1 2 --jobs 2

For each seed, pre-trains the leaf `pretrain` of configs/cops/scenes, then trains every other leaf
from its weights, or from random ones if the config names none (`single_stage`). `control` goes on
with the pre-training losses for as long as the others take, which is what a gain must be measured
against. All are evaluated on `scenes_test`, which neither training nor tuning saw.

Prints, and writes to table.md and table.json of the output folder: mean and spread over the seeds,
and the differences to the control and to the baseline seed by seed. A run that was stopped goes on
when the command is repeated; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

from detectron2.config import CfgNode

from panoptic_common.engine.training_run import TrainingFailed, TrainingRun
from panoptic_tools.studies.library.leaf_runs import (
    check_leaf_arguments,
    cores_each,
    leaf_config,
    leaf_run,
    prepare_scenes,
    run_folder,
)
from panoptic_tools.studies.library.seed_tables import (
    Column,
    SeedTable,
    comparison_in_markdown,
    markdown_rows,
    spread,
    write_tables,
)
from panoptic_tools.studies.library.training_queue import Finished, run_all

ROOT = Path(__file__).resolve().parents[2]

TRAIN_NET = ROOT / "tools/train_net.py"
BASELINE, CONTROL = "pretrain", "control"
LEAVES = (
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
    Column("PQ", "PQ", True),
    Column("PQ th", "PQ_th", True),
    Column("PQ st", "PQ_st", True),
    Column("SQ", "SQ", True),
    Column("RQ", "RQ", True),
    Column("mIoU sem", "sem_seg/mIoU", False),
    Column("AP mask", "segm/AP", False),
)
# In the table of differences.
COMPARED = COLUMNS[:3]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--leaves", nargs="+", default=list(LEAVES), help=f"default {LEAVES}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side (default 2)")
    parser.add_argument(
        "--iterations",
        nargs="+",
        default=[],
        metavar="LEAF=N",
        help="of pretrain and of other leaves; default: those of their configs",
    )
    parser.add_argument("--output", default="output/ablation_cops")
    parser.add_argument("--configs", default=str(ROOT / "configs/cops/scenes"))
    parser.add_argument("--variants", nargs="*", default=[], help="of TEST.PANOPTIC_VARIANTS")
    parser.add_argument("opts", nargs="*", help="config keys and values for all runs, after --")
    parsed = parser.parse_args(arguments)
    leaves = (BASELINE, *parsed.leaves)
    check_leaf_arguments(parser, parsed, leaves, ("jobs",))
    try:
        parsed.iterations = read_iterations(parsed.iterations, leaves)
    except ValueError as error:
        parser.error(f"--iterations: {error}")
    if BASELINE in parsed.leaves:
        parser.error(f"--leaves: {BASELINE} is always trained, as the others start from it")
    return parsed


def read_iterations(words: Sequence[str], leaves: Sequence[str]) -> dict[str, int]:
    """Numbers of iterations by leaf from LEAF=N.

    Raises:
        ValueError: a word has another form, a number below 1, or a leaf that is not trained.
    """
    iterations = {}
    for word in words:
        leaf, _, number = word.partition("=")
        if leaf not in leaves or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"{word!r} is not LEAF=N with N of at least 1 and one of {leaves}")
        iterations[leaf] = int(number)
    return iterations


def starts_from_baseline(cfg: CfgNode) -> bool:
    """Whether a leaf goes on from the baseline: its config names weights, or it starts afresh."""
    return bool(cfg.MODEL.WEIGHTS)


def make_run(arguments: argparse.Namespace, leaf: str, seed: int) -> TrainingRun:
    """One training, from random weights or from those of the baseline of its seed."""
    opts: dict[str, Any] = {
        "TEST.PANOPTIC_VARIANTS": repr(tuple(arguments.variants)),
        "MODEL.COPS.SOLVER.THREADS": cores_each(arguments.jobs),
    }
    cfg = leaf_config(arguments, leaf)
    iterations = arguments.iterations.get(leaf, cfg.SOLVER.MAX_ITER)
    if starts_from_baseline(cfg):
        opts["MODEL.WEIGHTS"] = str(run_folder(arguments, BASELINE, seed) / "model_final.pth")
    return leaf_run(TRAIN_NET, ROOT, arguments, leaf, seed, iterations, opts)


def run_pipeline(arguments: argparse.Namespace) -> Finished:
    """What starts from random weights, the baselines among it, then what starts from these."""
    configs = {x: leaf_config(arguments, x) for x in arguments.leaves}
    later = [leaf for leaf, cfg in configs.items() if starts_from_baseline(cfg)]
    first = [BASELINE, *(leaf for leaf in configs if leaf not in later)]
    prepare_scenes(leaf_config(arguments, BASELINE).DATASETS.SCENES, say)
    finished: Finished = {}
    for leaves in (first, later):
        runs = {(x, s): make_run(arguments, x, s) for s in arguments.seeds for x in leaves}
        finished.update(run_all(runs, arguments.jobs, say))
    return finished


# ---- the tables ---------------------------------------------------------------------------------


def make_tables(finished: Finished, seeds: Sequence[int]) -> dict[str, Any]:
    """Rows and differences as plain numbers, all in percent.

    Args:
        finished: (leaf, seed) -> results of train_net.py.
        seeds: in the order of the columns.
    """
    rows = make_rows(finished)
    table = SeedTable(finished, rows, seeds)
    leaves = [row for row, (_, output) in rows.items() if output == "panoptic_seg"]
    wanted = [(x, CONTROL) for x in leaves if x not in (BASELINE, CONTROL) and CONTROL in leaves]
    wanted += [(x, BASELINE) for x in leaves if x != BASELINE]
    wanted += [(row, leaf) for row, (leaf, output) in rows.items() if output != "panoptic_seg"]
    return {
        "seeds": list(seeds),
        "rows": {
            row: {
                **table.spreads(row, COLUMNS),
                "seconds": spread([finished[leaf, s]["seconds"] for s in seeds]),
            }
            for row, (leaf, _) in rows.items()
        },
        "differences": [
            {"of": f"{more} - {less}", **table.differences(more, less, COMPARED)}
            for more, less in wanted
        ],
    }


def make_rows(finished: Finished) -> dict[str, tuple[str, str]]:
    """Rows of the table: name -> (trained leaf, output of the evaluation)."""
    rows = {}
    for leaf, _ in finished:
        rows[leaf] = (leaf, "panoptic_seg")
    for (leaf, _), done in finished.items():
        for output in sorted({name.split("/")[0] for name in done["results"]}):
            if output.startswith("panoptic_seg_"):
                rows[f"{leaf}, {output.removeprefix('panoptic_seg_')}"] = (leaf, output)
    return rows


def read_curves(
    output: Path, leaves: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[dict[str, float]]]:
    """The surrogate and true PQ of the training batches, as the runs went (the paper's Fig. 4, 5).

    Both are medians over 20 iterations, which is how Detectron2 logs.

    Args:
        output: folder of the runs.
        leaves: those that train no surrogate are left out.
        seeds: to take the mean of.

    Returns:
        For each leaf, one dict a logged iteration: "iteration", "surrogate" and "true", in percent.
    """
    curves = {}
    for leaf in leaves:
        points: dict[int, list[tuple[float, float]]] = {}
        for seed in seeds:
            text = (output / f"{leaf}_seed{seed}" / "metrics.json").read_text(encoding="utf-8")
            for line in map(json.loads, text.splitlines()):
                if "quality/surrogate" in line:
                    pair = (100 * line["quality/surrogate"], 100 * line["quality/true"])
                    points.setdefault(line["iteration"] + 1, []).append(pair)
        if points:
            curves[leaf] = [
                {
                    "iteration": iteration,
                    "surrogate": sum(pair[0] for pair in pairs) / len(pairs),
                    "true": sum(pair[1] for pair in pairs) / len(pairs),
                }
                for iteration, pairs in sorted(points.items())
            ]
    return curves


def as_markdown(tables: Mapping[str, Any]) -> str:
    """All tables in Markdown."""
    lines = comparison_in_markdown(
        tables,
        [*(column.heading for column in COLUMNS), "seconds"],
        [column.heading for column in COMPARED],
        {"": "of"},
    )
    lines += ["", "Surrogate / true PQ of the training batches by iteration, mean over seeds.", ""]
    lines += markdown_rows(
        ["", "iteration: surrogate / true"],
        [
            [
                leaf,
                ", ".join("{iteration}: {surrogate:.1f} / {true:.1f}".format(**p) for p in curve),
            ]
            for leaf, curve in tables["curves"].items()
        ],
    )
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """Print a line at once, also into a file."""
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        finished = run_pipeline(options)
    except (ValueError, OSError, TrainingFailed) as error:
        print(f"ablation_cops: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoints.", file=sys.stderr)
        return 130
    tables = make_tables(finished, options.seeds)
    tables["curves"] = read_curves(Path(options.output), options.leaves, options.seeds)
    print(write_tables(Path(options.output), tables, as_markdown(tables)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
