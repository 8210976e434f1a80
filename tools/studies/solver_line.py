#!/usr/bin/env python3
r"""What the gradient through the solver says along a line of weights, beside what happens there.

    python tools/studies/solver_line.py --config-file configs/cops/nuclei/full.yaml \
        --end output/cops/nuclei/full/model_final.pth -- \
        MODEL.WEIGHTS cops/zoo/cops-nuclei.safetensors

The line leads from MODEL.WEIGHTS to other weights, those after a training for example. At some of
its points the smooth quality (Eq. 6) and PQ are measured on batches of training images. So is the
slope of the smooth quality by its gradient, that is its inner product with the line. A right
gradient has the slope of the measured curve, up to its standard error.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.files import write_json
from panoptic_tools.arguments import (
    checked,
    input_file,
    make_parser,
    output_file,
    refuse,
    require_at_least,
    require_pairs,
)
from panoptic_tools.studies.library.steps import said_slopes, standing, stepped, trained
from panoptic_tools.studies.library.surrogate_training import (
    loaded_model,
    surrogate_config,
    training_batches,
)
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.value_types import finite

POINTS = (0.0, 0.05, 0.125, 0.25, 0.5, 1.0)
HEADERS = ["point", "surrogate", "PQ", "slope by the gradient", "standard error"]


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the config is `cfg` of the result."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, help="a config that trains the surrogate")
    add("--end", required=True, type=input_file, metavar="FILE", help="weights at point 1")
    add("--points", type=finite, nargs="+", default=POINTS, help="0 is the start, 1 the end")
    add("--batches", type=int, default=12, help="of training images (default 12)")
    add("--json", type=output_file, help="also write all figures here")
    add("opts", nargs="*", help="config keys and values, after --")
    parsed = parser.parse_args(words)
    require_at_least(parser, parsed, 2, "batches")
    require_pairs(parser, parsed.opts)
    parsed.cfg = checked(parser, lambda: surrogate_config(parsed.config_file, parsed.opts))
    return parsed


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(words)
    cfg = options.cfg
    try:
        model = loaded_model(cfg)
        ends = cfg.clone()
        ends.MODEL.WEIGHTS = str(options.end)
        end = loaded_model(ends)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        return refuse(__file__, error)
    line = [b.detach() - a.detach() for a, b in zip(trained(model), trained(end), strict=True)]
    loader = training_batches(cfg)
    batches = [next(loader) for _ in range(options.batches)]
    rows = []
    for point in options.points:
        with stepped(model, line, point):
            found = standing(model, batches)
            slopes = said_slopes(model, batches, line, max(cfg.SEED, 0))
        error = statistics.stdev(slopes) / len(slopes) ** 0.5
        rows.append([point, found.surrogate, found.quality, statistics.fmean(slopes), error])
        print(" ".join(f"{value:.2f}" for value in rows[-1]), flush=True)
    print(markdown_table(HEADERS, [[f"{value:.2f}" for value in row] for row in rows]))
    if options.json:
        write_json(options.json, [dict(zip(HEADERS, row, strict=True)) for row in rows], indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
