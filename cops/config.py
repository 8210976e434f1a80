"""Configuration keys of COPS.

Symbols, sections and equations are those of Abbas and Swoboda, "Combinatorial Optimization for
Panoptic Segmentation", NeurIPS 2021. What the paper leaves open says so.
"""

from __future__ import annotations

import panoptic_common.compat

from detectron2.config import CfgNode as CN

from cops.solver.methods import METHODS
from panoptic_common.config import add_panoptic_config
from panoptic_common.config.common_values import RESNET_RULES
from panoptic_common.config.value_rules import (
    Rule,
    ascending,
    below,
    distinct,
    number,
    one_of,
    require_values,
    several,
    whole,
)

# Keys of earlier versions that nothing turned. The configs inside old checkpoints hold them:
# merging such a config warns and leaves them out. Their defaults are now the only way. Class costs
# enter the affinity branch, costs have scales, and the decoders take all maps of the backbone. Both
# pre-training losses weigh 1, and areas are divided by the squared stride.
REMOVED_KEYS = (
    "MODEL.COPS.AFFINITY.IN_FEATURES",
    "MODEL.COPS.AFFINITY.USE_CLASS_COSTS",
    "MODEL.COPS.COST_SCALES",
    "MODEL.COPS.INFERENCE.AREA_DIVISOR",
    "MODEL.COPS.PRETRAIN.AFFINITY_WEIGHT",
    "MODEL.COPS.PRETRAIN.SEMANTIC_WEIGHT",
    "MODEL.COPS.SEMANTIC.IN_FEATURES",
)


