"""Meta-architectures that are registered with Detectron2 and have no package here.

Detectron2's own, those of its projects, those of others: they are trained on the same data sets.
They are judged by the same evaluators as the systems of this project. What differs between them is
how they count classes and in which form they give a panoptic map. MODEL.PANOPTIC.NUMBERING says the
first, the output itself shows the second.

Importing the package is cheap; the first use of a name below imports Detectron2.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "add_external_config": "panoptic_common.external.config",
    "adapt_model": "panoptic_common.external.outputs",
    "build_target_function": "panoptic_common.external.targets",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The backbone registers itself on import.
    importlib.import_module("panoptic_common.external.backbone")
    return getattr(importlib.import_module(_HOME[name]), name)
