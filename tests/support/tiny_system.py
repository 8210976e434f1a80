"""A system of a few hundred parameters, to test the engine with: it trains in milliseconds.

It draws from every global generator while it trains (dropout, numpy, Python), as the RPN and the
ROI heads do. So that a run that is resumed with other states of these generators goes astray.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from dataset_factory import make_coco_panoptic
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

from panoptic_common.config import add_panoptic_config, common_class_table, fill_classes
from panoptic_common.data.catalog import register_panoptic
from panoptic_common.engine.trainer import PanopticTrainer


def add_tiny_system_config(cfg: CfgNode) -> None:
    """Add MODEL.TINY.CHANNELS."""
    cfg.MODEL.TINY = CfgNode({"CHANNELS": 16})


def semantic_map(id_map: np.ndarray, segments_info: list[dict]) -> dict[str, torch.Tensor]:
    """(H, W) ids -> {"sem_seg": (H, W) contiguous classes, 255 = void}."""
    classes = np.full(id_map.shape, 255, np.int64)
    for segment in segments_info:
        classes[id_map == segment["id"]] = segment["category_id"]
    return {"sem_seg": torch.from_numpy(classes)}


def build_target_function(cfg: CfgNode) -> Any:
    """The seam of the systems; the config is not needed."""
    return functools.partial(semantic_map)


@META_ARCH_REGISTRY.register()
class TinyPanoptic(nn.Module):
    """Two convolutions; every class is one segment."""

    @configurable
    def __init__(self, *, channels: int, is_thing: tuple[bool, ...]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=4, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.predictor = nn.Conv2d(channels, len(is_thing), 1)
        self.is_thing = is_thing
        self.steps_seen: list[tuple[str, ...]] = []

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"channels": cfg.MODEL.TINY.CHANNELS, "is_thing": cfg.MODEL.PANOPTIC.IS_THING}

    def _scores(self, images: torch.Tensor) -> torch.Tensor:
        features = self.backbone(images.float() / 128 - 1)
        features = F.dropout(features, 0.5, training=self.training)
        return F.interpolate(self.predictor(features), images.shape[-2:], mode="bilinear")

    def forward(self, batch: list[dict]) -> Any:
        if not self.training:
            return [self._predict(sample) for sample in batch]
        self.steps_seen.append(tuple(sample["file_name"] for sample in batch))
        loss = torch.stack([self._loss(sample) for sample in batch]).mean()
        return {"loss_sem_seg": loss, "loss_noise": 0.0 * loss + random.random() * 1e-3}

    def _loss(self, sample: dict) -> torch.Tensor:
        scores = self._scores(sample["image"][None])[0] * np.random.uniform(0.9, 1.1)
        keep = torch.rand(sample["sem_seg"].shape) < 0.5  # a sampled subset, as in the RPN
        target = torch.where(keep, sample["sem_seg"], 255)
        return F.cross_entropy(scores[None], target[None], ignore_index=255)

    def _predict(self, sample: dict) -> dict[str, Any]:
        size = (sample["height"], sample["width"])
        scores = F.interpolate(self._scores(sample["image"][None]), size, mode="bilinear")[0]
        classes = scores.argmax(dim=0)
        segments_info = [
            {"id": int(c) + 1, "category_id": int(c), "isthing": bool(self.is_thing[int(c)])}
            for c in classes.unique()
        ]
        instances = Instances(size)
        instances.pred_boxes = Boxes(torch.zeros(0, 4))
        instances.scores = torch.zeros(0)
        instances.pred_classes = torch.zeros(0, dtype=torch.int64)
        return {
            "sem_seg": scores,
            "instances": instances,
            "panoptic_seg": ((classes + 1).to(torch.int32), segments_info),
            "panoptic_variants": {},
        }


class TinyTrainer(PanopticTrainer):
    """The engine with this system plugged in."""

    @classmethod
    def build_target_function(cls, cfg: CfgNode) -> Any:
        return build_target_function(cfg)


def tiny_options(root: Path) -> list[str]:
    """Options for a run of 12 iterations of 2 images that writes to `root`/out."""
    values = {
        "MODEL.META_ARCHITECTURE": "TinyPanoptic",
        "MODEL.DEVICE": "cpu",
        "DATASETS.TRAIN": "('tiny',)",
        "DATASETS.TEST": "('tiny',)",
        "INPUT.MIN_SIZE_TRAIN": "(48, 64)",
        "INPUT.MIN_SIZE_TEST": "48",
        "DATALOADER.NUM_WORKERS": "0",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.BASE_LR": "0.05",
        "SOLVER.STEPS": "(8,)",
        "SOLVER.WARMUP_ITERS": "3",
        "SOLVER.MAX_ITER": "12",
        "SOLVER.CHECKPOINT_PERIOD": "4",
        "SEED": "5",
        "OUTPUT_DIR": str(root / "out"),
    }
    return [word for pair in values.items() for word in pair]


def register_tiny(root: Path, num_images: int = 5) -> list[str]:
    """Make and register the data set "tiny"; returns the arguments of --register for it."""
    root.mkdir(parents=True, exist_ok=True)
    paths = make_coco_panoptic(root, num_images=num_images)
    words = [paths.images, paths.panoptic_json, paths.panoptic_png]
    register_panoptic("tiny", *words)
    return ["tiny", *words]


def forget_tiny() -> None:
    """Free the name "tiny" for the next test."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "tiny" in catalog:
            catalog.pop("tiny")


def register_tiny_again(root: Path) -> None:
    """Register "tiny" in another process than that which made it."""
    register_panoptic(
        "tiny", str(root / "tiny"), str(root / "panoptic_tiny.json"), str(root / "panoptic_tiny")
    )


# The Unified system as the scenes have it, but a few channels wide and on tiny images.
UNIFIED_OPTIONS = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
    *("MODEL.UNIFIED.DECODER.HIDDEN_CHANNELS", "16", "MODEL.UNIFIED.DECODER.CHANNELS", "16"),
    *("MODEL.UNIFIED.DECODER.NORM", "", "MODEL.UNIFIED.DECODER.NUM_CONVS", "1"),
    *("MODEL.UNIFIED.AFFINITY.CHANNELS", "8", "MODEL.DEVICE", "cpu"),
    *("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "DATALOADER.NUM_WORKERS", "0"),
]


def tiny_config(root: Path, *opts: Any) -> CfgNode:
    """A complete config for `TinyTrainer`; "tiny" must be registered.

    Args:
        root: folder of the run.
        opts: further keys and values.
    """
    cfg = get_cfg()
    add_panoptic_config(cfg)
    add_tiny_system_config(cfg)
    cfg.merge_from_list([*tiny_options(root), *map(str, opts)])
    fill_classes(cfg, common_class_table([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    return cfg


def set_option(words: list[str], key: str, value: str) -> list[str]:
    """The arguments with one config option changed or added."""
    if key in words:
        place = words.index(key) + 1
        return [*words[:place], value, *words[place + 1 :]]
    return [*words, key, value]
