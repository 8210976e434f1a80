"""Configuration: the keys that all systems share, and the one way to load a config.

`load_config` is that way. It finds the system that a config file names, adds its keys, merges file
and options and registers the data sets. Then it fills in what depends on these.

A wrong number of classes is the most common way to lose a day. It shows as a CUDA assertion, or as
a PQ of zero after training. Here every class count may stay -1 and is filled from the class table
of the training set. A count that is given must agree with it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from panoptic_common.compat.config_input import Options, as_sections, as_words, require_tuples

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from panoptic_common.checkpoint.weight_names import class_table_difference
from panoptic_common.config_files import find_config, read_yaml
from panoptic_common.data.catalog import (
    DEFAULT_SCENES,
    class_table,
    has_truth,
    register_builtin,
    register_images,
    register_panoptic,
    register_scenes,
    require_files,
)
from panoptic_common.data.instance_truth import load_instances
from panoptic_common.mappings import flatten
from panoptic_common.systems import SYSTEMS, add_system_config, check_system_config

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
        require_tuples(cfg, words)
        cfg.merge_from_list(words)
        _require_numbers(cfg)
        _require_numbering(cfg, systems)
        if cfg.TEST.AUG.ENABLED:
            raise ValueError(
                "TEST.AUG.ENABLED is True, but no panoptic map is made from several passes here: "
                "set it to False (INPUT.TEST_SCALE enlarges images)"
            )
    except (KeyError, ValueError, AssertionError) as error:  # what yacs raises
        text = error.args[0] if error.args else error
        raise ValueError(f"{source}: {text}" if source else str(text)) from error
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


def add_panoptic_config(cfg: CN) -> None:
    """Add the keys of `panoptic_common` to a Detectron2 config, in place; repeating it is harmless.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    if "PANOPTIC" in cfg.MODEL:
        return
    # ---- data -------------------------------------------------------------------------------
    # A dataset mapper of an imported module that replaces ours in training, by its name; "": ours.
    cfg.INPUT.MAPPER = ""
    # Resize by a factor from this range instead of to MIN_SIZE_TRAIN; (1.0, 1.0): off.
    cfg.INPUT.RANDOM_SCALE = (1.0, 1.0)
    # Photometric jitter: a factor from [1 - x, 1 + x]; for hue a shift from [-x, x] of the circle.
    cfg.INPUT.RELIGHT = CN()
    cfg.INPUT.RELIGHT.ENABLED = False
    cfg.INPUT.RELIGHT.BRIGHTNESS = 0.2
    cfg.INPUT.RELIGHT.CONTRAST = 0.2
    cfg.INPUT.RELIGHT.SATURATION = 0.2
    cfg.INPUT.RELIGHT.HUE = 0.02
    cfg.INPUT.RELIGHT.GAMMA = 0.0  # an exponent from [1 / (1 + x), 1 + x]; 0.0: none
    # INPUT.RANDOM_FLIP may also be "both"; and turns by 0, 90, 180 or 270 degrees.
    cfg.INPUT.RANDOM_QUARTER_TURN = False
    # At test time resize by this factor instead of to MIN_SIZE_TEST; 0.0 switches it off.
    cfg.INPUT.TEST_SCALE = 0.0
    # Before all others, in training and testing: replace colour by its luma; bring two percentiles
    # of an image's values to 0 and 255, such as (0.5, 99.8). Invert images that are mostly bright.
    cfg.INPUT.INTENSITY = CN()
    cfg.INPUT.INTENSITY.GREY = False
    cfg.INPUT.INTENSITY.PERCENTILES = ()
    cfg.INPUT.INTENSITY.DARK_BACKGROUND = False
    # The embedded synthetic data set (names scenes_train, scenes_val, scenes_test): HEIGHT and
    # WIDTH in pixels, DIFFICULTY from 0 (easy) to 1 (hard), NUM_TRAIN, NUM_VAL, NUM_TEST, SEED.
    cfg.DATASETS.SCENES = CN(dict(DEFAULT_SCENES))
    # Pairs (data set, instances JSON) whose boxes and masks replace those of the panoptic map.
    cfg.DATASETS.INSTANCES_JSON = ()
    # ---- classes ----------------------------------------------------------------------------
    cfg.MODEL.PANOPTIC = CN()
    # One bool a contiguous class, K in all; empty: filled from the class table.
    cfg.MODEL.PANOPTIC.IS_THING = ()
    # How a meta-architecture that is registered with Detectron2, and none of ours, counts classes.
    # "separate": things 0..N_th - 1; in semantic maps 0 is any thing, and stuff follows, 1..N_st.
    # "joint": contiguous ids 0..K - 1, things and stuff in one table, wherever a class is named.
    cfg.MODEL.PANOPTIC.NUMBERING = ""
    # -1: from the class table; N_st + 1 with NUMBERING "separate".
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = -1  # K = N_st + N_th
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = -1  # N_th, or K with NUMBERING "joint"; -1: as above
    # ---- solver -----------------------------------------------------------------------------
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "ADAMW", "ADAM"
    # Learning-rate factors by parameter-name prefix, e.g. [["backbone.", 0.1]]; first match counts.
    cfg.SOLVER.LR_MULTIPLIERS = []
    # SOLVER.LR_SCHEDULER_NAME may also be "WarmupPolyLR": BASE_LR (1 - t / T) to this power.
    cfg.SOLVER.POLY_POWER = 0.9
    # Parts of a step's images, one after another, for less memory: docs/howto/longer_trainings.md.
    cfg.SOLVER.ACCUMULATE = 1
    # Decay of an average of the weights that is evaluated and saved in their place; 0.0: none.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Checkpoints to keep besides the final one; 0 keeps all.
    cfg.SOLVER.CHECKPOINT_KEEP = 3
    # Write the final weights as model_final.safetensors, too, with config and classes inside.
    cfg.SOLVER.CHECKPOINT_SAFETENSORS = False
    # ---- evaluation -------------------------------------------------------------------------
    # Further panoptic outputs to evaluate, by name in `panoptic_variants`.
    cfg.TEST.PANOPTIC_VARIANTS = ()
    # Keep the best in this result, such as "panoptic_seg/PQ", as model_best.pth; "": keep none.
    cfg.TEST.BEST_METRIC = ""
    # End the training after so many evaluations in a row without a new best; 0: never.
    cfg.TEST.EARLY_STOP = 0
    # Also evaluate boundary PQ, with bands of this share of the image's diagonal; 0.0: do not.
    # Boundary IoU's own ratio is 0.02 for COCO. Figures of different ratios cannot be compared.
    cfg.TEST.BOUNDARY_RATIO = 0.02
    # Images that an evaluation writes to OUTPUT_DIR/images.
    cfg.TEST.EVAL_VISUALIZE = 0


