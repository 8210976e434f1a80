"""Unified panoptic segmentation as a Detectron2 meta-architecture.

After Li, Qi and Torr, "Unifying Training and Inference for Panoptic Segmentation", CVPR 2020.

Importing the package is cheap. The first use of a name below imports Detectron2 and registers the
model, so `from unified_panoptic import add_unified_panoptic_config` followed by
`detectron2.modeling.build_model(cfg)` works as in every Detectron2 project.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "add_unified_panoptic_config": "unified_panoptic.config",
    "check_config": "unified_panoptic.config",
    "build_target_function": "unified_panoptic.targets",
    "UnifiedPanoptic": "unified_panoptic.modeling.meta_arch",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The meta-architecture registers itself on import; a config is of no use without it.
    importlib.import_module("unified_panoptic.modeling.meta_arch")
    return getattr(importlib.import_module(_HOME[name]), name)
