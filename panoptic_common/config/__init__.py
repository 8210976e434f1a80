"""Configuration: the keys that all systems share, their files, and the one way to load a config."""

from __future__ import annotations

import panoptic_common.compat

from panoptic_common.config.classes import common_class_table, fill_classes
from panoptic_common.config.files import find_config, shipped_configs
from panoptic_common.config.keys import add_panoptic_config
from panoptic_common.config.loading import Extension, load_config, read_config, stored_config

__all__ = [
    "Extension",
    "add_panoptic_config",
    "common_class_table",
    "fill_classes",
    "find_config",
    "load_config",
    "read_config",
    "shipped_configs",
    "stored_config",
]
