"""Configuration keys of the Unified system.

Symbols and sections are those of Li, Qi and Torr, CVPR 2020; what the paper leaves open says so.
"""

from __future__ import annotations

import panoptic_common.compat

from detectron2.config import CfgNode as CN

from panoptic_common.config import add_panoptic_config
from panoptic_common.config.common_values import RESNET_RULES
from panoptic_common.config.value_rules import (
    Rule,
    below,
    distinct,
    number,
    one_of,
    require_values,
    several,
    whole,
)

REMOVED_KEYS = (
    "SQUEEZE_REDUCTION",
    "DETECTION.TRAIN_NMS_THRESH",
    "POTENTIAL.USE_MASKS",
    "POTENTIAL.DETACH",
    "PANOPTIC.LEARN_LOGIT_SCALE",
    "INFERENCE.OVERLAP_THRESH",
)


def add_unified_panoptic_config(cfg: CN) -> None:
    """Add the keys of the Unified system (and those of `panoptic_common`) to `cfg`, in place.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    add_panoptic_config(cfg)
    if "UNIFIED" in cfg.MODEL:
        return
    cfg.MODEL.UNIFIED = CN()
    _add_network_config(cfg.MODEL.UNIFIED)
    _add_panoptic_config(cfg.MODEL.UNIFIED)
    _add_inference_config(cfg.MODEL.UNIFIED)
    for key in REMOVED_KEYS:  # checkpoints of 2026 still hold them
        cfg.register_deprecated_key(f"MODEL.UNIFIED.{key}")


def _add_network_config(node: CN) -> None:
    # ---- backbone (3.1) -----------------------------------------------------------------------
    # Squeeze-and-excitation on res5 before the first FPN feature.
    node.SQUEEZE_EXCITATION = True

    # ---- feature decoder of the semantic and the affinity submodule (A.1, Fig. H) ----------------
    node.DECODER = CN()
    node.DECODER.IN_FEATURES = ("p2", "p3", "p4", "p5")
    node.DECODER.NUM_CONVS = 3  # 3x3 convolutions in the subnet that the levels share
    node.DECODER.HIDDEN_CHANNELS = 256  # width up to the last but one convolution
    node.DECODER.CHANNELS = 128  # width of the last two; the concatenation is 4 times as wide
    node.DECODER.DEFORMABLE = True  # False: plain convolutions, 4 times faster on a CPU
    node.DECODER.NORM = "GN"  # group normalisation after every convolution (3.2); "" for none

    # ---- semantic submodule (3.2), V ------------------------------------------------------------
    node.SEMANTIC = CN()
    # "shared": the paper's, which DECODER describes. "per_level": Panoptic FPN's, with
    # DECODER_CHANNELS; the affinity keeps the paper's.
    node.SEMANTIC.DECODER = "shared"
    node.SEMANTIC.DECODER_CHANNELS = 128
    # Standard deviation of the classifier's first weights (open in the paper): "small" is 0.01,
    # "msra" He's sqrt(2 / K), as in Detectron2's semantic heads.
    node.SEMANTIC.PREDICTOR_INIT = "small"
    node.SEMANTIC.LOSS = "cross_entropy"  # or "lovasz_softmax" (appendix B, Cityscapes)
    node.SEMANTIC.LOSS_WEIGHT = 1.0
    # Stride at which the loss is taken: 4 compares with every 4th truth pixel, 1 upsamples first.
    node.SEMANTIC.LOSS_STRIDE = 4
    # Which of the 4 x 4 pixels of a cell the losses at stride 4 compare. "centre": the one next to
    # the centre. "random": another one in each step. Maps are interpolated there.
    node.LOSS_PIXELS = "centre"

    # ---- detection submodule (3.3, A.2, A.4) -----------------------------------------------------
    # The mask loss goes with MODEL.ROI_MASK_HEAD.NAME: "LovaszMaskHead" (A.2) or Detectron2's
    # "MaskRCNNConvUpsampleHead" (BCE); parameter names are the same.
    node.DETECTION = CN()
    # M from the mask logits z: "sigmoid", or "hinge": clamp((z + 1) / 2, 0, 1). The Lovasz hinge is
    # content at z = 1 and -1, where a sigmoid is 0.73 and 0.27.
    node.DETECTION.MASK_PROBABILITY = "sigmoid"
    node.DETECTION.LOSS_WEIGHT = 1.0  # of the RPN, box and mask losses together
    # Detections fed to the panoptic submodule in training: predicted on the fly, or the truth with
    # score 1 (Table H).
    node.DETECTION.TRAIN_WITH_TRUTH = False
    node.DETECTION.TRAIN_SCORE_THRESH = 0.05  # open in the paper
    node.DETECTION.TRAIN_TOPK = 100  # D at most (3.4.2 names 100)
    # How many of an image's proposals, the best of the RPN, they are predicted from; 0: all.
    node.DETECTION.TRAIN_PROPOSALS = 0


def _add_panoptic_config(node: CN) -> None:
    # ---- dynamic potential (3.4.1), Psi ----------------------------------------------------------
    node.POTENTIAL = CN()
    # "A": V + M in the box, without the score; "B": s (V * M); "C": s (V + M). B and C are equal
    # without masks.
    node.POTENTIAL.VARIANT = "B"

    # ---- dense instance affinity (3.4.2) ---------------------------------------------------------
    node.AFFINITY = CN()
    node.AFFINITY.ENABLED = True
    node.AFFINITY.CHANNELS = 128  # C
    # Activation of phi_0 and phi_1 (unnamed in the paper): "linear", "relu", "sigmoid" are divided
    # by the number of pixels. "softmax" normalises phi_0 over channels and phi_1 over pixels.
    node.AFFINITY.ACTIVATION = "linear"
    # Sine and cosine pairs per axis that phi_0 and phi_1 see beside Q; 0: the paper's, none.
    node.AFFINITY.COORDINATE_FREQUENCIES = 0

    # ---- panoptic matching loss (3.5) ------------------------------------------------------------
    node.PANOPTIC = CN()
    node.PANOPTIC.ENABLED = True
    node.PANOPTIC.LOSS_WEIGHT = 1.0
    # How many of the images that a process takes at once the loss looks at, for less time; 0: all.
    node.PANOPTIC.IMAGES = 0
    node.PANOPTIC.MATCHER = "hungarian"  # Eq. 5; or "greedy" by descending score
    node.PANOPTIC.MATCH_IOU = 0.5  # t
    # "softmax": cross entropy of softmax(tau P). "normalised": of P / sum of P, without tau.
    node.PANOPTIC.FORM = "softmax"
    # tau = 1 is the literal form. Psi is at most 1 (variant B) or 2; without a residual beside it
    # that form stays nearly flat even for a perfect P. tau never changes the argmax.
    node.PANOPTIC.LOGIT_SCALE = 10.0  # tau
    # Divides LOSS_WEIGHT by tau, so that the gradient at the start is that of tau = 1.
    node.PANOPTIC.WEIGHT_BY_SCALE = False


def _add_inference_config(node: CN) -> None:
    # ---- inference -------------------------------------------------------------------------------
    node.INFERENCE = CN()
    node.INFERENCE.METHOD = "argmax"  # of P; or "heuristic" (the merger of Panoptic FPN)
    # Detections above this score enter Psi (appendix B: 0.5 Cityscapes, 0.75 COCO).
    node.INFERENCE.SCORE_THRESH = 0.5
    # Least mean probability in V, of a detection's class, under its mask. Below it the detection
    # does not enter the map (open in the paper). 0: all enter. Without masks it has no effect.
    node.INFERENCE.SUPPORT_THRESH = 0.0
    # A detection that better ones of any class cover to more than this share of its mask does not
    # enter Psi. It is a duplicate (open in the paper; UPSNet does it too). 1: all enter.
    node.INFERENCE.COVERED_THRESH = 1.0
    # What a pixel becomes that no detection takes though its best class of V is a thing. "stuff":
    # what is best of P, as in the paper. "void", as in the merger: a thing was missed there.
    node.INFERENCE.MISSED_THINGS = "stuff"
    # Where P is formed: "output" pastes Psi at the size of the result and upsamples the residual;
    # "stride4" upsamples P.
    node.INFERENCE.RESOLUTION = "output"
    node.INFERENCE.RESIDUAL = True  # False evaluates P = Psi
    # Stuff segments below this area, in pixels of the result, become void (appendix C); 0: keep.
    node.INFERENCE.STUFF_AREA_LIMIT = 2048
    # Least score of an instance in the heuristic merger.
    node.INFERENCE.HEURISTIC_SCORE_THRESH = 0.5


# ---- what the values may be ---------------------------------------------------------------------

_SHARE = number(0, 1)
_LEVELS = ("p2", "p3", "p4", "p5", "p6")
_STAGES = ("res2", "res3", "res4", "res5")
_RULES: dict[str, Rule] = {
    "DECODER.IN_FEATURES": several(
        one_of(*_LEVELS), f"name some of {_LEVELS}, each of them once", order=distinct
    ),
    "DECODER.NUM_CONVS": whole(1),
    "DECODER.HIDDEN_CHANNELS": whole(1),
    "DECODER.CHANNELS": whole(1),
    "DECODER.NORM": one_of("GN", ""),
    "SEMANTIC.DECODER": one_of("shared", "per_level"),
    "SEMANTIC.DECODER_CHANNELS": whole(1),
    "SEMANTIC.PREDICTOR_INIT": one_of("small", "msra"),
    "SEMANTIC.LOSS": one_of("cross_entropy", "lovasz_softmax"),
    "SEMANTIC.LOSS_WEIGHT": number(0),
    "SEMANTIC.LOSS_STRIDE": one_of(4, 1),
    "LOSS_PIXELS": one_of("centre", "random"),
    "DETECTION.MASK_PROBABILITY": one_of("sigmoid", "hinge"),
    "DETECTION.LOSS_WEIGHT": number(0),
    "DETECTION.TRAIN_SCORE_THRESH": _SHARE,
    "DETECTION.TRAIN_TOPK": whole(1),
    "DETECTION.TRAIN_PROPOSALS": whole(0, note="0 for all"),
    "POTENTIAL.VARIANT": one_of("A", "B", "C"),
    "AFFINITY.CHANNELS": whole(1),
    "AFFINITY.ACTIVATION": one_of("linear", "relu", "sigmoid", "softmax"),
    "AFFINITY.COORDINATE_FREQUENCIES": whole(0, note="0 for none"),
    "PANOPTIC.LOSS_WEIGHT": number(0),
    "PANOPTIC.IMAGES": whole(0, note="0 for all"),
    "PANOPTIC.MATCHER": one_of("hungarian", "greedy"),
    "PANOPTIC.MATCH_IOU": _SHARE,
    "PANOPTIC.FORM": one_of("softmax", "normalised"),
    "PANOPTIC.LOGIT_SCALE": number(above=0),
    "INFERENCE.METHOD": one_of("argmax", "heuristic"),
    "INFERENCE.SCORE_THRESH": _SHARE,
    "INFERENCE.SUPPORT_THRESH": number(0, 1, note="0 for no limit"),
    "INFERENCE.COVERED_THRESH": number(0, 1, note="1 for no limit"),
    "INFERENCE.MISSED_THINGS": one_of("stuff", "void"),
    "INFERENCE.RESOLUTION": one_of("output", "stride4"),
    "INFERENCE.STUFF_AREA_LIMIT": whole(0, note="0 to keep all"),
    "INFERENCE.HEURISTIC_SCORE_THRESH": _SHARE,
}
RULES: dict[str, Rule] = {
    **RESNET_RULES,
    "MODEL.RESNETS.OUT_FEATURES": several(
        one_of("stem", *_STAGES), f"name some of {_STAGES}, each of them once", order=distinct
    ),
    "MODEL.FPN.IN_FEATURES": several(
        one_of(*_STAGES), f"name some of {_STAGES}, each of them once", order=distinct
    ),
    "MODEL.FPN.OUT_CHANNELS": whole(1),
    "MODEL.FPN.FUSE_TYPE": one_of("sum", "avg"),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": whole(1),
    "MODEL.RPN.POSITIVE_FRACTION": _SHARE,
    "MODEL.RPN.LOSS_WEIGHT": number(0),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": whole(1),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _SHARE,
    **below("MODEL.UNIFIED", _RULES),
}


def _require_levels(cfg: CN) -> None:
    """Raise ValueError for a key that names maps which the backbone does not give."""
    model = cfg.MODEL
    stages = list(model.RESNETS.OUT_FEATURES)
    levels = [f"p{stage[-1]}" for stage in model.FPN.IN_FEATURES] + ["p6"]
    for key, names, known in (
        ("MODEL.FPN.IN_FEATURES", model.FPN.IN_FEATURES, stages),
        ("MODEL.RPN.IN_FEATURES", model.RPN.IN_FEATURES, levels),
        ("MODEL.ROI_HEADS.IN_FEATURES", model.ROI_HEADS.IN_FEATURES, levels),
        ("MODEL.UNIFIED.DECODER.IN_FEATURES", model.UNIFIED.DECODER.IN_FEATURES, levels),
    ):
        if not names or not all(name in known for name in names):
            raise ValueError(f"{key} is {names}: name some of {known}")


def check_config(cfg: CN) -> None:
    """Raise ValueError for values that cannot be, or unless a config has things and stuff."""
    require_values(cfg, RULES)
    _require_levels(cfg)
    node = cfg.MODEL.UNIFIED
    if node.AFFINITY.ENABLED and not node.PANOPTIC.ENABLED:
        raise ValueError(
            "MODEL.UNIFIED.AFFINITY.ENABLED needs MODEL.UNIFIED.PANOPTIC.ENABLED, whose loss alone "
            "teaches it: set both, or neither"
        )
    if node.INFERENCE.METHOD == "heuristic" and not cfg.MODEL.MASK_ON:
        raise ValueError(
            "MODEL.UNIFIED.INFERENCE.METHOD 'heuristic' needs masks: set MODEL.MASK_ON to True"
        )
    check_classes(cfg)


def check_classes(cfg: CN) -> None:
    """Raise ValueError unless a complete config has things and stuff."""
    is_thing = cfg.MODEL.PANOPTIC.IS_THING
    if all(is_thing) or not any(is_thing):
        # Without stuff no channel covers the image, so pixels outside all boxes have no class.
        raise ValueError(
            f"all {len(is_thing)} classes are {'things' if any(is_thing) else 'stuff'} "
            "(MODEL.PANOPTIC.IS_THING): the Unified system needs at least one thing and one stuff "
            "class; COPS trains on such data"
        )
