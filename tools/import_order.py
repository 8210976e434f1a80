"""Let Detectron2 be imported before this project: our work-arounds then come first all the same.

Detectron2 0.6 reads names of Pillow and numpy that are gone, so that `import detectron2.data` alone
fails. `panoptic_detectron2.pth` in site-packages imports this module when Python starts. It costs
nothing until somebody looks for Detectron2.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType


class ShimsFirst(importlib.abc.MetaPathFinder):
    """Finds nothing, but imports `panoptic_common.compat` when Detectron2 is looked for."""

    done = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Apply the work-arounds once, and leave finding to the others."""
        if fullname != "detectron2" or self.done:
            return
        self.done = True  # and stay in the list: whoever walks it would miss the next finder
        with contextlib.suppress(ImportError):  # without Detectron2: whoever needs it says so
            importlib.import_module("panoptic_common.compat")


sys.meta_path.insert(0, ShimsFirst())
