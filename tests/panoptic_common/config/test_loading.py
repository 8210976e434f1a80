"""`load_config`, the only way from a file and options to a complete config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from panoptic_common.config import find_config, load_config, read_config

D2 = "configs/unified/scenes/D2.yaml"


def test_file_and_options_give_a_complete_config() -> None:
    cfg = load_config(D2, {"SOLVER.MAX_ITER": 7, "INPUT.MIN_SIZE_TRAIN": (64,)})
    assert cfg.MODEL.META_ARCHITECTURE == "UnifiedPanoptic"
    assert cfg.SOLVER.MAX_ITER == 7 and cfg.INPUT.MIN_SIZE_TRAIN == (64,)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 14 == len(cfg.MODEL.PANOPTIC.IS_THING)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == sum(cfg.MODEL.PANOPTIC.IS_THING) == 7
    assert not cfg.is_frozen()


def test_words_and_mapping_mean_the_same() -> None:
    words = load_config(D2, ["SOLVER.MAX_ITER", "7"])
    assert words.dump() == load_config(D2, {"SOLVER.MAX_ITER": 7}).dump()


def test_a_given_table_needs_no_data_set() -> None:
    table = [{"name": "a", "isthing": 1}, {"name": "b", "isthing": 0}, {"name": "c", "isthing": 1}]
    cfg = load_config(D2, {"DATASETS.TRAIN": ("nowhere",)}, table=table)
    assert tuple(cfg.MODEL.PANOPTIC.IS_THING) == (True, False, True)


def test_a_config_is_loaded_from_what_another_dumped() -> None:
    cfg = load_config(D2, {"SOLVER.MAX_ITER": 7})
    again = load_config(CfgNode.load_cfg(cfg.dump()))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())  # lists for tuples


def test_the_options_may_name_the_system(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("MODEL:\n")
    cfg = read_config(tmp_path / "empty.yaml", {"MODEL.META_ARCHITECTURE": "COPS"})
    assert "COPS" in cfg.MODEL and "UNIFIED" not in cfg.MODEL


BASED = f"_BASE_: {find_config(D2).resolve()}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no keys with values"),
        ("- MODEL", "holds no keys with values"),
        ("3", "holds no keys with values"),
        ("MODEL: 3", "is none of"),
        ("MODEL: {META_ARCHITECTURE: [COPS]}", "is none of"),
        ("_BASE_: own.yaml", "is its own _BASE_"),
        ("_BASE_: nowhere.yaml", "its _BASE_ .*nowhere.yaml cannot be read: No such file"),
        ("_BASE_: .", "its _BASE_ .* is a folder"),
        ("_BASE_: 3", "its _BASE_ 3 is no path"),
        ("_BASE_: [own2.yaml, {}]", "its _BASE_ .*own2.yaml cannot be read"),
        (BASED + "SOLVER: {MAX_ITER: }", "SOLVER.MAX_ITER has no value"),
        (BASED + "SOLVER: []", "SOLVER is a section of keys, but holds"),
        (BASED + "SOLVER: {1: 2}", "the key SOLVER.1 is no text"),
        (BASED + "MODEL: {MASK_ON: {A: 1}}", "MASK_ON is a section of keys here, but one value"),
        (BASED + "DATASETS: {TRAIN: [3]}", "3 is no name of a data set"),
    ],
)
def test_a_config_of_another_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_what_is_empty_in_a_default_may_stay_empty() -> None:
    """Detectron2 stores "no rule" as null, and checkpoints hold what it stores."""
    cfg = load_config(D2)
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS is None
    assert load_config(CfgNode.load_cfg(cfg.dump())).SOLVER.WEIGHT_DECAY_BIAS is None


@pytest.mark.parametrize("isthing", [0, 1])
def test_things_alone_or_stuff_alone_suit_cops_only(isthing: int) -> None:
    table = [{"name": name, "isthing": isthing} for name in "abc"]
    with pytest.raises(ValueError, match=r"all 3 classes are .*COPS trains on such data"):
        load_config(D2, table=table)
    cfg = load_config("configs/cops/scenes/full.yaml", table=table)
    assert tuple(cfg.MODEL.PANOPTIC.IS_THING) == (bool(isthing),) * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("MODEL: [", "cannot be read as a config"),
        ("- a\n- b\n", "holds no keys with values"),
        ("7\n", "holds no keys with values"),
        ("VERSION: 1\nMODEL: {META_ARCHITECTURE: COPS}\n", "VERSION is 1"),
        ("SOLVER:\n  NO_SUCH_KEY: 1\nMODEL: {META_ARCHITECTURE: COPS}\n", "NO_SUCH_KEY"),
        ("SOLVER:\n  MAX_ITER: many\nMODEL: {META_ARCHITECTURE: COPS}\n", "MAX_ITER"),
        ("MODEL: {META_ARCHITECTURE: Other}\n", "'Other'"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match="wrong.yaml") as error:
        load_config(path)
    assert message in str(error.value)


def test_wrong_options_are_said() -> None:
    with pytest.raises(ValueError, match="'SOLVER.MAX_ITER' is alone"):
        load_config(D2, ["SOLVER.MAX_ITER"])
    with pytest.raises(ValueError, match="the options: .*NO_SUCH"):
        load_config(D2, ["SOLVER.NO_SUCH", "1"])
    with pytest.raises(FileNotFoundError, match="no config file nowhere.yaml"):
        load_config("nowhere.yaml")


def test_data_sets_must_have_one_class_table(coco_paths) -> None:
    files = (coco_paths.images, coco_paths.panoptic_json, coco_paths.panoptic_png)
    datasets = [("of_load_config", *map(str, files))]
    names = {"DATASETS.TRAIN": ("of_load_config",), "DATASETS.TEST": ("scenes_val",)}
    with pytest.raises(ValueError, match="different class tables"):
        load_config(D2, names, datasets=datasets)
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        load_config(D2, {"DATASETS.TRAIN": ()}, need_train=True)
    with pytest.raises(ValueError, match="DATASETS.TEST is empty"):
        load_config(D2, {"DATASETS.TEST": ()}, only_test=True)
    assert load_config(D2, names, only_test=True).MODEL.ROI_HEADS.NUM_CLASSES == 7


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("SOLVER.MAX_ITR", "did you mean SOLVER.MAX_ITER?"),
        ("MAX_ITER", "did you mean SOLVER.MAX_ITER?"),  # in no section
        ("TEST.BASE_LR", "did you mean SOLVER.BASE_LR?"),  # in another one
        ("MODEL.UNIFED.AFFINITY.ENABLED", "did you mean MODEL.UNIFIED.AFFINITY.ENABLED?"),
        ("XYZZY", "correct it, or leave it out"),
    ],
)
def test_a_key_that_there_is_not_is_answered_with_one_that_there_is(
    tmp_path: Path, key: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"the options: there is no config key {key}: ")):
        read_config(D2, {key: 2})
    with pytest.raises(ValueError, match=re.escape(advice)):
        read_config(D2, {key: 2})
    path, content = tmp_path / "own.yaml", 2
    for name in reversed(key.split(".")):
        content = {name: content}
    path.write_text(yaml.safe_dump({"_BASE_": D2, **content}))
    with pytest.raises(
        ValueError, match=r"own.yaml: there is no config key .*(did you mean|leave)"
    ):
        read_config(path)


def test_a_whole_number_is_taken_for_a_float(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {D2}\nSOLVER: {{BASE_LR: 1}}\n")
    cfg = read_config(tmp_path / "mine.yaml", ["SOLVER.WEIGHT_DECAY", "2"])
    for value, expected in ((cfg.SOLVER.BASE_LR, 1.0), (cfg.SOLVER.WEIGHT_DECAY, 2.0)):
        assert isinstance(value, float) and value == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.MAX_ITER", "1.5", "1.5, a number: give a whole number, such as 860"),
        ("SOLVER.BASE_LR", "fast", "fast, text: give a number, such as 0.0012"),
        ("SOLVER.BASE_LR", "True", "True, True or False: give a number"),
        ("SOLVER.AMP.ENABLED", "3", "3, a whole number: give True or False, such as False"),
        ("MODEL.WEIGHTS", "5", "5, a whole number: give text$"),
        ("SOLVER.STEPS", "{}", r"(\{\}, )?a section of keys: give a list, such as"),
        ("MODEL.UNIFIED", "3", "3, a whole number: give a section of keys$"),
    ],
)
def test_a_value_of_another_kind_is_said(
    tmp_path: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"{key} is {message}"):
        read_config(D2, [key, value])
    if key == "MODEL.UNIFIED":  # a file is answered in other words
        return
    inner = value
    for name in reversed(key.split(".")):
        inner = f"{{{name}: {inner}}}"
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {D2}\n{inner[1:-1]}\n")
    said = message.partition(", such as")[0]  # of Detectron2, here
    with pytest.raises(ValueError, match=rf"mine\.yaml: {key} is {said}"):
        read_config(tmp_path / "mine.yaml")


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SOLVER\.BASE_LR is too large a number"):
        read_config(D2, ["SOLVER.BASE_LR", "1" + 400 * "0"])
