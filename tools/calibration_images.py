"""Training images as a COPS checkpoint sees them: costs beside the truth."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from cops.calibrate import run_network
from cops.modeling.calibration import CalibrationImage
from panoptic_common.checkpoint.files import CheckpointMetadata, read_checkpoint_metadata
from panoptic_common.config import load_config, stored_config
from panoptic_common.inference.predictor import Predictor
from panoptic_tools.sampled_images import find_records


@dataclass(eq=False)
class SeenImages:
    """A network and what it makes of some images.

    Attributes:
        model: the meta-architecture, in evaluation mode.
        images: as far as the network has brought them.
        cfg: of the checkpoint, with the options of the program.
        metadata: of the checkpoint.
    """

    model: Any
    images: list[CalibrationImage]
    cfg: Any
    metadata: CheckpointMetadata


def seen_images(options: argparse.Namespace) -> SeenImages:
    """Load a checkpoint and run its network on the images that were asked for.

    Raises:
        CheckpointError, ValueError, OSError: something cannot be used; says what.
    """
    path, unsafe = str(options.checkpoint), options.allow_unsafe_checkpoint
    metadata = read_checkpoint_metadata(path, unsafe)
    stored = stored_config(metadata.config)
    cfg = load_config(stored, options.opts, table=metadata.class_table)
    if cfg.MODEL.META_ARCHITECTURE != "COPS":
        raise ValueError(f"{path} holds a {cfg.MODEL.META_ARCHITECTURE}, which has no edge costs")
    records = find_records(options, cfg, metadata.class_table)
    predictor = Predictor.from_checkpoint(path, opts=options.opts, allow_unsafe=unsafe)
    images = [run_network(predictor, record) for record in tqdm(records, unit="image")]
    return SeenImages(predictor.model, images, cfg, metadata)
