"""The values of the keys that every program reads, ours and Detectron2's.

What only a training reads is looked at there: `panoptic_common.engine.ranges`.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from panoptic_common.config.value_rules import (
    TEXT,
    Rule,
    number,
    one_of,
    require_values,
    rising,
    several,
    whole,
)

_THREE = "give one number per channel, three"
_SHARE = number(0, 1)
# The normalisations that Detectron2's layers know.
NORMS = one_of(
    *("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
)


def _is_expected(entry: Any) -> bool:
    """Tell whether an entry of TEST.EXPECTED_RESULTS is (task, metric, value, tolerance)."""
    if not isinstance(entry, (list, tuple)) or len(entry) != 4:
        return False
    kinds = (TEXT, TEXT, number(), number(0))
    return all(rule.is_right(part) for rule, part in zip(kinds, entry, strict=True))


RULES: dict[str, Rule] = {
    "INPUT.MIN_SIZE_TEST": whole(0, note="or 0 to leave images as they are"),
    "INPUT.MAX_SIZE_TEST": whole(1, note="in pixels"),
    "INPUT.TEST_SCALE": number(0, note="0.0 for off"),
    "INPUT.INTENSITY.PERCENTILES": several(
        number(0, 100),
        "give 0 <= low < high <= 100, or ()",
        count=2,
        may_be_empty=True,
        order=rising,
    ),
    "MODEL.PIXEL_MEAN": several(number(), _THREE, count=3),
    "MODEL.PIXEL_STD": several(number(above=0), f"{_THREE}, each above 0", count=3),
    "MODEL.RESNETS.NORM": NORMS,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": _SHARE,
    "MODEL.RPN.NMS_THRESH": _SHARE,
    "TEST.DETECTIONS_PER_IMAGE": whole(0),
    "TEST.PANOPTIC_VARIANTS": several(TEXT, "give names in quotes", may_be_empty=True),
    "TEST.BOUNDARY_RATIO": number(
        0, 1, note="a share of the image's diagonal such as 0.02; 0.0 leaves boundary PQ out"
    ),
    "TEST.EVAL_VISUALIZE": whole(0, note="0 for no images"),
    "TEST.EXPECTED_RESULTS": several(
        Rule(_is_expected, ""),
        "give entries [task, metric, value, tolerance], such as ['panoptic_seg', 'PQ', 50.0, 1.0]",
        may_be_empty=True,
    ),
}

# Detectron2 knows them by name. Which are registered is known once all is imported, so late.
_REGISTRIES = {
    "MODEL.BACKBONE.NAME": "BACKBONE_REGISTRY",
    "MODEL.ANCHOR_GENERATOR.NAME": "ANCHOR_GENERATOR_REGISTRY",
    "MODEL.RPN.HEAD_NAME": "RPN_HEAD_REGISTRY",
    "MODEL.ROI_HEADS.NAME": "ROI_HEADS_REGISTRY",
    "MODEL.ROI_MASK_HEAD.NAME": "ROI_MASK_HEAD_REGISTRY",
}

# Of both systems' backbones, but not of those that others register under Detectron2's keys.
RESNET_RULES: dict[str, Rule] = {
    "MODEL.BACKBONE.FREEZE_AT": whole(0, 5, note="0 to train all"),
    "MODEL.RESNETS.DEPTH": one_of(18, 34, 50, 101, 152),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": whole(1),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": whole(1),
    "MODEL.RESNETS.WIDTH_PER_GROUP": whole(1),
    "MODEL.RESNETS.NUM_GROUPS": whole(1),
    "MODEL.RESNETS.RES5_DILATION": one_of(1, 2),
    "MODEL.RESNETS.RES5_MULTI_GRID": several(
        whole(1), "give a whole number per block of res5, or []", may_be_empty=True
    ),
}


def check_common_values(cfg: CfgNode) -> None:
    """Raise ValueError for the first key with a value that no program can use; says what to give.

    Args:
        cfg: with the modules imported that register what it names.
    """
    require_values(cfg, RULES)
    from detectron2 import modeling  # here, as importing a config does without networks

    require_values(
        cfg,
        {
            key: one_of(*sorted(name for name, _ in getattr(modeling, registry)))
            for key, registry in _REGISTRIES.items()
        },
    )
