#!/usr/bin/env python3
"""What a COPS checkpoint says about edges of each kind, on images with truth.

    python tools/studies/edge_costs.py cops/zoo/cops-nuclei.safetensors --images 48

For each distance and kind of edge the table has the number, the mean cost, and the share with a
cost above 0, which joins. Kinds are inside a thing, between two things, thing and stuff, and stuff.
Where edges between two things join, the solver merges them. Images and options are those of
`calibrate_cops.py`: training images, unless --dataset says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from cops.modeling.calibration import CalibrationImage
from cops.targets import CopsTarget, make_cops_targets
from panoptic_common.checkpoint.files import CheckpointError
from panoptic_tools.arguments import make_parser, refuse
from panoptic_tools.calibration_images import seen_images
from panoptic_tools.sampled_images import add_image_options, check_image_options
from panoptic_tools.studies.library.edge_kinds import EdgeSums
from panoptic_tools.studies.library.tables import markdown_table

HEADERS = ["distance", "kind", "edges", "mean cost", "joined, %"]


def truth_of(
    image: CalibrationImage, is_thing: Sequence[bool], distances: Sequence[int], stride: int
) -> CopsTarget:
    """Make the truth on the network's grid; pixels are taken at the size of its input."""
    rows, columns = (
        (np.arange(new) * (old / new)).astype(int)
        for new, old in zip(image.input_size, image.id_map.shape, strict=True)
    )
    id_map = image.id_map[rows][:, columns]
    made = make_cops_targets(id_map, image.segments_info, is_thing, distances, stride=stride)
    return made["cops_target"]


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add_image_options(parser)
    options = parser.parse_args(words)
    check_image_options(parser, options)
    return options


def count_edges(options: argparse.Namespace) -> EdgeSums:
    """Run the network on all images.

    Raises:
        CheckpointError, ValueError, OSError: something cannot be used; says what.
    """
    seen = seen_images(options)
    model = seen.model
    sums = EdgeSums(model.distances, model.is_thing)
    for image in seen.images:
        truth = truth_of(image, model.is_thing, model.distances, model.stride)
        sums.add(truth, image.edge_costs.numpy())
    return sums


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(words)
    try:
        sums = count_edges(options)
    except (CheckpointError, OSError, ValueError) as error:
        return refuse(__file__, error)
    rows = [
        [str(distance), kind, str(count), f"{mean:+.2f}", f"{100 * joined:.1f}"]
        for distance, kind, count, mean, joined in sums.rows()
    ]
    print(markdown_table(HEADERS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
