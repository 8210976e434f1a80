"""The former place of `panoptic_common.data.catalog`; here for one release, until 0.3.

``from panoptic_common.register_datasets import register_panoptic`` goes on working, with a warning
that names the new place.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

_NEW_PLACE = "panoptic_common.data.catalog"
_MOVED = (
    "class_table",
    "load_panoptic",
    "register_builtin",
    "register_panoptic",
    "register_scenes",
)


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.{name} is now {_NEW_PLACE}.{name}; the old name goes in version 0.3",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module(_NEW_PLACE), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MOVED])
