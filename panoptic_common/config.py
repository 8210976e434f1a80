"""Configuration keys that both systems share, and their agreement with a data set.

A wrong number of classes is the most common way to lose a day: it shows as a CUDA assertion, or
as a PQ of zero after training. Here every class count may stay -1 and is filled from the class
table of the training set, and a count that is given must agree with it.
"""

from __future__ import annotations

import panoptic_common.compat  # noqa: F401  (before detectron2)

from detectron2.config import CfgNode as CN


def add_panoptic_config(cfg: CN) -> None:
    """Add the keys of `panoptic_common` to a Detectron2 config, in place; repeating it is harmless.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    if "PANOPTIC" in cfg.MODEL:
        return
    # ---- data -------------------------------------------------------------------------------
    # Resize by a factor drawn uniformly from this range instead of to MIN_SIZE_TRAIN;
    # (1.0, 1.0) switches it off. Unified, appendix B: 0.5 to 2 on Cityscapes.
    cfg.INPUT.RANDOM_SCALE = (1.0, 1.0)
    # Photometric jitter ("relighting"), each a symmetric range: a factor from [1 - x, 1 + x] for
    # brightness, contrast and saturation; a shift from [-x, x] of the full hue circle for hue.
    cfg.INPUT.RELIGHT = CN()
    cfg.INPUT.RELIGHT.ENABLED = False
    cfg.INPUT.RELIGHT.BRIGHTNESS = 0.2
    cfg.INPUT.RELIGHT.CONTRAST = 0.2
    cfg.INPUT.RELIGHT.SATURATION = 0.2
    cfg.INPUT.RELIGHT.HUE = 0.02
    # The embedded synthetic data set (names scenes_train, scenes_val, scenes_test); sizes in
    # pixels, difficulty from 0 (easy) to 1 (hard).
    cfg.DATASETS.SCENES = CN()
    cfg.DATASETS.SCENES.HEIGHT = 192
    cfg.DATASETS.SCENES.WIDTH = 384
    cfg.DATASETS.SCENES.DIFFICULTY = 0.25
    cfg.DATASETS.SCENES.NUM_TRAIN = 800
    cfg.DATASETS.SCENES.NUM_VAL = 60
    cfg.DATASETS.SCENES.NUM_TEST = 100
    cfg.DATASETS.SCENES.SEED = 0
    # ---- classes ----------------------------------------------------------------------------
    cfg.MODEL.PANOPTIC = CN()
    # One bool a contiguous class, K in all; empty: filled from the class table.
    cfg.MODEL.PANOPTIC.IS_THING = ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = -1  # K = N_st + N_th; -1: from the class table
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = -1  # N_th; -1: from the class table
    # ---- solver -----------------------------------------------------------------------------
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "ADAMW"
    # Learning-rate factors by parameter-name prefix, e.g. [["backbone.", 0.1]]; first match counts.
    cfg.SOLVER.LR_MULTIPLIERS = []
    # SOLVER.LR_SCHEDULER_NAME may also be "WarmupPolyLR": BASE_LR (1 - t / T) to this power.
    cfg.SOLVER.POLY_POWER = 0.9
    # Checkpoints to keep besides the final one; 0 keeps all.
    cfg.SOLVER.CHECKPOINT_KEEP = 3
    # ---- evaluation -------------------------------------------------------------------------
    # Further panoptic outputs to evaluate beside the main one, by name in `panoptic_variants`.
    cfg.TEST.PANOPTIC_VARIANTS = ()
    # Keep the checkpoint that is best in this result of the evaluations every TEST.EVAL_PERIOD, for
    # example "panoptic_seg/PQ", as model_best.pth; "": keep none.
    cfg.TEST.BEST_METRIC = ""
    # Also evaluate boundary PQ, with bands of this share of the picture's diagonal; 0.0: do not.
    # Boundary IoU's own ratio is 0.02 for COCO; figures of different ratios cannot be compared.
    cfg.TEST.BOUNDARY_RATIO = 0.02
    # Pictures that an evaluation writes to OUTPUT_DIR/pictures.
    cfg.TEST.EVAL_VISUALIZE = 0


def fill_classes(cfg: CN, class_table: list[dict]) -> None:
    """Fill class counts that are -1 from a class table, and refuse counts that disagree with it.

    Args:
        cfg: a config with the keys of `add_panoptic_config`; changed in place, frozen or not.
        class_table: K entries in contiguous order, each with "name" and "isthing".

    Raises:
        ValueError: a count or the thing mask in `cfg` disagrees with the table.
    """
    is_thing = tuple(bool(entry["isthing"]) for entry in class_table)
    expected = {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": (len(is_thing), "classes"),
        "MODEL.ROI_HEADS.NUM_CLASSES": (sum(is_thing), "thing classes"),
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


def complete_config(cfg: CN) -> CN:
    """Fill every open class count from the training set; check that all data sets agree with it.

    Args:
        cfg: a merged config; changed in place.

    Returns:
        The same config.

    Raises:
        ValueError: no data set is named, or two data sets have different class tables, or the
            config disagrees with them.
    """
    from panoptic_common.data.catalog import class_table

    names = list(cfg.DATASETS.TRAIN) + list(cfg.DATASETS.TEST)
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST are empty: name at least one data set")
    table = class_table(names[0])
    for name in names[1:]:
        other = class_table(name)
        if [(c["name"], bool(c["isthing"])) for c in other] != [
            (c["name"], bool(c["isthing"])) for c in table
        ]:
            raise ValueError(
                f"data sets {names[0]!r} and {name!r} have different class tables "
                f"({len(table)} and {len(other)} classes): train and test on one table"
            )
    fill_classes(cfg, table)
    return cfg
