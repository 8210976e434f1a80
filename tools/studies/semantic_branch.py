#!/usr/bin/env python3
"""The semantic branch of Unified and that of PanopticFPN, alone, one difference at a time.

    python tools/studies/semantic_branch.py --iterations 300 --seeds 0
    python tools/studies/semantic_branch.py --names "shared" "per level" --seeds 0 1 2

Backbone and FPN, images, optimizer and schedule are those of configs/unified/scenes/D2.yaml. There
is no detector, so that a branch costs a third of a system and nothing competes with it. Evaluated
on `scenes_test`: mIoU of stuff, and the PQ of stuff of the map in which pixels of thing classes are
void. Each training is written to a file when it is done; a repeated command trains what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from panoptic_common.config import load_config
from panoptic_common.files import write_json
from panoptic_tools.arguments import make_parser, require_at_least
from panoptic_tools.studies.library.config_runs import prepare_scenes, say
from panoptic_tools.studies.library.seed_tables import plus_minus, spread
from panoptic_tools.studies.library.semantic_branches import BRANCHES, CONFIG, train_branch
from panoptic_tools.studies.library.tables import markdown_table

FIGURES = ("mIoU_st", "PQ_st", "SQ_st", "RQ_st")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--names", nargs="+", default=list(BRANCHES), help="; ".join(BRANCHES))
    add("--seeds", nargs="+", type=int, default=[0], help="default 0")
    add("--iterations", type=int, default=300, help="default 300")
    add("--output", default="output/semantic_branch", metavar="FOLDER")
    add("opts", nargs="*", help="config keys and values for all, after --")
    parsed = parser.parse_args(words)
    for name in parsed.names:
        if name not in BRANCHES:
            parser.error(f"--names: {name!r} is none of {', '.join(map(repr, BRANCHES))}")
    require_at_least(parser, parsed, 1, "iterations")
    require_at_least(parser, parsed, 0, "seeds")
    return parsed


def run_or_read(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Return the figures of one row and seed, trained unless they are on the disk."""
    branch = BRANCHES[name]
    settings = {**asdict(branch), "iterations": options.iterations, "opts": options.opts}
    label = "".join(letter if letter.isalnum() else "_" for letter in name)
    path = Path(options.output) / f"{label}_seed{seed}.json"
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["settings"] == settings:
            return stored["figures"]
        raise ValueError(f"{path} has other settings: name another folder by --output")
    figures = train_branch(branch, seed, options.iterations, options.opts)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": settings, "figures": figures}, indent=1)
    say(f"{name}, seed {seed}: " + ", ".join(f"{k} {figures[k]:.1f}" for k in FIGURES))
    return figures


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(words)
    try:
        cfg = load_config(CONFIG, options.opts)
        prepare_scenes(cfg.DATASETS.SCENES)
        rows = []
        for name in options.names:
            found = [run_or_read(options, name, seed) for seed in options.seeds]
            cells = [plus_minus(spread([run[key] for run in found])) for key in FIGURES]
            seconds = spread([run["processor_seconds"] for run in found])
            time_text = f"{seconds['mean']:.0f}" if seconds else "-"
            rows.append([name, *cells, f"{found[0]['parameters']:,}", time_text])
    except (ValueError, OSError) as error:
        print(f"semantic_branch: {error}", file=sys.stderr)
        return 1
    headings = ["", "mIoU stuff", "PQ stuff", "SQ", "RQ", "parameters", "processor s"]
    say(markdown_table(headings, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
