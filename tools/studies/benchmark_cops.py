#!/usr/bin/env python3
"""Where the time of a training step through the solver goes: network, AMWC, MWC (Table 3).

    python tools/studies/benchmark_cops.py
    python tools/studies/benchmark_cops.py --batch 4 --size 512 1024 --threads 1 2 --methods greedy
    python tools/studies/benchmark_cops.py --json output/benchmark_cops.json

The network is that of a config, with random weights, frozen as in fine-tuning. Random weights would
hand the solver a problem unlike any that training meets. So its maps are replaced by planted ones
(`cops.solver.planted`) of a truth that is planted too. Gradients still go back through the network.
Each step counts as one sample; compiling comes first and is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import panoptic_common.compat

import torch

from cops.modeling.meta_arch import STRIDE
from cops.solver import METHODS
from panoptic_common.files import write_json
from panoptic_tools.arguments import make_parser, require_at_least
from panoptic_tools.studies.library.measure import seconds_of
from panoptic_tools.studies.library.options import read_config
from panoptic_tools.studies.library.paths import ROOT
from panoptic_tools.studies.library.planted_training import (
    build_trainable,
    class_table,
    given_costs,
    plant_batch,
    training_step,
)
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.value_types import finite


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--config-file", default=str(ROOT / "configs/cops/cityscapes/full.yaml"))
    add("--batch", type=int, default=4, help="images per step (default 4)")
    add("--size", type=int, nargs=2, default=[512, 1024], metavar=("H", "W"), help="of an image")
    add("--classes", type=int, default=19, help="K, the upper half of them things (default 19)")
    add("--noise", type=finite, default=3.0, help="of the planted costs (default 3)")
    add("--methods", nargs="+", choices=METHODS, default=["greedy"])
    add("--threads", type=int, nargs="+", default=[1, 2], help="of solver and network")
    add("--repeat", type=int, default=3, help="steps; the median counts (default 3)")
    add("--json", type=Path, help="also write the table here")
    parsed = parser.parse_args(arguments)
    require_at_least(parser, parsed, 1, "batch", "repeat", "threads")
    require_at_least(parser, parsed, 2, "classes")
    if any(side % STRIDE or side < 32 for side in parsed.size):
        parser.error(f"--size must be multiples of {STRIDE} of 32 or more")
    cfg = read_config(parser, parsed.config_file, (), table=class_table(parsed.classes))
    if cfg.MODEL.COPS.TRAINING == "pretrain":
        parser.error(f"{parsed.config_file} does not train through the solver")
    if parsed.json:  # now: after the measurement an error would cost it
        parsed.json.parent.mkdir(parents=True, exist_ok=True)
    return parsed


def measure(arguments: argparse.Namespace, method: str, threads: int) -> dict[str, Any]:
    """Return the median seconds of one way to solve.

    Args:
        arguments: of the command line.
        method: of the solver.
        threads: of solver and network.
    """
    torch.set_num_threads(threads)
    model = build_trainable(arguments.config_file, arguments.classes, method, threads)
    batch, *costs = plant_batch(
        arguments.batch,
        tuple(arguments.size),
        arguments.classes,
        model.distances,
        arguments.noise,
    )

    samples = []
    with given_costs(model.amwc, *costs):
        for _ in range(arguments.repeat + 1):
            total = seconds_of(partial(training_step, model, batch))
            solving = model.amwc.statistics
            amwc, mwc = solving.forward_seconds, solving.backward_seconds
            samples.append((total, amwc, mwc, total - amwc - mwc))
    # The first step compiles.
    medians = [statistics.median(column) for column in zip(*samples[1:], strict=True)]
    names = ("overall", "AMWC", "MWC", "network and loss")
    figures = {name: round(value, 3) for name, value in zip(names, medians, strict=True)}
    return {"method": method, "threads": threads, **figures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(arguments)
    print(
        f"{Path(options.config_file).name}: batch {options.batch} of {options.size[0]} x "
        f"{options.size[1]}, K = {options.classes}, noise {options.noise}, {os.cpu_count()} cores, "
        f"median of {options.repeat} steps, seconds",
        flush=True,
    )
    rows: list[dict[str, Any]] = []
    for method in options.methods:
        for threads in options.threads:
            rows.append(measure(options, method, threads))
            # After each row, as the next one may take minutes.
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    print("\n" + markdown_table(list(rows[0]), [[*map(str, row.values())] for row in rows]))
    if options.json:
        write_json(options.json, {"rows": rows}, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
