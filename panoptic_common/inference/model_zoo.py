"""Configs and models by name, as `detectron2.model_zoo` has them.

    from panoptic_common import model_zoo
    cfg = model_zoo.get_config("SYSTEM/coco/R50")       # complete, without the data set
    model = model_zoo.get("SYSTEM/coco/R50")            # built, with random weights
    model = model_zoo.get("nuclei", trained=True)       # a model that comes along

A name is the path of a config below `configs/`, with or without ".yaml". Or it is that of a model
that comes along (`panoptic_common.systems.shipped_models`), which has its config inside.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from detectron2.modeling import build_model
from torch import nn

from panoptic_common.checkpoint.files import read_checkpoint_metadata
from panoptic_common.coco.annotations import build_class_table
from panoptic_common.config import (
    common_class_table,
    find_config,
    load_config,
    read_config,
    shipped_configs,
    stored_config,
)
from panoptic_common.data.catalog import register_builtin
from panoptic_common.inference.predictor import Predictor
from panoptic_common.systems import adapt_model, shipped_models

# Classes of the built-in data sets, for a machine that does not have them.
_KNOWN_TABLES = {"coco_2017": COCO_CATEGORIES, "cityscapes_fine": CITYSCAPES_CATEGORIES}


def get_config_file(name: str) -> str:
    """Return the path of a config.

    Args:
        name: such as "SYSTEM/coco/R50", below `configs/`.

    Raises:
        RuntimeError: there is no such config; names one that is similar.
    """
    path = name if name.endswith(".yaml") else f"{name}.yaml"
    try:
        return str(find_config(Path("configs", path)))
    except FileNotFoundError:
        names = sorted(shipped_configs())
        near = difflib.get_close_matches(name, names, n=1)
        hint = f": did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
        raise RuntimeError(f"there is no config {name} in the model zoo{hint}") from None


def get_config(name: str, trained: bool = False) -> CfgNode:
    """Return a config, complete with class counts, whether its data sets are there or not.

    Args:
        name: of a config, or of a model that comes along.
        trained: set MODEL.WEIGHTS to trained weights; otherwise it is what the config names.

    Raises:
        RuntimeError: there is no such config, or there are no trained weights of it.
        FileNotFoundError: its data sets are not there, and nothing else names their classes.
    """
    models = shipped_models()
    if name in models:
        metadata = read_checkpoint_metadata(models[name])
        cfg = load_config(stored_config(metadata.config), table=metadata.class_table)
        cfg.MODEL.WEIGHTS = str(models[name]) if trained else ""
        return cfg
    if trained:
        raise RuntimeError(
            f"no trained weights come along for {name}; the models that have some are "
            f"{', '.join(models) or 'none'}"
        )
    path = get_config_file(name)
    return load_config(path, table=_class_table(read_config(path)))


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model, in evaluation mode if it is trained.

    Args:
        name: as in `get_config`.
        trained: load trained weights, too.
        device: such as "cpu"; None: that of the config, or the CPU if that is a GPU that is not
            there.

    Raises:
        RuntimeError, FileNotFoundError: as `get_config`.
    """
    cfg = get_config(name, trained)
    if trained:
        return Predictor.from_checkpoint(cfg.MODEL.WEIGHTS, device=device or "").model
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    model = build_model(cfg)
    adapt_model(model, cfg)
    return model


def _class_table(cfg: CfgNode) -> list[dict[str, Any]] | None:
    """Return the class table of built-in data sets that are not there; None lets them be asked."""
    register_builtin()
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    try:
        return common_class_table(names)
    except FileNotFoundError:
        for prefix, categories in _KNOWN_TABLES.items():
            if all(name.startswith(prefix) for name in names):
                return build_class_table(categories, "the classes that Detectron2 lists")
        for path in shipped_models().values():
            metadata = read_checkpoint_metadata(path)
            trained_on = stored_config(metadata.config).DATASETS.TRAIN
            if list(trained_on) == list(cfg.DATASETS.TRAIN):
                return metadata.class_table
    return None