def fill_classes(cfg: CN, class_table: Sequence[Mapping[str, Any]]) -> None:
    """Fill class counts that are -1 from a class table, and refuse counts that disagree with it.

    Args:
        cfg: a config with the keys of `add_panoptic_config`; changed in place, frozen or not.
        class_table: K entries in contiguous order, each with "name" and "isthing".

    Raises:
        ValueError: a count or the thing mask in `cfg` disagrees with the table.
    """
    is_thing = tuple(bool(entry["isthing"]) for entry in class_table)
    semantic, detected = (len(is_thing), "classes"), (sum(is_thing), "thing classes")
    if cfg.MODEL.PANOPTIC.NUMBERING == "separate":
        semantic = (len(is_thing) - sum(is_thing) + 1, "classes if all things are one")
    elif cfg.MODEL.PANOPTIC.NUMBERING == "joint":
        detected = semantic
    expected = {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": semantic,
        "MODEL.ROI_HEADS.NUM_CLASSES": detected,
    }
    frozen = cfg.is_frozen()
    cfg.defrost()
    for key, (count, what) in expected.items():
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        if node[leaf] == -1:
            node[leaf] = count
        elif node[leaf] != count:
            raise ValueError(
                f"{key} is {node[leaf]}, but the data set has {count} {what}: "
                f"set it to {count}, or to -1 to take it from the data set"
            )
    if not cfg.MODEL.PANOPTIC.IS_THING:
        cfg.MODEL.PANOPTIC.IS_THING = is_thing
    elif tuple(bool(flag) for flag in cfg.MODEL.PANOPTIC.IS_THING) != is_thing:
        wrong = [
            entry["name"]
            for entry, flag in zip(class_table, cfg.MODEL.PANOPTIC.IS_THING, strict=False)
            if bool(entry["isthing"]) != bool(flag)
        ]
        raise ValueError(
            "MODEL.PANOPTIC.IS_THING disagrees with the data set's class table "
            f"({len(cfg.MODEL.PANOPTIC.IS_THING)} entries for {len(is_thing)} classes; "
            f"first differences: {wrong[:5]}): leave it empty to take it from the data set"
        )
    if frozen:
        cfg.freeze()


def common_class_table(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the class table that data sets share.

    Args:
        names: of registered data sets.

    Raises:
        ValueError: no data set is named, or two data sets have different class tables.
        FileNotFoundError: a data set is not there.
    """
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST are empty: name at least one data set")
    table = class_table(names[0])
    for name in names[1:]:
        difference = class_table_difference(class_table(name), table)
        if difference is not None:
            raise ValueError(
                f"data sets {name!r} and {names[0]!r} have different class tables ({difference}): "
                "train and test on one table"
            )
    return table
