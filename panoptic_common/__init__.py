"""What both panoptic systems use and neither owns: data, targets' raw material, quality, drawing.

Importing this package is cheap: it loads neither torch nor Detectron2. Import the module that
is needed, for example ``from panoptic_common.coco.quality import ...``. `load` gives a trained
model, and `model_zoo` configs by name; only their first use imports the rest.

It sets OMP_WAIT_POLICY to PASSIVE, unless it is set, for a torch that is imported afterwards. Else
torch's threads wait for one another by spinning. Where other programs use the cores, too, a thread
spins for one that the system has not given a core. A step then takes many times as long. In this
project's own programs it lets Ctrl-C end the imports that follow (`processes.starting`).
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from panoptic_common.processes.starting import die_of_interrupts, require_folder

die_of_interrupts()
require_folder()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"

__all__ = ["load", "model_zoo"]


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("panoptic_common.inference.api").load
    if name == "model_zoo":
        return importlib.import_module("panoptic_common.inference.model_zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
