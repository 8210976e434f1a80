"""The config keys that all systems share, with their defaults."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from panoptic_common.data.catalog import DEFAULT_SCENES


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
