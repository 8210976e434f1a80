"""Which package provides which meta-architecture: the one table that programs look into.

A config names its system by MODEL.META_ARCHITECTURE. The keys of the system must be added before
that config can be merged. Its package must be imported before the model can be built. So a program
needs to get from the name to the package first.

The table holds names, not modules. `panoptic_common` imports no system, here as elsewhere. A system
is imported when it is asked for and not before. So a program for one system runs without what only
another one needs. Entry points of installed packages, the other way to find plug-ins, would not
work in a checkout that is not installed.

What a package `name` must offer to be a system (the names may be loaded lazily, by a module-level
``__getattr__``):

``add_<name>_config(cfg)``
    adds its keys to a config, in place, below one key of its own in MODEL, and registers its
    meta-architecture with Detectron2. Calling it twice does no harm.
``build_target_function(cfg)``
    returns the function ``(id_map, segments_info) -> dict`` that makes training targets.
``build_test_target_function(cfg)``, optional
    returns the same for evaluation, or None; for a model that is given a part of the truth.
``check_config(cfg)``, optional
    raises ValueError if a complete config asks for what the system cannot do.
``build_finish_function(cfg)``, optional
    returns a function ``(model) -> None`` that changes a trained model in place, before its last
    checkpoint, in all processes at once; or None. It may raise ValueError before the training.
``adapt_model(model, cfg)``, optional
    makes a built model give its outputs in the form that evaluation and drawing read.
``name.panels``, an optional module that says how its results are shown. Each name in it is optional
too:
    ``PANELS``
        a tuple of `panoptic_common.inference.panels.Panel` beside the common ones.
    ``EXTRA_MAPS``
        names of the (h, w) maps on the network's grid that the model returns for them.
    ``set_score_threshold(cfg, value)``
        sets the least score of a detection in the panoptic map, in place.
    ``explore(predictor, image)``
        runs the network and returns a `panoptic_common.inference.explorer.Exploration`.
    ``slider_of(model)``
        returns the `panoptic_common.inference.explorer.Slider` whose values that understands.
    ``DEMO_COLUMNS``
        a tuple of `panoptic_common.inference.record_sheets.Column` for sheets beside the truth.
``name.thresholds``, an optional module about values that can be chosen after training:
    ``PREFIX``
        of the config keys that change panoptic maps without the network.
    ``usual_candidates(cfg)``
        returns the values worth trying of some of these keys.
    ``map_maker(predictor, image)``
        runs the network and returns a function ``(cfg) -> (id_map, segments_info)``.
``name.modeling.export.export_model(model)``, optional
    returns a `panoptic_common.inference.exporting.Export`, for tools/export.py.
``name.runtime.pipeline.predict(exported, image)``, which goes with it
    returns id map and segments of a `panoptic_common.runtime.folder.ExportedModel`, without torch.
``name/zoo``, an optional folder
    trained models, ``NAME.safetensors`` with a card ``NAME.md``; no two systems use one name.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

SYSTEMS: dict[str, str] = {"UnifiedPanoptic": "unified_panoptic", "COPS": "cops"}
# The package of every other meta-architecture that is registered with Detectron2.
OTHERS = "panoptic_common.external"
ZOO = "zoo"


def system_package(meta_architecture: str, systems: Mapping[str, str] = SYSTEMS) -> ModuleType:
    """Import the package of a system.

    Args:
        meta_architecture: MODEL.META_ARCHITECTURE of a config. Whether Detectron2 knows one that
            the table does not name is for the caller to see.
        systems: package of each known meta-architecture.
    """
    return importlib.import_module(systems.get(meta_architecture, OTHERS))


def system_panels(
    meta_architecture: str, systems: Mapping[str, str] = SYSTEMS
) -> ModuleType | None:
    """Import the module `panels` of a system.

    Args:
        meta_architecture: MODEL.META_ARCHITECTURE of a config.
        systems: package of each known meta-architecture.

    Returns:
        The module; None for a system without one, which the common panels show.
    """
    return _optional_module(systems.get(meta_architecture, OTHERS) + ".panels")


def thresholds_of(
    meta_architecture: str, systems: Mapping[str, str] = SYSTEMS
) -> ModuleType | None:
    """Import the module `thresholds` of a system.

    Args:
        meta_architecture: MODEL.META_ARCHITECTURE of a config.
        systems: package of each known meta-architecture.

    Returns:
        The module; None for a system without one.
    """
    return _optional_module(systems.get(meta_architecture, OTHERS) + ".thresholds")


def _optional_module(name: str) -> ModuleType | None:
    """Import a module; None if it is not there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # what is missing is something that the module imports
            raise
        return None


def add_system_config(
    cfg: Any, meta_architecture: str, systems: Mapping[str, str] = SYSTEMS
) -> None:
    """Add a system's keys to a config, in place, and register its model with Detectron2.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
        meta_architecture: MODEL.META_ARCHITECTURE of the config that is to be merged.
        systems: package of each known meta-architecture.
    """
    package = system_package(meta_architecture, systems)
    name = package.__name__.rpartition(".")[2]
    getattr(package, f"add_{name}_config")(cfg)


def check_system_config(cfg: Any, systems: Mapping[str, str] = SYSTEMS) -> None:
    """Let a system look at a complete config before anything is built from it.

    Args:
        cfg: with all keys and class counts.
        systems: package of each known meta-architecture.

    Raises:
        ValueError: the system cannot do what it asks for.
    """
    check = getattr(system_package(cfg.MODEL.META_ARCHITECTURE, systems), "check_config", None)
    if check is not None:
        check(cfg)


def adapt_model(model: Any, cfg: Any, systems: Mapping[str, str] = SYSTEMS) -> None:
    """Make a built model give its outputs in the form that evaluation and drawing read, in place.

    Args:
        model: from `detectron2.modeling.build_model(cfg)`.
        cfg: its complete config.
        systems: package of each known meta-architecture.
    """
    adapt = getattr(system_package(cfg.MODEL.META_ARCHITECTURE, systems), "adapt_model", None)
    if adapt is not None:
        adapt(model, cfg)


def shipped_models(systems: Mapping[str, str] = SYSTEMS) -> dict[str, Path]:
    """Find the models that come with the systems, in the folder `zoo` of each package.

    Args:
        systems: package of each known meta-architecture; none is imported.

    Returns:
        The file of each model by its name, sorted.
    """
    found = {}
    for package in systems.values():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            for path in Path(place, ZOO).glob("*.safetensors"):
                found[path.stem] = path
    return dict(sorted(found.items()))


def system_module(
    meta_architecture: str, name: str, systems: Mapping[str, str] = SYSTEMS
) -> ModuleType:
    """Import a module that only systems of ours have: "modeling.export" or "runtime.pipeline".

    Raises:
        ValueError: the meta-architecture is none of ours.
    """
    if meta_architecture not in systems:
        raise ValueError(
            f"{meta_architecture} cannot be exported: only {' and '.join(sorted(systems))} can"
        )
    return importlib.import_module(f"{systems[meta_architecture]}.{name}")