def add_cops_config(cfg: CN) -> None:
    """Add the keys of COPS (and those of `panoptic_common`) to `cfg`, in place.

    Repeating it is harmless.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    add_panoptic_config(cfg)
    if "COPS" in cfg.MODEL:
        return
    # ---- backbone (3.1): `build_cops_resnet_backbone` -------------------------------------------
    # Detectron2's own keys of MODEL.RESNETS, and two of its DeepLab project:
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"  # three 3x3 convolutions; or "basic", one 7x7
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]  # factors of RES5_DILATION, one per block
    cfg.MODEL.COPS = CN()
    _add_network_config(cfg.MODEL.COPS)
    _add_target_config(cfg.MODEL.COPS)
    _add_training_config(cfg.MODEL.COPS)
    _add_inference_config(cfg.MODEL.COPS)
    for key in REMOVED_KEYS:
        cfg.register_deprecated_key(key)


def _add_network_config(node: CN) -> None:
    # Pixels along a cell of the grid that the network predicts on: 4 (3.1), or 2 for things of few
    # pixels. At 2, MODEL.RESNETS.OUT_FEATURES begins with "res1", each PROJECT_CHANNELS has one
    # number more, and INFERENCE.STRIDE is 2 or 1.
    node.STRIDE = 4
    # Images are padded to multiples of it, beside what the backbone needs; 0: to that alone. The
    # authors' COCO network sees 640 x 640, so that its ASPP pools as in training.
    node.SIZE_DIVISIBILITY = 0
    # Distances d of the edges, in cells of that grid, horizontal and vertical (3.1).
    node.DISTANCES = (1, 4, 16, 32, 64)
    for name, channels in (("SEMANTIC", 256), ("AFFINITY", 256)):
        head = CN()
        # ---- DeepLabV3+ decoder -----------------------------------------------------------------
        # It takes all maps of the backbone; the one of the greatest stride goes into the ASPP.
        head.PROJECT_CHANNELS = (32, 64)  # of the others, by ascending stride
        head.DECODER_CHANNELS = channels  # after each fusion
        head.ASPP_CHANNELS = 256
        head.ASPP_DILATIONS = (6, 12, 18)
        head.ASPP_DROPOUT = 0.1
        # Window of the ASPP's pooling in pixels of the image, (height, width), as the training
        # crop in Detectron2's Panoptic-DeepLab; (0, 0): the whole image.
        head.ASPP_POOL_SIZE = (0, 0)
        head.HEAD_CHANNELS = channels  # of the two 3x3 convolutions before the classifiers
        head.NORM = "BN"
        node[name] = head


def _add_target_config(node: CN) -> None:
    # ---- pre-training (4.2) ---------------------------------------------------------------------
    node.PRETRAIN = CN()
    node.PRETRAIN.SEMANTIC_TOP_K = 0.2  # share of the hardest pixels; 0.2 Cityscapes, 1.0 COCO
    node.PRETRAIN.AFFINITY_TOP_K = 0.25  # of the edges of each distance
    # Factor of the affinity loss, a mean over distances. The authors add 0.25 times the losses of
    # both directions of each: a factor of 0.5 D.
    node.PRETRAIN.AFFINITY_FACTOR = 1.0
    node.PRETRAIN.THING_WEIGHT = 4.0  # of edges with a thing at either end
    node.PRETRAIN.SMALL_WEIGHT = 3.0  # of small things: their pixels and edges
    node.PRETRAIN.TOUCHING_WEIGHT = 1.0  # of edges from one thing to another, besides; ours
    # Below this area, in pixels of the augmented image, a thing is small (Panoptic-DeepLab's).
    node.PRETRAIN.SMALL_AREA = 4096
    # Stride at which the semantic loss is taken: 1 upsamples the logits, that of the grid reduces
    # the truth.
    node.PRETRAIN.LOSS_STRIDE = 1


def _add_training_config(node: CN) -> None:
    # ---- what is trained: "pretrain" (the pre-training losses), "surrogate" (panoptic quality
    # through the solver, 3.3), "separate" (losses on class and edge labels through the solver, A.3)
    node.TRAINING = "pretrain"
    # Adds the pre-training losses to the loss through the solver, both gradients at the costs
    # scaled to an L1 norm of 1. The weight is that of the pre-training losses. 0: not added.
    node.MIX = 0.0
    # One stage: shares of SOLVER.MAX_ITER between which the loss through the solver comes in. Up to
    # the first the pre-training losses are alone. From the second on the gradient of the other is
    # 1 / MIX times theirs, as an L1 norm at the costs; theirs is not scaled. Empty: as under MIX.
    node.RAMP = ()
    # Trains only the last decoder layers, the heads, the classifiers and the cost scales (4.2).
    node.FREEZE = False

    node.SOLVER = CN()
    node.SOLVER.METHOD = "greedy"  # Algorithm 2; or "multilevel", "auto": docs/solver.md
    # Solves that run side by side; 0: one per core, shared with the processes of this machine.
    node.SOLVER.THREADS = 0

    # ---- backward pass (3.3.1, 3.3.3) -----------------------------------------------------------
    node.BACKWARD = CN()
    node.BACKWARD.SAMPLES = 5  # N, interpolation ranges per step
    node.BACKWARD.LAMBDA_RANGE = (1.0, 5000.0)  # drawn uniformly from here (Table 2)
    node.BACKWARD.WARM_START = False  # the MWC starts from the forward solution
    # What a perturbed solution is compared with: "forward", the solution of the forward pass. Or
    # "solved", that of the lifted problem: what changes without a perturbation is no gradient then.
    node.BACKWARD.ZERO = "forward"

    # ---- loss through the solver (3.3.2, A.2) ---------------------------------------------------
    node.LOSS = CN()
    node.LOSS.WEIGHT = 10.0  # w (Table 2)
    # "authors": a matched pair also counts (1 - h) / 2 as a miss. "literal": Eq. 6 as printed,
    # whose slope has the wrong sign below an IoU of 0.5. "expected": a pair that fails is a miss
    # and a false positive, so that steep h and sigma give PQ itself (Eq. 5).
    node.LOSS.FORM = "authors"
    node.LOSS.MATCH_POWER = 4.0  # p of h(u) = u^p / (u^p + (1 - u)^p)
    # h becomes (1 - s) h(u) + s u: h has no slope at u = 0, so a missed segment is not pulled up.
    # 0: the paper's.
    node.LOSS.LINEAR_SHARE = 0.0
    # Added to numerator and denominator of each class's quality; the authors' is 0.1. Then a class
    # that is only predicted has a slope, and COUNT_PREDICTED lets it into the mean, as theirs does.
    node.LOSS.EPSILON = 0.0
    node.LOSS.COUNT_PREDICTED = False
    # The slope of sigma (Eq. 6), and the unit of it and of the area limits beside it: "pixel",
    # "authors", or "cell". The paper does not say; see `cops.modeling.solver_training.area_unit`.
    node.LOSS.AREA_SLOPE = 0.1
    node.LOSS.AREA_UNIT = "cell"
    # Predicted things of fewer cells get no mask: costs of a network that has learned nothing yet
    # give thousands of segments an image. The authors drop those below 3.
    node.LOSS.LEAST_CELLS = 0
    # Share of costs set to zero in training (A.2): pixels with all their classes, and edges.
    node.LOSS.COST_DROPOUT = 0.1

    # ---- calibration, ours: see `cops.modeling.calibration` --------------------------------------
    node.CALIBRATION = CN()
    # The last step of a training balances edge costs by the panoptic quality on this many images of
    # its first set. 0: not at all, as in the paper.
    node.CALIBRATION.IMAGES = 0
    node.CALIBRATION.MAX_PIXELS = 400_000  # larger images are left out: they take most of the time


def _add_inference_config(node: CN) -> None:
    # ---- inference -------------------------------------------------------------------------------
    node.INFERENCE = CN()
    node.INFERENCE.STRIDE = 4  # of the grid that is solved: that of the network or finer (A.7)
    # Segments below these areas, in pixels of the result, become void (4.1). Soft in training.
    node.INFERENCE.THING_AREA_LIMIT = 200
    node.INFERENCE.STUFF_AREA_LIMIT = 2048
    # True: AP looks at the trimmed map, as the authors' does. Small things then count nowhere.
    node.INFERENCE.TRIM_INSTANCES = False
    # Added to every edge cost; above 0 joins more. A control of one number: pre-training may leave
    # the affinities biased, and docs/results/cops.md shows what that costs.
    node.INFERENCE.EDGE_OFFSET = 0.0
    # Replaces the class costs by the truth (Table 9); needs the truth at test time.
    node.INFERENCE.SEMANTIC_ORACLE = False


# ---- what the values may be ---------------------------------------------------------------------

_WIDTHS = "give whole numbers of 1 or more"
_TOP_K = number(above=0, most=1)
_HEAD_RULES: dict[str, Rule] = {
    "PROJECT_CHANNELS": several(whole(1), _WIDTHS),
    "DECODER_CHANNELS": whole(1),
    "ASPP_CHANNELS": whole(1),
    "ASPP_DILATIONS": several(whole(1), "give three whole numbers of 1 or more", count=3),
    "ASPP_DROPOUT": number(0, under=1),
    "ASPP_POOL_SIZE": several(
        whole(0), "give height and width in pixels, or (0, 0) for the whole image", count=2
    ),
    "HEAD_CHANNELS": whole(1),
    "NORM": one_of("", "BN", "SyncBN", "FrozenBN", "GN"),
}
_RULES: dict[str, Rule] = {
    "STRIDE": one_of(4, 2),
    "SIZE_DIVISIBILITY": whole(0, note="0 for what the backbone needs alone"),
    "DISTANCES": several(
        whole(1), "give whole numbers of 1 or more, each of them once", order=distinct
    ),
    **below("SEMANTIC", _HEAD_RULES),
    **below("AFFINITY", _HEAD_RULES),
    "PRETRAIN.SEMANTIC_TOP_K": _TOP_K,
    "PRETRAIN.AFFINITY_TOP_K": _TOP_K,
    "PRETRAIN.AFFINITY_FACTOR": number(0),
    "PRETRAIN.THING_WEIGHT": number(0),
    "PRETRAIN.SMALL_WEIGHT": number(0),
    "PRETRAIN.TOUCHING_WEIGHT": number(0),
    "PRETRAIN.SMALL_AREA": whole(0),
    "PRETRAIN.LOSS_STRIDE": one_of(1, 2, 4),
    "TRAINING": one_of("pretrain", "surrogate", "separate"),
    "MIX": number(0, note="0 for none"),
    "RAMP": several(
        number(0, 1),
        "give two ascending shares of the training, such as (0.7, 0.8), or () for none",
        count=2,
        may_be_empty=True,
        order=ascending,
    ),
    "SOLVER.METHOD": one_of(*METHODS),
    "SOLVER.THREADS": whole(0, note="0 for one per core"),
    "BACKWARD.SAMPLES": whole(1),
    "BACKWARD.LAMBDA_RANGE": several(
        number(above=0), "give two ascending numbers above 0", count=2, order=ascending
    ),
    "BACKWARD.ZERO": one_of("forward", "solved"),
    "LOSS.WEIGHT": number(0),
    "LOSS.FORM": one_of("authors", "literal", "expected"),
    "LOSS.MATCH_POWER": number(above=0),
    "LOSS.LINEAR_SHARE": number(0, 1),
    "LOSS.EPSILON": number(0),
    "LOSS.AREA_SLOPE": number(above=0),
    "LOSS.AREA_UNIT": one_of("pixel", "authors", "cell"),
    "LOSS.LEAST_CELLS": whole(0),
    "LOSS.COST_DROPOUT": number(0, under=1),
    "CALIBRATION.IMAGES": whole(0, note="0 for no calibration"),
    "CALIBRATION.MAX_PIXELS": whole(1),
    "INFERENCE.STRIDE": one_of(4, 2, 1),
    "INFERENCE.THING_AREA_LIMIT": whole(0),
    "INFERENCE.STUFF_AREA_LIMIT": whole(0),
    "INFERENCE.EDGE_OFFSET": number(),
}
RULES: dict[str, Rule] = {
    **RESNET_RULES,
    "MODEL.RESNETS.STEM_TYPE": one_of("basic", "deeplab"),
    "MODEL.RESNETS.OUT_FEATURES": several(
        one_of("res1", "res2", "res3", "res4", "res5"),
        "name some of res1 to res5, each of them once",
        order=distinct,
    ),
    **below("MODEL.COPS", _RULES),
}


def check_config(cfg: CN) -> None:
    """Raise ValueError, naming a key, for values that cannot be, alone or beside others."""
    require_values(cfg, RULES)
    node = cfg.MODEL.COPS
    levels, loss_stride = cfg.MODEL.RESNETS.OUT_FEATURES, node.PRETRAIN.LOSS_STRIDE
    stride, solved = node.STRIDE, node.INFERENCE.STRIDE
    through_solver = node.TRAINING != "pretrain"
    wrong = {
        f"PRETRAIN.LOSS_STRIDE is {loss_stride}: use 1, or {stride} as MODEL.COPS.STRIDE": (
            loss_stride not in (1, stride)
        ),
        f"INFERENCE.STRIDE is {solved}: it must divide MODEL.COPS.STRIDE, {stride}": (
            stride % solved != 0
        ),
        f"DISTANCES is {node.DISTANCES}: add 1, without which no finer grid can be solved, or set "
        f"MODEL.COPS.INFERENCE.STRIDE to {stride}": solved < stride and 1 not in node.DISTANCES,
        f"MIX is {node.MIX}, but nothing is trained through the solver: use 0, or another "
        "MODEL.COPS.TRAINING": bool(node.MIX) and not through_solver,
        "RAMP needs MODEL.COPS.MIX: set it to the pre-training losses' weight": (
            bool(node.RAMP) and not node.MIX
        ),
        "BACKWARD.WARM_START needs 'multilevel' as MODEL.COPS.SOLVER.METHOD": (
            through_solver and node.BACKWARD.WARM_START and node.SOLVER.METHOD != "multilevel"
        ),
        **{
            f"{branch}.PROJECT_CHANNELS is {node[branch].PROJECT_CHANNELS}: give one number for "
            f"each of MODEL.RESNETS.OUT_FEATURES {levels} but the last": (
                len(node[branch].PROJECT_CHANNELS) != len(levels) - 1
            )
            for branch in ("SEMANTIC", "AFFINITY")
        },
    }
    for sentence, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(f"MODEL.COPS.{sentence}")
