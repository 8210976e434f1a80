"""Tiny COPS models and random images for the tests.

The network is a ResNet-18 of 8 channels with heads of 16; K = 5 classes, of which 1 and 3 are
things, so that contiguous ids, thing indices and stuff classes all differ.
"""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from cops import add_cops_config
from cops.targets import make_cops_targets
from panoptic_common.config import fill_classes

IS_THING = (False, True, False, True, False)
DISTANCES = (1, 4, 8)
C = "MODEL.COPS."

_TINY = {
    "MODEL.META_ARCHITECTURE": "COPS",
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.PIXEL_MEAN": [110.0, 110.0, 110.0],
    "MODEL.PIXEL_STD": [60.0, 60.0, 60.0],
    "MODEL.BACKBONE.NAME": "build_cops_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.STEM_TYPE": "basic",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2],
    C + "DISTANCES": DISTANCES,
    C + "PRETRAIN.LOSS_STRIDE": 4,
    C + "INFERENCE.THING_AREA_LIMIT": 0,
    C + "INFERENCE.STUFF_AREA_LIMIT": 0,
    C + "SOLVER.THREADS": 1,
    "INPUT.MASK_FORMAT": "bitmask",
}
for _head in ("SEMANTIC", "AFFINITY"):
    _TINY |= {
        f"{C}{_head}.PROJECT_CHANNELS": (4, 4),
        f"{C}{_head}.DECODER_CHANNELS": 16,
        f"{C}{_head}.ASPP_CHANNELS": 16,
        f"{C}{_head}.ASPP_DILATIONS": (1, 2, 3),
        f"{C}{_head}.ASPP_DROPOUT": 0.0,
        f"{C}{_head}.HEAD_CHANNELS": 16,
        f"{C}{_head}.NORM": "BN",
    }


def tiny_config(changes: dict | None = None) -> CfgNode:
    """A config in miniature, with `changes` by dotted key."""
    cfg = get_cfg()
    add_cops_config(cfg)
    options = {**_TINY, **(changes or {})}
    cfg.merge_from_list([part for pair in options.items() for part in pair])
    table = [{"name": f"class {i}", "isthing": int(flag)} for i, flag in enumerate(IS_THING)]
    fill_classes(cfg, table)
    return cfg


def tiny_model(changes: dict | None = None, seed: int = 0) -> nn.Module:
    """A model with the same random weights for the same seed."""
    torch.manual_seed(seed)
    return build_model(tiny_config(changes))


def make_image(
    seed: int = 0, size: tuple[int, int] = (48, 64), *, void: bool = False, things: int = 3
) -> dict:
    """A training image of noise with its truth: stuff 0 and 2 above each other, thing blocks.

    Args:
        seed: of the pixels and of the places of the things.
        size: (H, W).
        void: no truth at all.
        things: how many, of class 1 and 3 in turn; the last is a crowd if there are three or more.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    id_map = np.full(size, 1, np.int32)
    id_map[height // 2 :] = 2
    segments = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 2}]
    for number in range(things):
        y, x = rng.integers(0, height - 12), rng.integers(0, width - 12)
        id_map[y : y + 12, x : x + 12] = 3 + number
        crowd = int(things >= 3 and number == things - 1)
        segments.append({"id": 3 + number, "category_id": 1 + 2 * (number % 2), "iscrowd": crowd})
    id_map[:4] = 0
    if void:
        id_map[:] = 0
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width)).astype(np.uint8))
    targets = make_cops_targets(id_map, segments, IS_THING, DISTANCES, small_area=100)
    return {"image": image, "height": height, "width": width, **targets}


def perfect_maps(target, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits (K, h, w) and edge logits (2 D, h, w) that state the truth."""
    classes = target.sem_seg.clamp(max=num_classes - 1)
    class_logits = 10.0 * torch.nn.functional.one_hot(classes, num_classes).permute(2, 0, 1)
    return class_logits.float(), 10.0 * (2 * target.is_cut - 1)
