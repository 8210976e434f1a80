"""How programs are told on which images of a data set to choose numbers of a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from panoptic_common.checkpoint.weight_names import class_table_difference
from panoptic_common.data.catalog import (
    class_table,
    has_truth,
    register_builtin,
    register_panoptic,
    register_scenes,
)
from panoptic_common.data.sampling import Record, sample_records
from panoptic_tools.arguments import (
    add_register_option,
    add_unsafe_option,
    input_file,
    require_at_least,
    require_pairs,
)


def add_image_options(parser: argparse.ArgumentParser, *, held_out: bool = False) -> None:
    """Add the checkpoint and which images it sees.

    Args:
        parser: of the program.
        held_out: whether the set must be named, since the training set does not do.
    """
    parser.add_argument("checkpoint", type=input_file, help="weights with their config")
    default = "" if held_out else " (default: the checkpoint's training set)"
    parser.add_argument("--dataset", required=held_out, help=f"name of the set{default}")
    parser.add_argument("--images", type=int, default=32, help="how many of it (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default: 0)")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=400_000,
        help="leave larger images out, which take most of the time (default: 400000)",
    )
    add_register_option(parser)
    add_unsafe_option(parser)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="config keys and values, such as another way to make maps; comes last",
    )


def check_image_options(parser: Any, options: argparse.Namespace) -> None:
    """Refuse options that name no image."""
    require_at_least(parser, options, 1, "images")
    require_pairs(parser, options.opts)


def find_records(
    options: argparse.Namespace, cfg: Any, table: Sequence[dict[str, Any]]
) -> list[Record]:
    """Choose the images.

    Args:
        options: of `add_image_options`.
        cfg: of the checkpoint.
        table: its classes.

    Raises:
        ValueError: the data set is unknown or wrong, has other classes, or all of its images are
            too large.
        FileNotFoundError: it is not there.
    """
    register_builtin()
    register_scenes(settings=cfg.DATASETS.SCENES)
    for name, images, panoptic_json, pngs in options.register:
        register_panoptic(name, images, panoptic_json, pngs)
    name = options.dataset or cfg.DATASETS.TRAIN[0]
    if name in cfg.DATASETS.TEST:
        raise ValueError(f"{name} is what the checkpoint is tested on: name another set")
    if not has_truth(name):
        raise ValueError(f"{name} has images only, and no truth: name another set")
    difference = class_table_difference(class_table(name), table)
    if difference is not None:
        raise ValueError(
            f"{name} has other classes than those that {options.checkpoint} was trained on "
            f"({difference}): name a data set with its classes"
        )
    return sample_records(name, options.images, options.max_pixels, options.seed)
