"""Which package provides which meta-architecture: the one table that programs look into.

A config names its system by MODEL.META_ARCHITECTURE, but the keys of the system must be added
before that config can be merged, and its package must be imported before the model can be built.
So a program needs to get from the name to the package first.

The table holds names, not modules. `panoptic_common` imports no system, here as elsewhere, and a
system is imported when it is asked for and not before, so that a program for one system runs
without what only the other one needs. Its home is here because tools, tests and the predictor all
need it, and a program in tools/ is nothing to import from; entry points of installed packages, the
other way to find plug-ins, would not work in a checkout that is not installed.

A system package `name` offers `add_<name>_config(cfg)` and `build_target_function(cfg)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

SYSTEMS: dict[str, str] = {"UnifiedPanoptic": "unified_panoptic", "COPS": "cops"}


def system_package(meta_architecture: str, systems: Mapping[str, str] = SYSTEMS) -> ModuleType:
    """The package of a system, imported.

    Args:
        meta_architecture: MODEL.META_ARCHITECTURE of a config.
        systems: package of each known meta-architecture.

    Raises:
        ValueError: no system has that meta-architecture.
    """
    if meta_architecture not in systems:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {meta_architecture!r}, which is none of ours: give a "
            f"config for one of {sorted(systems)}"
        )
    return importlib.import_module(systems[meta_architecture])


def add_system_config(
    cfg: Any, meta_architecture: str, systems: Mapping[str, str] = SYSTEMS
) -> None:
    """Add a system's keys to a config, in place, and register its model with Detectron2.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
        meta_architecture: MODEL.META_ARCHITECTURE of the config that is to be merged.
        systems: package of each known meta-architecture.

    Raises:
        ValueError: no system has that meta-architecture.
    """
    package = system_package(meta_architecture, systems)
    getattr(package, f"add_{package.__name__}_config")(cfg)
