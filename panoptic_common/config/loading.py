"""The one way to load a config.

`load_config` finds the system that a config file names, adds its keys, merges file and options and
registers the data sets. Then it fills in what depends on these.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from panoptic_common.compat.config_input import (
    Options,
    as_sections,
    as_values,
    as_words,
    refusal_of,
)

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from panoptic_common.config.classes import common_class_table, fill_classes
from panoptic_common.config.common_values import check_common_values
from panoptic_common.config.files import find_config, read_yaml
from panoptic_common.config.keys import add_panoptic_config
from panoptic_common.data.catalog import (
    has_truth,
    register_builtin,
    register_images,
    register_panoptic,
    register_scenes,
    require_files,
)
from panoptic_common.data.instance_truth import load_instances
from panoptic_common.systems import SYSTEMS, add_system_config, check_system_config
from panoptic_common.values import flatten

# What adds further keys to a config, in place.
Extension = Callable[[CN], object]


def load_config(
    config: str | os.PathLike[str] | CN = "",
    options: Options = (),
    *,
    datasets: Iterable[Sequence[str]] = (),
    images: Iterable[Sequence[str]] = (),
    table: Sequence[Mapping[str, Any]] | None = None,
    need_train: bool = False,
    only_test: bool = False,
    need_files: bool = False,
    systems: Mapping[str, str] = SYSTEMS,
    extensions: Sequence[Extension] = (),
) -> CN:
    """Load a config, complete with the class counts of its data sets.

    The built-in data sets, the scenes with the sizes of this config and `datasets` are registered
    on the way. A file is read as data only: its tags never run code.

    Args:
        config: a YAML file (with its _BASE_), what such a file holds, or "" for defaults alone. A
            file that is not there is looked for among the configs of this project.
        options: keys and values that override the file: a mapping, or words by turns.
        datasets: further data sets, each (name, images, panoptic JSON, folder of PNGs).
        images: images without truth, each (name, images, JSON with `images`, JSON with classes).
        table: class table to complete the counts from; None: that of the data sets.
        need_train: refuse a config that names no training set.
        only_test: complete from DATASETS.TEST alone, so that the training set need not be there.
        need_files: read the data sets whole, so that a missing file is found now and not later.
        systems: package of each known MODEL.META_ARCHITECTURE.
        extensions: called with the config before anything is merged; add the keys of a model that
            is registered with Detectron2 and not in `systems`.

    Returns:
        The config, not frozen.

    Raises:
        ValueError: the system is unknown, a key or value does not fit, or a data set is unknown or
            wrong. Also if two of them have different classes, or the system cannot learn such
            classes.
        FileNotFoundError: the config or a data set is not there.
    """
    cfg = read_config(config, options, systems=systems, extensions=extensions)
    register_builtin()
    register_scenes(settings=cfg.DATASETS.SCENES)
    for dataset in datasets:
        register_panoptic(*dataset)
    for image_set in images:
        register_images(*image_set)
    wrong = [
        name for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if not isinstance(name, str)
    ]
    if wrong:
        raise ValueError(f"DATASETS: {wrong[0]!r} is no name of a data set: put it in quotes")
    if need_train and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: there is nothing to train on")
    if only_test and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: there is nothing to evaluate on")
    if table is not None:
        fill_classes(cfg, table)
    else:
        trained = [] if only_test else [*cfg.DATASETS.TRAIN]
        for name in trained:
            if not has_truth(name):
                raise ValueError(f"DATASETS.TRAIN names {name!r}, which has no truth to train on")
        names = [*trained, *cfg.DATASETS.TEST]
        if need_files:
            for name in dict.fromkeys(names):
                require_files(name)
                load_instances(cfg, name)
        fill_classes(cfg, common_class_table(names))
    check_system_config(cfg, systems)
    return cfg


def read_config(
    config: str | os.PathLike[str] | CN,
    options: Options = (),
    *,
    systems: Mapping[str, str] = SYSTEMS,
    extensions: Sequence[Extension] = (),
) -> CN:
    """Merge a config and options, without a look at any data set; `load_config` does the rest.

    Args:
        config: as in `load_config`.
        options: as in `load_config`.
        systems: as in `load_config`.
        extensions: as in `load_config`.

    Returns:
        The config, not frozen; class counts may be -1.

    Raises:
        ValueError: the system is unknown, or a key or value does not fit; says where.
        FileNotFoundError: there is no such file.
    """
    words = as_words(options)
    if isinstance(config, CN):
        source, content = "the config", config
    else:
        source = os.fspath(find_config(config)) if os.fspath(config) else ""
        content = read_yaml(source) if source else {}
    model = content.get("MODEL")
    architecture = model.get("META_ARCHITECTURE", "") if isinstance(model, dict) else ""
    for key, value in zip(words[::2], words[1::2], strict=True):
        if key == "MODEL.META_ARCHITECTURE":
            architecture = value
    cfg = get_cfg()
    add_panoptic_config(cfg)
    try:
        _require_known(architecture, systems)
        add_system_config(cfg, architecture, systems)
        for extend in extensions:
            extend(cfg)
        content = as_sections(content, cfg)
        if content.get("VERSION", cfg.VERSION) != cfg.VERSION:
            raise ValueError(f"VERSION is {content.VERSION}, but only {cfg.VERSION} can be read")
        cfg.merge_from_other_cfg(content)
        source = "the options"
        cfg.merge_from_list(as_values(cfg, words))
        source = "the config"  # with its options
        _require_numbers(cfg)
        check_common_values(cfg)
        _require_numbering(cfg, systems)
        if cfg.TEST.AUG.ENABLED:
            raise ValueError(
                "TEST.AUG.ENABLED is True, but no panoptic map is made from several passes here: "
                "set it to False (INPUT.TEST_SCALE enlarges images)"
            )
    except (KeyError, ValueError, AssertionError) as error:  # what yacs raises
        text = refusal_of(error, cfg)
        raise ValueError(f"{source}: {text}" if source else text) from error
    return cfg


def stored_config(text: str) -> CN:
    """Return the config that a checkpoint holds as YAML, for `load_config` to complete."""
    return CN.load_cfg(text)


def _require_known(architecture: str, systems: Mapping[str, str]) -> None:
    """Raise ValueError for a meta-architecture that neither we nor Detectron2 know."""
    known = isinstance(architecture, str)
    if known and architecture in systems:
        return
    # Here, as a program for one of the systems can do without Detectron2's networks.
    from detectron2.modeling import META_ARCH_REGISTRY

    if not known or architecture not in META_ARCH_REGISTRY:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {architecture!r}, which is none of {sorted(systems)} and "
            "not registered with Detectron2: correct it, or name the module that registers it by "
            "--import"
        )


def _require_numbers(cfg: CN) -> None:
    """Raise ValueError for a value that is NaN: it would pass all comparisons with bounds."""
    for key, value in flatten(cfg).items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(x, float) and math.isnan(x) for x in values):
            raise ValueError(f"{key} is {value}: give a number")


def _require_numbering(cfg: CN, systems: Mapping[str, str]) -> None:
    """Raise ValueError if it is open how a model of others, or for no reason ours, counts."""
    value, ours = cfg.MODEL.PANOPTIC.NUMBERING, cfg.MODEL.META_ARCHITECTURE in systems
    if value not in (("",) if ours else ("separate", "joint")):
        raise ValueError(
            f"MODEL.PANOPTIC.NUMBERING is {value!r}: "
            + (
                f"leave it empty for {cfg.MODEL.META_ARCHITECTURE}"
                if ours
                else "say 'separate' if the model counts things and stuff apart, with 0 for all "
                "things in semantic maps, or 'joint' if all classes are one table"
            )
        )
