"""Training images as a COPS checkpoint sees them: costs beside the truth."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cops.modeling.calibration import CalibrationImage
from panoptic_common.checkpoint.files import CheckpointMetadata, read_checkpoint_metadata
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
from panoptic_common.inference.predictor import Predictor
from panoptic_tools.arguments import (
    add_register_option,
    add_unsafe_option,
    input_file,
    require_at_least,
)


@dataclass(eq=False)
class SeenImages:
    """A network and what it makes of some images.

    Attributes:
        model: the meta-architecture, in evaluation mode.
        images: as far as the network has brought them.
        cfg: of the checkpoint.
        metadata: of the checkpoint.
    """

    model: Any
    images: list[CalibrationImage]
    cfg: Any
    metadata: CheckpointMetadata


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint and which images it sees."""
    parser.add_argument("checkpoint", type=input_file, help="weights of COPS with their config")
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


def check_image_options(parser: Any, options: argparse.Namespace) -> None:
    """Refuse options that name no image."""
    require_at_least(parser, options, 1, "images")


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


def seen_images(options: argparse.Namespace) -> SeenImages:
    """Load a checkpoint and run its network on the images that were asked for.

    Raises:
        CheckpointError, ValueError, OSError: something cannot be used; says what.
    """
    path, unsafe = str(options.checkpoint), options.allow_unsafe_checkpoint
    metadata = read_checkpoint_metadata(path, unsafe)
    cfg = load_config(stored_config(metadata.config), table=metadata.class_table)
    if cfg.MODEL.META_ARCHITECTURE != "COPS":
        raise ValueError(f"{path} holds a {cfg.MODEL.META_ARCHITECTURE}, which has no edge costs")
    records = choose_records(options, cfg)
    predictor = Predictor.from_checkpoint(path, allow_unsafe=unsafe)
    images = [run_network(predictor, record) for record in tqdm(records, unit="image")]
    return SeenImages(predictor.model, images, cfg, metadata)
