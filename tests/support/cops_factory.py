"""Tiny COPS models, random images, and random problems on a grid for the tests.

The network is a ResNet-18 of 8 channels with heads of 16. There are K = 5 classes, of which 1 and 3
are things, so that contiguous ids, thing indices and stuff classes all differ. The problems of the
layers have 3 classes, of which 1 and 2 are things.
"""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch import nn

from cops import add_cops_config
from cops.layers.perturbation import SolverSettings
from cops.targets import CopsTarget, make_cops_targets
from panoptic_common.config import load_config

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


# ---- parts of the network -----------------------------------------------------------------------


HEAD_SHAPES = {
    "res2": ShapeSpec(channels=6, stride=4),
    "res3": ShapeSpec(channels=8, stride=8),
    "res5": ShapeSpec(channels=12, stride=16),
}


def thin_head_config(**changes) -> CfgNode:
    """Heads of 8 to 16 channels and 3 classes; changes are keys of MODEL.COPS.AFFINITY."""
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.MODEL.COPS.DISTANCES = (1, 2, 5)
    for node in (cfg.MODEL.COPS.SEMANTIC, cfg.MODEL.COPS.AFFINITY):
        node.PROJECT_CHANNELS = (2, 4)
        node.DECODER_CHANNELS = node.HEAD_CHANNELS = 16
        node.ASPP_CHANNELS = 8
        node.ASPP_DILATIONS = (1, 2)
        node.ASPP_DROPOUT = 0.0
    for key, value in changes.items():
        cfg.MODEL.COPS.AFFINITY[key] = value
    return cfg


def random_features(
    height: int, width: int, count: int = 2, shapes: dict[str, ShapeSpec] = HEAD_SHAPES
) -> dict[str, torch.Tensor]:
    """Maps of an image of that size, each side divided by the stride and rounded up."""
    torch.manual_seed(0)
    return {
        name: torch.randn(
            count, shape.channels, -(-height // shape.stride), -(-width // shape.stride)
        )
        for name, shape in shapes.items()
    }


# ---- problems on a grid -------------------------------------------------------------------------


GRID_THINGS = (False, True, True)
GRID_DISTANCES = (1, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid_settings(low: float = 4.0, high: float = 4.0, samples: int = 1, **changes):
    """Settings with lambda from `low` to `high`."""
    options = {"partitionable": GRID_THINGS, "distances": GRID_DISTANCES, "num_threads": 1}
    return SolverSettings(lambda_range=(low, high), num_samples=samples, **(options | changes))


def grid_truth(rng, height: int = 3, width: int = 4, device: str = "cpu") -> CopsTarget:
    """Stuff, two things of class 1, one of class 2, a crowd, and void."""
    segments = [{"id": i, "category_id": c} for i, c in ((1, 0), (2, 1), (3, 1), (4, 2))]
    segments.append({"id": 5, "category_id": 1, "iscrowd": 1})
    id_map = rng.integers(0, 6, (height, width))
    targets = make_cops_targets(id_map, segments, GRID_THINGS, GRID_DISTANCES, stride=1)
    return targets["cops_target"].to(device)


def grid_costs(rng, num: int = 1, height: int = 3, width: int = 4, device: str = "cpu"):
    """Multiples of 1/8: sums are exact in floats, so that the naive solver's fractions agree."""
    class_costs = rng.integers(-20, 21, (num, 3, height, width)) / 8
    edge_costs = rng.integers(-8, 17, (num, 2 * len(GRID_DISTANCES), height, width)) / 8
    return tuple(
        torch.tensor(costs, dtype=torch.float32, device=device, requires_grad=True)
        for costs in (class_costs, edge_costs)
    )


def mode_by_loop(id_map: np.ndarray, stride: int) -> np.ndarray:
    """One block at a time; `np.unique` sorts, and `argmax` takes the first of equal counts."""
    height, width = id_map.shape
    reduced = np.empty((-(-height // stride), -(-width // stride)), dtype=id_map.dtype)
    for i, j in np.ndindex(reduced.shape):
        block = id_map[i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
        ids, counts = np.unique(block, return_counts=True)
        reduced[i, j] = ids[counts.argmax()]
    return reduced
