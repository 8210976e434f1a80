"""The trainer for whichever system a config names, ours or another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panoptic_common.compat

import torch
from detectron2.config import CfgNode

from panoptic_common.engine.trainer import PanopticTrainer
from panoptic_common.external.modules import ImportedModules
from panoptic_common.systems import SYSTEMS, adapt_model, system_package


class Trainer(PanopticTrainer):
    """The trainer for whichever system the config names.

    Attributes:
        imported: modules of the command line, in which INPUT.MAPPER is looked up.
    """

    imported = ImportedModules()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Build the model, with outputs in the form that the evaluators read."""
        model = super().build_model(cfg)
        adapt_model(model, cfg)
        return model

    @classmethod
    def build_train_mapper(cls, cfg: CfgNode) -> Callable[[dict[str, Any]], Any]:
        """Build that of an imported module, or ours."""
        if cfg.INPUT.MAPPER:
            return cls.imported.build_mapper(cfg)
        return super().build_train_mapper(cfg)

    @classmethod
    def outputs_may_lack(cls, cfg: CfgNode) -> bool:
        """Models of others may detect only, or be semantic only."""
        return cfg.MODEL.META_ARCHITECTURE not in SYSTEMS

    @classmethod
    def build_target_function(cls, cfg: CfgNode) -> Callable[..., dict]:
        """Ask the config's system for it."""
        return system_package(cfg.MODEL.META_ARCHITECTURE).build_target_function(cfg)

    @classmethod
    def build_test_target_function(cls, cfg: CfgNode) -> Callable[..., dict] | None:
        """Ask the config's system for it; None if it has none."""
        package = system_package(cfg.MODEL.META_ARCHITECTURE)
        build = getattr(package, "build_test_target_function", None)
        return build(cfg) if build is not None else None

    @classmethod
    def build_finish_function(cls, cfg: CfgNode) -> Callable[[Any], None] | None:
        """Ask the config's system for it; None if it has none."""
        package = system_package(cfg.MODEL.META_ARCHITECTURE)
        build = getattr(package, "build_finish_function", None)
        return build(cfg) if build is not None else None
