"""Tiny Unified models and random images for the tests, and checks that several tests share.

The network is a ResNet-18 of 8 channels with heads of 8 to 32 channels. There are K = 5 classes, of
which 1 and 3 are things, so that contiguous ids, thing indices and stuff channels all differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_common.config import load_config
from unified_panoptic.targets import make_unified_targets

IS_THING = (False, True, False, True, False)
THING_IDS = (1, 3)
STUFF_IDS = (0, 2, 4)

U = "MODEL.UNIFIED."
# Models A and C of the paper's Table 1: neither affinity nor panoptic loss.
NO_PANOPTIC = {U + "AFFINITY.ENABLED": False, U + "PANOPTIC.ENABLED": False}

_TINY = {
    "MODEL.META_ARCHITECTURE": "UnifiedPanoptic",
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_MEAN": [110.0, 110.0, 110.0],
    "MODEL.PIXEL_STD": [60.0, 60.0, 60.0],
    "MODEL.BACKBONE.NAME": "build_unified_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 40,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.NAME": "UnifiedROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.UNIFIED.DECODER.NUM_CONVS": 2,
    "MODEL.UNIFIED.DECODER.HIDDEN_CHANNELS": 16,
    "MODEL.UNIFIED.DECODER.CHANNELS": 8,
    "MODEL.UNIFIED.AFFINITY.CHANNELS": 8,
    "MODEL.UNIFIED.INFERENCE.STUFF_AREA_LIMIT": 0,
    # An untrained network scores every class near 1/3.
    "MODEL.UNIFIED.INFERENCE.SCORE_THRESH": 0.3,
    "MODEL.UNIFIED.INFERENCE.HEURISTIC_SCORE_THRESH": 0.3,
    "INPUT.MASK_FORMAT": "bitmask",
}


def tiny_config(changes: dict | None = None) -> CfgNode:
    """A config of the full system (model D2) in miniature, with `changes` by dotted key."""
    table = [{"name": f"class {i}", "isthing": int(flag)} for i, flag in enumerate(IS_THING)]
    return load_config("", {**_TINY, **(changes or {})}, table=table)


def unchecked_config(changes: dict) -> CfgNode:
    """Make such a config with values that no table has looked at, for what the classes say."""
    cfg = tiny_config()
    cfg.merge_from_list([word for pair in changes.items() for word in pair])
    return cfg


def tiny_model(changes: dict | None = None, seed: int = 0, device: str = "cpu") -> nn.Module:
    """A model with the same random weights for the same seed."""
    torch.manual_seed(seed)
    return build_model(tiny_config({"MODEL.DEVICE": device, **(changes or {})}))


def lively_model(changes: dict | None = None, device: str = "cpu") -> nn.Module:
    """An untrained model whose predictors are not nearly constant, so that things win somewhere."""
    keys = {U + "POTENTIAL.VARIANT": "C"}
    model = tiny_model({**keys, **(changes or {})}, device=device).eval()
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight, std=0.5)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.03)
    torch.nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias[-1:], -1.0)  # background
    if model.roi_heads.mask_on:
        torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=2.0)
    return model


def make_image(
    seed: int = 0,
    size: tuple[int, int] = (64, 96),
    *,
    things: Sequence[int] = (1, 3, 1),
    stuff: Sequence[int] = (0, 2, 4),
    crowd: bool = True,
    void_rows: int = 4,
) -> dict:
    """A training image of noise with its truth.

    Args:
        seed: of pixels and of the places of the things.
        size: (H, W).
        things: contiguous class of each thing, a rectangle of 16x24 pixels or less.
        stuff: contiguous class of each horizontal band; empty leaves the background void.
        crowd: adds one crowd segment of class 1 in the lower right corner.
        void_rows: rows at the top that belong to no segment.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    id_map = np.zeros(size, dtype=np.int32)
    segments_info = []

    def add(segment_id: int, class_id: int, rows: slice, columns: slice, iscrowd: int) -> None:
        id_map[rows, columns] = segment_id
        segments_info.append({"id": segment_id, "category_id": class_id, "iscrowd": iscrowd})

    for index, class_id in enumerate(stuff):
        rows = slice(height * index // len(stuff), height * (index + 1) // len(stuff))
        add(10 + index, class_id, rows, slice(None), 0)
    for index, class_id in enumerate(things):
        top = int(rng.integers(0, max(height - 16, 1)))
        left = int(rng.integers(0, max(width - 24, 1)))
        add(1000 + index, class_id, slice(top, top + 16), slice(left, left + 24), 0)
    if crowd:
        add(70000, THING_IDS[0], slice(height - 8, height), slice(width - 12, width), 1)
    id_map[:void_rows] = 0
    image = make_unified_targets(id_map, segments_info, IS_THING)
    pixels = rng.integers(0, 256, size=(3, *size)).astype(np.uint8)
    return {**image, "image": torch.from_numpy(pixels), "height": height, "width": width}


def training_step(model: nn.Module, batch: list[dict], seed: int = 0) -> dict[str, torch.Tensor]:
    """Forward and backward of one step from cleared gradients; returns the losses.

    Seeded, since Detectron2 samples anchors and proposals from the global generator.
    """
    model.train()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


def without_gradient(model: nn.Module) -> list[str]:
    """Names of the trainable parameters that the last backward did not reach."""
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def check_result(result: dict, size: tuple[int, int]) -> None:
    """Shapes, types, and agreement of a panoptic map with its segments."""
    assert tuple(result["sem_seg"].shape) == (len(IS_THING), *size)
    total = result["sem_seg"].sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert result["instances"].image_size == size
    if result["instances"].has("pred_masks"):
        assert tuple(result["instances"].pred_masks.shape[1:]) == size
        assert result["instances"].pred_masks.dtype == torch.bool
    for ids, infos in (result["panoptic_seg"], *result["panoptic_variants"].values()):
        assert tuple(ids.shape) == size
        assert ids.dtype == torch.int32
        areas = {int(i): int((ids == i).sum()) for i in ids.unique() if i != 0}
        assert areas == {segment["id"]: segment["area"] for segment in infos}
        for segment in infos:
            assert segment["isthing"] == IS_THING[segment["category_id"]]
            assert ("score" in segment) == segment["isthing"]
        stuff = [s["category_id"] for s in infos if not s["isthing"]]
        assert len(stuff) == len(set(stuff))


def assert_gradient_of_multilinear(
    function: Callable[..., torch.Tensor], *inputs: torch.Tensor
) -> None:
    """Compare autograd with finite differences of a function that is affine in every single entry.

    For such a function the central difference is exact for *every* step. So a step of 1 makes
    single precision, which the function insists on, as good as double.
    """
    inputs = tuple(x.detach().clone().requires_grad_(True) for x in inputs)
    value = function(*inputs)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value.device)
    gradients = torch.autograd.grad((value * weight).sum(), inputs)
    with torch.no_grad():
        for x, gradient in zip(inputs, gradients, strict=True):
            numeric = torch.zeros_like(x)
            for entry in range(x.numel()):
                start = float(x.view(-1)[entry])
                x.view(-1)[entry] = start + 1
                above = (function(*inputs) * weight).sum()
                x.view(-1)[entry] = start - 1
                below = (function(*inputs) * weight).sum()
                x.view(-1)[entry] = start
                numeric.view(-1)[entry] = (above - below) / 2
            assert numeric.abs().max() > 0
            torch.testing.assert_close(gradient, numeric, rtol=1e-4, atol=1e-4)
