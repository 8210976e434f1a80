"""Semantic branches without a detector: built, trained and evaluated on stuff.

Shapes: N images; C channels; h, w the grid at stride 4; K classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from panoptic_common.coco.overlaps import class_confusion, class_iou, count_overlaps, mean_ious
from panoptic_common.coco.quality import PanopticStatistics, match_segments
from panoptic_common.config import load_config
from panoptic_common.data.catalog import load_panoptic
from panoptic_common.data.mapper import PanopticDatasetMapper
from panoptic_common.data.segment_truth import IGNORE_CLASS
from panoptic_common.data.train_loader import TrainLoader, seed_everything
from panoptic_common.engine.trainer import PanopticTrainer
from panoptic_common.evaluation.truth import PanopticTruth, segment_classes
from panoptic_common.external.numbering import Numbering
from panoptic_common.external.targets import TargetFunction
from panoptic_common.modeling.network_input import normalised_batch
from panoptic_tools.studies.library.paths import ROOT
from unified_panoptic.modeling.grid import CENTRE
from unified_panoptic.modeling.semantic_head import FeatureDecoder, SemanticHead

CONFIG = ROOT / "configs/unified/scenes/D2.yaml"
LEVELS = ("p2", "p3", "p4", "p5")


@dataclass(frozen=True)
class Branch:
    """What differs between the rows.

    Attributes:
        decoder: "shared", the paper's subnet; "own", that subnet once per level; or "per_level",
            Detectron2's SemSegFPNHead.
        width: of the decoder's convolutions.
        numbering: "joint" for all classes, "separate" for stuff and one class for all things.
        loss_stride: 4 or 1.
        predictor: initial weights of the last layer: "small" (0.01, Unified's) or "msra"
            (Detectron2's); "": as the head has it.
        squeeze_excitation: on res5.
    """

    decoder: str = "shared"
    width: int = 32
    numbering: str = "joint"
    loss_stride: int = 4
    predictor: str = ""
    squeeze_excitation: bool = True


BRANCHES = {
    "shared": Branch(),
    "shared, things as one class": Branch(numbering="separate"),
    "shared, loss at stride 1": Branch(loss_stride=1),
    "shared, larger predictor": Branch(predictor="msra"),
    "own subnet per level": Branch("own"),
    "per level": Branch("per_level", 64),
    "per level, small predictor": Branch("per_level", 64, predictor="small"),
    "per level, things as one class": Branch("per_level", 64, "separate"),
    "PanopticFPN's": Branch("per_level", 64, "separate", 1, squeeze_excitation=False),
}


class OwnSubnets(nn.Module):
    """The paper's decoder with weights of its own per level."""

    def __init__(self, subnets: Sequence[nn.Module], out_channels: int) -> None:
        super().__init__()
        self.subnets = nn.ModuleList(subnets)
        self.out_channels = out_channels

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Decode the FPN levels as `FeatureDecoder` does."""
        maps = [net(features[name]) for net, name in zip(self.subnets, LEVELS, strict=True)]
        size = maps[0].shape[-2:]
        larger = [F.interpolate(x, size=size, mode="bilinear") for x in maps[1:]]
        return torch.cat([maps[0], *larger], dim=1)


class SemanticBranch(nn.Module):
    """Backbone, FPN and one semantic head."""

    def __init__(self, cfg: CfgNode, branch: Branch, num_classes: int) -> None:
        super().__init__()
        self.loss_stride = branch.loss_stride
        cfg = cfg.clone()
        cfg.MODEL.UNIFIED.SQUEEZE_EXCITATION = branch.squeeze_excitation
        self.backbone = build_backbone(cfg)
        self.head = _build_head(cfg, branch, num_classes, self.backbone.output_shape())
        if branch.predictor == "small":
            nn.init.normal_(self.head.predictor.weight, std=0.01)
            nn.init.zeros_(self.head.predictor.bias)
        elif branch.predictor == "msra":
            nn.init.kaiming_normal_(self.head.predictor.weight, mode="fan_out")
        self.register_buffer("mean", torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(cfg.MODEL.PIXEL_STD).view(-1, 1, 1))

    def logits(self, batch: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Compute (N, C, h, w) logits at stride 4 of images of one size."""
        images = normalised_batch(batch, self.mean, self.std, self.backbone.size_divisibility)
        features = self.backbone(images.tensor)
        if isinstance(self.head, SemSegFPNHead):
            return self.head.layers(features)
        return self.head(features)

    def loss(self, batch: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Compute the mean cross entropy over the labelled pixels."""
        logits = self.logits(batch)
        truth = torch.stack([sample["sem_seg"] for sample in batch])
        if self.loss_stride == 4:
            truth = CENTRE.of_truth(truth, logits.shape[-2:])
            logits = CENTRE.of_maps(logits)
        else:
            logits = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear")
        return F.cross_entropy(logits, truth, ignore_index=IGNORE_CLASS)


def _build_head(
    cfg: CfgNode, branch: Branch, num_classes: int, shape: dict[str, ShapeSpec]
) -> nn.Module:
    if branch.decoder == "per_level":
        levels = {name: shape[name] for name in LEVELS}
        return SemSegFPNHead(
            levels,
            num_classes=num_classes,
            conv_dims=branch.width,
            common_stride=4,
            norm="GN",
            ignore_value=IGNORE_CLASS,
        )
    cfg = cfg.clone()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.UNIFIED.DECODER.CHANNELS = branch.width
    head = SemanticHead(cfg, shape)
    if branch.decoder == "own":
        subnets = [FeatureDecoder(cfg, shape).subnet for _ in LEVELS]
        head.decoder = OwnSubnets(subnets, head.decoder.out_channels)
    return head


def train_branch(branch: Branch, seed: int, iterations: int, opts: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate one branch.

    Args:
        branch: what to train.
        seed: of weights and batches.
        iterations: with a schedule of that length.
        opts: further config keys and values, by turns.

    Returns:
        The figures in percent, and "parameters" of the head and "processor_seconds" of training.
    """
    cfg = load_config(CONFIG, opts)
    cfg.SEED, cfg.SOLVER.MAX_ITER = seed, iterations
    numbering = Numbering(branch.numbering, cfg.MODEL.PANOPTIC.IS_THING)
    seed_everything(seed)
    model = SemanticBranch(cfg, branch, len(numbering.semantic)).train()
    optimizer = PanopticTrainer.build_optimizer(cfg, model)
    scheduler = PanopticTrainer.build_lr_scheduler(cfg, optimizer)
    loader = TrainLoader(
        load_panoptic("scenes_train"),
        PanopticDatasetMapper.from_config(cfg, True, TargetFunction(numbering)),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=seed,
        is_landscape=None,
        num_workers=0,
        rank=0,
        world_size=1,
    )
    begin = time.process_time()
    for _, batch in zip(range(iterations), loader, strict=False):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
        scheduler.step()
    seconds = time.process_time() - begin
    return {
        **evaluate_branch(model.eval(), cfg, numbering),
        "parameters": sum(p.numel() for p in model.head.parameters()),
        "processor_seconds": seconds,
    }


@torch.no_grad()
def evaluate_branch(model: SemanticBranch, cfg: CfgNode, numbering: Numbering) -> dict[str, float]:
    """Compute the figures of stuff on `scenes_test`."""
    mapper = PanopticDatasetMapper.from_config(cfg, False, None)
    truth, is_thing = PanopticTruth("scenes_test"), np.array(numbering.is_thing)
    count = len(is_thing)
    # What a channel stands for; things of any kind are class `count`, which is none.
    classes = np.array([k if k >= 0 and not is_thing[k] else count for k in numbering.semantic])
    confusion, statistics = np.zeros((count, count + 1), np.int64), PanopticStatistics.zeros(count)
    for image in load_panoptic("scenes_test"):
        record, sample = truth.record(image), mapper(image)
        logits = model.logits([sample])
        scores = F.interpolate(logits, size=sample["image"].shape[-2:], mode="bilinear")[0]
        found = classes[scores.argmax(dim=0).numpy()]
        true_ids = truth.read(record)
        same = {k: k for k in range(count)}
        confusion += class_confusion(
            count_overlaps(true_ids, found), segment_classes(record), same, count
        )
        id_map, segments = stuff_map(found, count, cfg.MODEL.UNIFIED.INFERENCE.STUFF_AREA_LIMIT)
        statistics += match_segments(
            true_ids, record["segments_info"], id_map, segments, count
        ).statistics(count)
    stuff = statistics.quality(is_thing).stuff
    return {
        "mIoU_st": mean_ious(class_iou(confusion), is_thing)["mIoU_st"],
        "PQ_st": 100 * stuff.pq,
        "SQ_st": 100 * stuff.sq,
        "RQ_st": 100 * stuff.rq,
    }


def stuff_map(
    classes: np.ndarray, count: int, area_limit: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Make the panoptic map that has stuff alone.

    Args:
        classes: (H, W) stuff classes; `count` where there is a thing.
        count: K.
        area_limit: in pixels; smaller segments are void.

    Returns:
        (H, W) int32 ids, class + 1, and segments_info.
    """
    areas = np.bincount(classes.ravel(), minlength=count + 1)
    areas[count] = 0
    kept = np.flatnonzero(areas >= max(area_limit, 1))
    ids = np.zeros(count + 1, np.int32)
    ids[kept] = kept + 1
    segments = [
        {"id": int(k) + 1, "category_id": int(k), "isthing": False, "area": int(areas[k])}
        for k in kept
    ]
    return ids[classes], segments
