"""A system that sees brightness, to test what predicts and draws with: see it through, by hand.

Class 0 (stuff) is where an image is dark, class 1 (a thing) where it is bright. It finds two boxes.
It gives a map of cells of 4 x 4 pixels that grows from 0 at the left to 1 at the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import panoptic_common.compat

import torch
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

from panoptic_common.config import add_panoptic_config, fill_classes
from panoptic_common.inference.predictor import Predictor

SYSTEMS = {"StubPanoptic": "stub_system"}
TABLE = [
    {"id": 3, "name": "dark", "isthing": 0, "color": [0, 90, 0]},
    {"id": 7, "name": "bright", "isthing": 1, "color": [0, 0, 200]},
]
SCORES = (0.9, 0.3)  # of the boxes; the bright segment has the first


def add_stub_system_config(cfg: CfgNode) -> None:
    """Add MODEL.STUB."""
    add_panoptic_config(cfg)
    cfg.MODEL.STUB = CfgNode({"SCORE_THRESH": 0.5, "WITH_RAMP": True, "SPOT": True})


@META_ARCH_REGISTRY.register()
class StubPanoptic(nn.Module):
    """The model; its one parameter is the brightness that divides the classes."""

    @configurable
    def __init__(self, *, score_thresh: float, with_ramp: bool, has_spot: bool) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(128.0))
        self.score_thresh, self.with_ramp, self.has_spot = score_thresh, with_ramp, has_spot

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        stub = cfg.MODEL.STUB
        return {
            "score_thresh": stub.SCORE_THRESH,
            "with_ramp": stub.WITH_RAMP,
            "has_spot": stub.SPOT,
        }

    def forward(self, batch: Sequence[dict]) -> list[dict]:
        return [self._predict(sample) for sample in batch]

    def _predict(self, sample: dict) -> dict[str, Any]:
        size = (sample["height"], sample["width"])
        # The first channel alone, so that their order matters.
        image = nn.functional.interpolate(sample["image"][None, :1].float(), size)[0, 0]
        bright = image > self.limit
        id_map = bright.to(torch.int32) * 2
        segments = [{"id": 2, "category_id": 1, "isthing": True, "score": SCORES[0]}]
        if SCORES[0] < self.score_thresh or not bright.any():
            id_map, segments = torch.zeros_like(id_map), []
        found = Instances(size)
        found.pred_boxes = Boxes(torch.tensor([[0.0, 0, 8, 8], [4.0, 4, 20, 12]]))
        found.scores = torch.tensor(SCORES)
        found.pred_classes = torch.zeros(2, dtype=torch.int64)  # the first thing, class 1
        output = {
            "sem_seg": torch.stack([~bright, bright]).float(),
            "panoptic_seg": (id_map, segments),
            "panoptic_variants": {"void": (torch.zeros_like(id_map), [])},
            "instances": found,
        }
        if self.with_ramp:
            height, width = (-(-length // 4) for length in sample["image"].shape[1:])
            output["ramp"] = torch.arange(width).expand(height, width) / max(width - 1, 1)
        return output


def stub_config(**options: Any) -> CfgNode:
    """A complete config; `options` are keys of MODEL.STUB. Images keep their size."""
    cfg = get_cfg()
    add_stub_system_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "StubPanoptic", "cpu", ""
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = "RGB", 0
    for key, value in options.items():
        cfg.MODEL.STUB[key] = value
    fill_classes(cfg, TABLE)
    return cfg


def stub_predictor(**options: Any) -> Predictor:
    """A predictor with the model of `stub_config`."""
    cfg = stub_config(**options)
    return Predictor(cfg, META_ARCH_REGISTRY.get("StubPanoptic")(cfg), TABLE, SYSTEMS)
