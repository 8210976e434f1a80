#!/usr/bin/env python3
r"""What a warm start, or another solver, does to the gradient through the solver (Algorithm 1).

    python tools/studies/compare_backward.py --config-file FILE \
        MODEL.WEIGHTS output/cops/scenes/pretrain/model_final.pth

Takes batches of training images, solves them, and differentiates the PQ surrogate. Then, for each
lambda, the perturbed problem is solved in several ways. Each way's gradient is compared with that
of the multilevel solver from scratch: cosine and ratio of L2 norms, of class and edge costs
together. The forward solution and the surrogate's gradient are the same for all ways.

The row "other lambdas" compares two draws of lambda, both from scratch: what chance does anyhow.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.files import write_json
from panoptic_tools.arguments import (
    checked,
    make_parser,
    output_file,
    refuse,
    require_at_least,
    require_pairs,
)
from panoptic_tools.studies.library.gradients import WAYS, compare_batch
from panoptic_tools.studies.library.surrogate_training import (
    loaded_model,
    surrogate_config,
    training_batches,
)
from panoptic_tools.studies.library.tables import markdown_table

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the config is `cfg` of the result."""
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="a config that trains the surrogate")
    parser.add_argument("--batches", type=int, default=10, help="training batches (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of images and lambdas (default 0)")
    parser.add_argument(
        "--json", type=output_file, help="also write the figures of each image here"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    parsed = parser.parse_args(arguments)
    require_at_least(parser, parsed, 1, "batches")
    require_pairs(parser, parsed.opts)
    parsed.cfg = checked(parser, lambda: reference_config(parsed))
    return parsed


def reference_config(arguments: argparse.Namespace) -> CfgNode:
    """Load the config in which the reference is solved: multilevel, from scratch.

    Raises:
        ValueError: it does not train the surrogate.
    """
    cfg = surrogate_config(arguments.config_file, arguments.opts)
    cfg.SEED = arguments.seed
    cfg.MODEL.COPS.SOLVER.METHOD = "multilevel"
    cfg.MODEL.COPS.BACKWARD.WARM_START = False
    return cfg


def as_markdown(figures: Sequence[dict[str, Any]]) -> str:
    """Return a table of medians and quartiles over the images."""

    def quartiles(way: str, key: str) -> str:
        values = [f.get(key, math.nan) for f in figures if f["way"] == way]
        values = [value for value in values if not math.isnan(value)]
        if len(values) < 2:
            return "-"
        low, middle, high = statistics.quantiles(values, n=4)
        return f"{middle:.3f} ({low:.3f} to {high:.3f})"

    rows = []
    for way in dict.fromkeys(figure["way"] for figure in figures):
        own = [figure for figure in figures if figure["way"] == way]
        rows.append(
            [
                way,
                quartiles(way, "cosine"),
                quartiles(way, "norm_ratio"),
                f"{100 * statistics.mean(f['reacted'] for f in own):.0f} %",
                f"{1e3 * statistics.median(f['seconds'] for f in own):.1f}",
            ]
        )
    headings = ["", "cosine", "ratio of norms", "reacted", "ms per solve"]
    return markdown_table(headings, rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(arguments)
    cfg = options.cfg
    try:
        model = loaded_model(cfg)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        return refuse(__file__, error)
    figures = []
    loader = training_batches(cfg)
    for index in range(options.batches):
        figures += compare_batch(model, next(loader), options.seed + index)
    print(f"{len(figures) // (len(WAYS) + 1)} images: median (quartiles)\n")
    print(as_markdown(figures))
    if options.json:
        write_json(options.json, figures, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
