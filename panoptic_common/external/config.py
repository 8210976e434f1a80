"""Configuration of models that come from elsewhere: they bring their own keys."""

from __future__ import annotations

import panoptic_common.compat

from detectron2.config import CfgNode as CN

from panoptic_common.config import add_panoptic_config


def add_external_config(cfg: CN) -> None:
    """Add the keys of `panoptic_common` to `cfg`, in place; Detectron2's own are there.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    add_panoptic_config(cfg)
