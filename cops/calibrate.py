"""A network's edge costs balanced on training images: as the end of its training, or by a program.

`cops.modeling.calibration` says what is balanced, and by what it is chosen. Here is where the
images come from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import panoptic_common.compat

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate

from cops.modeling.calibration import (
    Balance,
    CalibrationImage,
    CalibrationSet,
    apply_balance,
    find_balance,
)
from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.quality import PanopticStatistics
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import class_table
from panoptic_common.data.sampling import Record, sample_records
from panoptic_common.inference.predictor import Predictor

logger = logging.getLogger(__name__)


@torch.no_grad()
def run_network(predictor: Predictor, record: Record) -> CalibrationImage:
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


def make_set(
    model: Any,
    images: Sequence[CalibrationImage],
    total: Callable[[PanopticStatistics], PanopticStatistics] | None = None,
) -> CalibrationSet:
    """Put images together with what their model says about solutions.

    Args:
        model: the meta-architecture.
        images: as it has brought them.
        total: see `CalibrationSet`.
    """
    return CalibrationSet(
        images,
        distances=model.distances,
        is_thing=model.is_thing,
        options=model.options,
        grid_stride=model.stride,
        total=total,
    )


def balance_table(best: Balance, tried: dict[Balance, float]) -> str:
    """Show the quality of every balance that was tried, in percent."""
    rows = [[*astuple(b), 100 * pq, "<- taken" if b == best else ""] for b, pq in tried.items()]
    headers = ["factor", "offset", "decay", "shift", "PQ", ""]
    return tabulate(rows, headers, floatfmt=("g", "+.2f", "g", "+.2f", ".2f", ""))


def build_finish_function(cfg: CfgNode) -> Callable[[Any], None] | None:
    """Build what balances a trained model, in place; None if the config wants no calibration.

    The images are chosen here, so that a data set without any is refused before the training.

    Args:
        cfg: complete, with registered data sets.

    Raises:
        ValueError: no training image is small enough. Or models from the middle of the training,
            which are not calibrated, would compete with the last one.
    """
    options = cfg.MODEL.COPS.CALIBRATION
    if not options.IMAGES:
        return None
    if cfg.TEST.BEST_METRIC:
        raise ValueError(
            "MODEL.COPS.CALIBRATION balances the last model only, and TEST.BEST_METRIC compares "
            "it with those before: set CALIBRATION.IMAGES to 0, and use tools/calibrate_cops.py"
        )
    name = cfg.DATASETS.TRAIN[0]
    try:
        records = sample_records(name, options.IMAGES, options.MAX_PIXELS)
    except ValueError as error:
        raise ValueError(f"{error}: raise MODEL.COPS.CALIBRATION.MAX_PIXELS") from error

    def finish(model: Any) -> None:
        logger.info("Calibrating edge costs on %d images of %s.", len(records), name)
        _calibrate(cfg, model, records)

    return finish


def _calibrate(cfg: CfgNode, model: Any, records: Sequence[Record]) -> None:
    """Balance a model, in place. All processes do it, each with its share of the images."""
    was_training = model.training
    predictor = Predictor(cfg, model, class_table(cfg.DATASETS.TRAIN[0]))  # in evaluation mode
    share = records[comm.get_rank() :: comm.get_world_size()]
    images = [run_network(predictor, record) for record in share]
    model.train(was_training)
    best, tried = find_balance(make_set(model, images, _over_processes).quality)
    # Every process has seen the same sums, and so takes the same balance.
    apply_balance(model.cost_scale, best, model.distances)
    logger.info("PQ on the training images by balance:\n%s", balance_table(best, tried))


def _over_processes(statistics: PanopticStatistics) -> PanopticStatistics:
    """Add up the sums of all processes."""
    total = PanopticStatistics.zeros(statistics.num_classes)
    for part in comm.all_gather(statistics):
        total += part
    return total
