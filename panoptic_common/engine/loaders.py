"""Loaders of training and test images, from the config."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm

from panoptic_common.data.catalog import load_panoptic
from panoptic_common.data.handing_over import HandingLoader
from panoptic_common.data.instance_truth import training_records
from panoptic_common.data.mapper import PanopticDatasetMapper, TargetFunction
from panoptic_common.data.train_loader import TrainLoader
from panoptic_common.engine.same_settings import require_same
from panoptic_common.processes.stopping import end_workers_at_exit, leave_signals_to_the_parent


def train_loader(cfg: CfgNode, mapper: Callable[[dict[str, Any]], Any]) -> TrainLoader:
    """Build endless batches of augmented training images of all sets in DATASETS.TRAIN.

    Args:
        cfg: DATASETS, DATALOADER, SOLVER.IMS_PER_BATCH and SEED are read.
        mapper: record of the data set -> input of the model.

    Raises:
        ValueError: a sampler that cannot be resumed exactly, or an unusable data set.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {cfg.DATALOADER.SAMPLER_TRAIN!r}: only "
            '"TrainingSampler" (every image once per epoch) can be resumed exactly'
        )
    records = training_records(cfg)
    _require_same_images(cfg.DATASETS.TRAIN, records)
    is_landscape = None
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        is_landscape = [record["width"] > record["height"] for record in records]
    return TrainLoader(
        # Keeps the records pickled in one array, which worker processes share.
        DatasetFromList(records, copy=False),
        mapper,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=max(cfg.SEED, 0),
        is_landscape=is_landscape,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def test_loader(
    cfg: CfgNode, dataset_name: str, make_targets: TargetFunction | None
) -> HandingLoader:
    """Build a loader of a data set: each image once, shared among the processes.

    Args:
        cfg: INPUT and DATALOADER.NUM_WORKERS are read.
        dataset_name: registered.
        make_targets: of test images; None reads no truth.
    """
    records = load_panoptic(dataset_name)
    _require_same_images((dataset_name,), records)
    mapper = PanopticDatasetMapper.from_config(cfg, False, make_targets)
    end_workers_at_exit()
    return HandingLoader(
        MapDataset(DatasetFromList(records, copy=False), mapper),
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        # Ctrl-C reaches all processes of a terminal; a worker that ended by it would look like a
        # failure of this one.
        worker_init_fn=leave_signals_to_the_parent,
    )


def _require_same_images(names: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Refuse data sets of other images in another process, such as an older copy of a machine."""
    images = zlib.crc32("\0".join(str(record["image_id"]) for record in records).encode())
    require_same({f"the images of {', '.join(names)}": f"{len(records)} (checksum {images:08x})"})
