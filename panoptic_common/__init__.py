"""What both panoptic systems use and neither owns: data, targets' raw material, quality, drawing.

Importing this package is cheap: it loads neither torch nor Detectron2. Import the module that
is needed, for example ``from panoptic_common.coco.quality import ...``. `load` gives a trained
model; only its first use imports the rest.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("panoptic_common.inference.api").load
