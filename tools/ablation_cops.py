#!/usr/bin/env python3
"""What training through the solver brings, on the synthetic scenes: the whole pipeline, by seed.

    python tools/ablation_cops.py --seeds 0 1 2 --jobs 2

For each seed, pre-trains the leaf `pretrain` of configs/cops/scenes, then trains every other leaf
from its weights: `control` goes on with the pre-training losses for as long as the others take,
which is what a gain must be measured against. All are evaluated on `scenes_test`, which neither
training nor tuning saw.

Prints, and writes to table.md and table.json of the output folder: mean and spread over the seeds,
and the differences to the control and to the baseline seed by seed. A run that was stopped goes on
when the command is repeated; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # also runs where the packages are not installed

import panoptic_common.compat  # noqa: F401, E402  (before detectron2)

from detectron2.config import CfgNode, get_cfg  # noqa: E402

from cops import add_cops_config  # noqa: E402
from panoptic_common.register_datasets import load_panoptic, register_scenes  # noqa: E402
from panoptic_common.seed_tables import markdown_rows, plus_minus, seed_gaps, spread  # noqa: E402
from panoptic_common.training_queue import Finished, run_all  # noqa: E402
from panoptic_common.training_run import TrainingFailed, TrainingRun  # noqa: E402

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
# Columns: heading, result, whether it is the panoptic output's (else the network's).
COLUMNS = (
    ("PQ", "PQ", True),
    ("PQ th", "PQ_th", True),
    ("PQ st", "PQ_st", True),
    ("SQ", "SQ", True),
    ("RQ", "RQ", True),
    ("mIoU sem", "sem_seg/mIoU", False),
    ("AP mask", "segm/AP", False),
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--leaves", nargs="+", default=list(LEAVES), help=f"default {LEAVES}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side (default 2)")
    parser.add_argument("--baseline-iterations", type=int, help="default: those of the config")
    parser.add_argument("--output", default="output/ablation_cops")
    parser.add_argument("--configs", default=str(ROOT / "configs/cops/scenes"))
    parser.add_argument("--variants", nargs="*", default=[], help="of TEST.PANOPTIC_VARIANTS")
    parser.add_argument("opts", nargs="*", help="config keys and values for all runs, after --")
    parsed = parser.parse_args(arguments)
    if len(parsed.opts) % 2:
        parser.error("opts are pairs of key and value")
    for name in ("leaves", "seeds"):
        if len(set(getattr(parsed, name))) != len(getattr(parsed, name)):
            parser.error(f"--{name} names one twice")
    for leaf in (BASELINE, *parsed.leaves):
        if not (Path(parsed.configs) / f"{leaf}.yaml").is_file():
            parser.error(f"--leaves: there is no {leaf}.yaml in {parsed.configs}")
    if BASELINE in parsed.leaves:
        parser.error(f"--leaves: {BASELINE} is always trained, as the others start from it")
    if parsed.jobs < 1 or (parsed.baseline_iterations or 1) < 1:
        parser.error("--jobs and --baseline-iterations must be at least 1")
    return parsed


def make_run(arguments: argparse.Namespace, leaf: str, seed: int) -> TrainingRun:
    """One training; all but the baseline start from the weights of the baseline of their seed."""
    pairs = zip(arguments.opts[::2], arguments.opts[1::2], strict=True)
    opts: dict[str, Any] = {"SEED": seed, "DATASETS.TEST": "('scenes_test',)", **dict(pairs)}
    opts["TEST.PANOPTIC_VARIANTS"] = repr(tuple(arguments.variants))
    opts["MODEL.COPS.SOLVER.THREADS"] = threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    folder = Path(arguments.output)
    file = Path(arguments.configs) / f"{leaf}.yaml"
    cfg = read_config(file, arguments.opts)
    iterations = cfg.SOLVER.MAX_ITER
    if leaf != BASELINE:
        opts["MODEL.WEIGHTS"] = str(folder / f"{BASELINE}_seed{seed}" / "model_final.pth")
    elif arguments.baseline_iterations:
        iterations = arguments.baseline_iterations
    # train_net.py expects installed packages.
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(path),
    }
    # A changed config must not be mixed with results of the old one.
    settings = {"config": CfgNode.load_yaml_with_base(str(file))}
    return TrainingRun(
        TRAIN_NET, file, folder / f"{leaf}_seed{seed}", iterations, opts, environment, settings
    )


def read_config(file: Path, opts: Sequence[str]) -> CfgNode:
    """The config of a leaf with options."""
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.merge_from_file(str(file))
    cfg.merge_from_list(list(opts))
    return cfg


def run_pipeline(arguments: argparse.Namespace) -> Finished:
    """The baselines of all seeds, then everything that starts from them."""
    cfg = read_config(Path(arguments.configs) / f"{BASELINE}.yaml", arguments.opts)
    register_scenes(settings=cfg.DATASETS.SCENES)
    for name in ("scenes_train", "scenes_test"):  # once, before the runs ask for them together
        print(f"{name}: {len(load_panoptic(name))} scenes", flush=True)
    finished: Finished = {}
    for leaves in ((BASELINE,), arguments.leaves):
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

    def value(row: str, seed: int, result: str, of_output: bool) -> float | None:
        leaf, output = rows[row]
        if (leaf, seed) not in finished:
            return None
        return finished[leaf, seed]["results"].get(f"{output}/{result}" if of_output else result)

    leaves = [row for row, (_, output) in rows.items() if output == "panoptic_seg"]
    wanted = [(x, CONTROL) for x in leaves if x not in (BASELINE, CONTROL) and CONTROL in leaves]
    wanted += [(x, BASELINE) for x in leaves if x != BASELINE]
    wanted += [(row, leaf) for row, (leaf, output) in rows.items() if output != "panoptic_seg"]
    differences = []
    for more, less in wanted:
        entry: dict[str, Any] = {"of": f"{more} - {less}"}
        for heading, key, own in COLUMNS[:3]:
            pairs = [(value(more, s, key, own), value(less, s, key, own)) for s in seeds]
            gaps = [None if a is None or b is None else a - b for a, b in pairs]
            entry[heading] = {"seeds": gaps, **(spread(gaps) or {})}
        differences.append(entry)
    table = {
        row: {
            **{h: spread([value(row, s, key, own) for s in seeds]) for h, key, own in COLUMNS},
            "seconds": spread([finished[leaf, s]["seconds"] for s in seeds]),
        }
        for row, (leaf, _) in rows.items()
    }
    return {"seeds": list(seeds), "rows": table, "differences": differences}


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
    headings = [*(heading for heading, _, _ in COLUMNS), "seconds"]
    lines = [f"Mean ± standard deviation over the seeds {tables['seeds']}, in percent.", ""]
    lines += markdown_rows(
        ["", *headings],
        [
            [name, *(plus_minus(row[heading]) for heading in headings)]
            for name, row in tables["rows"].items()
        ],
    )
    lines += ["", "Differences, seed by seed (mean in bold).", ""]
    lines += markdown_rows(
        ["", *headings[:3]],
        [
            [entry["of"], *(seed_gaps(entry[heading]) for heading in headings[:3])]
            for entry in tables["differences"]
        ],
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
    output = Path(options.output)
    try:
        finished = run_pipeline(options)
    except (ValueError, OSError, TrainingFailed) as error:
        print(f"ablation_cops: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoints.", file=sys.stderr)
        return 130
    tables = make_tables(finished, options.seeds)
    tables["curves"] = read_curves(output, options.leaves, options.seeds)
    (output / "table.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")
    text = as_markdown(tables)
    (output / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nWritten to {output / 'table.md'} and {output / 'table.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
