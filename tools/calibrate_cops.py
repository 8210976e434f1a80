#!/usr/bin/env python3
"""Balance the edge costs of a COPS checkpoint on training images, and write it anew.

    python tools/calibrate_cops.py output/cops/nuclei/pretrain/model_final.pth
    python tools/calibrate_cops.py FILE --out FILE --opts MODEL.COPS.SOLVER.METHOD multilevel

Pre-training leaves affinities that lean towards cutting. This tries constants and factors on all
edge costs, then a power by which longer edges weigh less, then a constant for the shortest ones. It
takes those whose solutions have the best panoptic quality on images of the training set. It writes
FILE_calibrated.pth, whose learned scales and offsets contain them. Nothing else changes but what
--opts says, which the new file keeps. Each solver has a balance of its own. Never name a set here
that figures are reported on. Exit status: 2 for what cannot be used.
"""

from __future__ import annotations

import argparse
import sys

import panoptic_common.compat

from cops.calibrate import balance_table, make_set
from cops.modeling.calibration import apply_balance, find_balance
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.files import require_writable
from panoptic_tools.arguments import make_parser, orderly, output_file, refuse
from panoptic_tools.calibration_images import seen_images
from panoptic_tools.outputs import refuse_own_inputs
from panoptic_tools.sampled_images import add_image_options, check_image_options


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add_image_options(parser)
    text = "file to write (default: ..._calibrated.pth)"
    parser.add_argument("--out", type=output_file, help=text)
    options = parser.parse_args(arguments)
    check_image_options(parser, options)
    if options.out is None:
        name = f"{options.checkpoint.stem}_calibrated{options.checkpoint.suffix}"
        options.out = options.checkpoint.with_name(name)
    if options.out.suffix != ".pth":
        parser.error(f"--out is {options.out}: checkpoints are written as .pth")
    refuse_own_inputs(parser, [("--out", options.out)], [("the program", options.checkpoint)])
    return options


def calibrate(options: argparse.Namespace) -> None:
    """Do the work.

    Raises:
        CheckpointError, ValueError, OSError: something cannot be used; says what.
    """
    require_writable(options.out.parent)
    seen = seen_images(options)
    model, images = seen.model, seen.images
    best, tried = find_balance(make_set(model, images).quality)
    print(f"panoptic quality on {len(images)} training images:")
    print(balance_table(best, tried))
    apply_balance(model.cost_scale, best, model.distances)
    checkpointer = PanopticCheckpointer(
        model,
        str(options.out.parent),
        cfg=seen.cfg,
        class_table=seen.metadata.class_table,
        seed=seen.metadata.seed,
    )
    checkpointer.save(options.out.stem, tag=False, iteration=seen.metadata.iteration)
    print(f"wrote {options.out}")


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Calibrate a checkpoint and return the exit status."""
    options = parse_args(arguments)
    try:
        calibrate(options)
    except (CheckpointError, OSError, ValueError) as error:
        return refuse(__file__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
