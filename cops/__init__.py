"""COPS as a Detectron2 meta-architecture.

After Abbas and Swoboda, "Combinatorial Optimization for Panoptic Segmentation", NeurIPS 2021.

Importing the package is cheap and needs neither torch nor Detectron2, so that `cops.solver` can be
used alone. The first use of a name below imports Detectron2 and registers the model, so
`from cops import add_cops_config` followed by `detectron2.modeling.build_model(cfg)` works as in
every Detectron2 project.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "add_cops_config": "cops.config",
    "build_finish_function": "cops.calibrate",
    "build_target_function": "cops.targets",
    "build_test_target_function": "cops.modeling.inference",
    "check_config": "cops.config",
    "COPS": "cops.modeling.meta_arch",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The meta-architecture registers itself on import; a config is of no use without it.
    importlib.import_module("cops.modeling.meta_arch")
    return getattr(importlib.import_module(_HOME[name]), name)
