#!/usr/bin/env python3
"""Balance the edge costs of a COPS checkpoint on training images, and write it anew.

    python tools/calibrate_cops.py output/cops/nuclei/pretrain/model_final.pth

Pre-training leaves affinities that lean towards cutting. This tries constants and factors on all
edge costs, and takes those whose solutions have the best panoptic quality on images of the training
set. It writes FILE_calibrated.pth, whose learned scales and offsets contain them. Nothing else
changes. Never name a set here that figures are reported on. Exit status: 2 for what cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import panoptic_common.compat

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from cops.modeling.calibration import (
    Balance,
    CalibrationImage,
    CalibrationSet,
    apply_balance,
    find_balance,
)
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import CheckpointError, read_checkpoint_metadata
from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.config import load_config, stored_config
from panoptic_common.data.catalog import (
    has_truth,
    load_panoptic,
    register_builtin,
    register_panoptic,
    register_scenes,
)
from panoptic_common.files import require_writable
from panoptic_common.inference.predictor import Predictor
from panoptic_tools.arguments import (
    add_register_option,
    add_unsafe_option,
    input_file,
    make_parser,
    orderly,
    output_file,
    refuse,
)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("checkpoint", type=input_file, help="weights of COPS with their config")
    text = "file to write (default: ..._calibrated.pth)"
    parser.add_argument("--out", type=output_file, help=text)
    parser.add_argument(
        "--dataset", help="name of the set (default: the checkpoint's training set)"
    )
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
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error(f"--images is {options.images}: give at least 1")
    if options.out is None:
        name = f"{options.checkpoint.stem}_calibrated{options.checkpoint.suffix}"
        options.out = options.checkpoint.with_name(name)
    if options.out.suffix != ".pth":
        parser.error(f"--out is {options.out}: checkpoints are written as .pth")
    return options


def choose_records(options: argparse.Namespace, cfg: Any) -> list[dict[str, Any]]:
    """Choose the images to calibrate on.

    Raises:
        ValueError: the data set is unknown or wrong, or all of its images are too large.
        FileNotFoundError: it is not there.
    """
    register_builtin()
    register_scenes(settings=cfg.DATASETS.SCENES)
    for name, images, panoptic_json, pngs in options.register:
        register_panoptic(name, images, panoptic_json, pngs)
    name = options.dataset or cfg.DATASETS.TRAIN[0]
    if name in cfg.DATASETS.TEST:
        raise ValueError(f"{name} is what the checkpoint is tested on: name a training set")
    if not has_truth(name):
        raise ValueError(f"{name} has images only, and no truth: name a training set")
    records = [r for r in load_panoptic(name) if r["height"] * r["width"] <= options.max_pixels]
    if not records:
        raise ValueError(f"{name} has no image of at most {options.max_pixels} pixels")
    chosen = np.random.default_rng(options.seed).permutation(len(records))[: options.images]
    return [records[index] for index in sorted(chosen.tolist())]


@torch.no_grad()
def run_network(predictor: Predictor, record: dict[str, Any]) -> CalibrationImage:
    """Bring one image as far as the costs that the solver would pay."""
    inputs = predictor.prepare(read_image(record["file_name"]))
    model = predictor.model
    images = model.preprocess([inputs])
    maps = model.predict_maps(images.tensor)
    return CalibrationImage(
        class_logits=maps.class_logits[0].cpu(),
        class_costs=maps.class_costs[0].cpu(),
        edge_costs=maps.edge_costs[0].float().cpu(),
        input_size=images.image_sizes[0],
        id_map=read_id_map(record["pan_seg_file_name"], (record["height"], record["width"])),
        segments_info=record["segments_info"],
    )


def calibrate(options: argparse.Namespace) -> None:
    """Do the work.

    Raises:
        CheckpointError, ValueError, OSError: something cannot be used; says what.
    """
    require_writable(options.out.parent)
    path, unsafe = str(options.checkpoint), options.allow_unsafe_checkpoint
    metadata = read_checkpoint_metadata(path, unsafe)
    cfg = load_config(stored_config(metadata.config), table=metadata.class_table)
    if cfg.MODEL.META_ARCHITECTURE != "COPS":
        raise ValueError(f"{path} holds a {cfg.MODEL.META_ARCHITECTURE}, which has no edge costs")
    records = choose_records(options, cfg)
    predictor = Predictor.from_checkpoint(path, allow_unsafe=unsafe)
    model = predictor.model
    images = [run_network(predictor, record) for record in tqdm(records, unit="image")]
    calibration = CalibrationSet(
        images,
        distances=model.distances,
        is_thing=model.is_thing,
        options=model.options,
        grid_stride=model.stride,
    )
    best, tried = find_balance(calibration.quality)
    print_table(best, tried, len(images))
    apply_balance(model.cost_scale, best)
    checkpointer = PanopticCheckpointer(
        model,
        str(options.out.parent),
        cfg=cfg,
        class_table=metadata.class_table,
        seed=metadata.seed,
    )
    checkpointer.save(options.out.stem, tag=False, iteration=metadata.iteration)
    print(f"wrote {options.out}")


def print_table(best: Balance, tried: dict[Balance, float], num_images: int) -> None:
    """Print the quality of every balance that was tried."""
    rows = [
        [b.factor, b.offset, 100 * pq, "<- taken" if b == best else ""] for b, pq in tried.items()
    ]
    print(f"panoptic quality on {num_images} training images:")
    print(tabulate(rows, ["factor", "offset", "PQ", ""], floatfmt=("g", "+.2f", ".2f", "")))


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
