"""Entries of a wrong kind are named, through every way into the project."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from tiny_runs import train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.checkpoint.addresses import local_weights
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import CheckpointError, read_checkpoint_metadata
from panoptic_common.checkpoint.own_format import faulty_entry
from panoptic_tools.convert_cops_checkpoint import read_their_weights

CLASS = {"name": "road", "isthing": 0}
RIGHT = {
    "model": {"weight": torch.zeros(2)},
    "class_table": [CLASS],
    "config": "VERSION: 2",
    "iteration": 3,
    "seed": 7,
    "optimizer": {},
    "value": 51.5,
}
NOTHING_RIGHT = (None, 2.5, float("nan"), "- a", ["a"], [[1]], torch.zeros(2), True)
WRONG = {
    **dict.fromkeys(RIGHT, NOTHING_RIGHT),
    "class_table": (*NOTHING_RIGHT, [{}], [{"name": 3, "isthing": 0}], [CLASS | {"isthing": 2}]),
    "config": (None, 3, "", "- a", "a: [", {}),
    "iteration": (*NOTHING_RIGHT, -2, 2**63),
    "seed": (*NOTHING_RIGHT, -1),
    "value": (None, float("nan"), "- a", ["a"], torch.zeros(2)),
}


def test_what_is_right_passes() -> None:
    assert faulty_entry(RIGHT) is None
    assert faulty_entry(RIGHT | {"iteration": -1}) is None  # converted: never trained here


@pytest.mark.parametrize("key", RIGHT)
def test_what_is_wrong_is_named(key: str) -> None:
    for value in WRONG[key]:
        assert repr(key) in (faulty_entry(RIGHT | {key: value}) or ""), value


@pytest.mark.parametrize("ending", [".pkl", ".pth", ".pyth"])
def test_the_ending_of_a_file_does_not_matter(tmp_path, ending: str) -> None:
    """What says that it is ours is used as ours: config and class table build the model."""
    for key in ("class_table", "config", "iteration", "seed"):
        contents = {**RIGHT, "model": {"weight": np.zeros(2)}, key: WRONG[key][0]}
        if ending == ".pkl":
            (tmp_path / "w.pkl").write_bytes(pickle.dumps(contents))
        else:
            kept = {"model_state": {"weight": torch.zeros(2)}} if ending == ".pyth" else {}
            torch.save({**RIGHT, **kept, key: WRONG[key][0]}, tmp_path / f"w{ending}")
        with pytest.raises(CheckpointError):
            read_checkpoint_metadata(tmp_path / f"w{ending}")


def test_a_folder_given_as_weights_is_called_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "out").mkdir()
    for given in (str(tmp_path / "out"), "out"):  # the second might be the name of a model
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CheckpointError, match="out is a folder, .* a file in it$"):
            read_checkpoint_metadata(local_weights(given))
    for name in ("model_0000003.pth", "model_final.pth", "log.txt"):
        (tmp_path / "out" / name).touch()
    with pytest.raises(CheckpointError, match="such as .*out/model_final.pth$"):
        read_checkpoint_metadata("out")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="pipe.pth is a pipe"):
        read_checkpoint_metadata("pipe.pth")


def ways(cfg: CfgNode, path: str) -> dict[str, Callable[[], object]]:
    """What reads a checkpoint: the start of a training, a resume, an evaluation, demo, convert."""

    def resume() -> None:
        trainer = TinyTrainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()

    def load(purpose: str) -> None:
        model = TinyTrainer.build_model(cfg)
        table = [{"name": name, "isthing": 0} for name in "ab"]
        checkpointer = PanopticCheckpointer(model, cfg=cfg, class_table=table)
        checkpointer.load(path, checkpointables=[], purpose=purpose)

    return {
        "initialise": lambda: load("initialise"),
        "resume": resume,
        "evaluate": lambda: load("evaluate"),
        "demo": lambda: read_checkpoint_metadata(path),
        "convert": lambda: read_their_weights(Path(path), False),
    }


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model", 3),
        ("class_table", [3]),
        ("config", "- a"),
        ("iteration", "12"),
        ("optimizer", [1]),
        ("scheduler", None),
    ],
)
def test_every_way_in_refuses_in_one_sentence(tiny_root: Path, entry: str, value: object) -> None:
    cfg = tiny_config(tiny_root)
    train(cfg)
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    torch.save(torch.load(path, weights_only=True) | {entry: value}, path)
    for name, way in ways(cfg, path).items():
        with pytest.raises(CheckpointError) as caught:
            way()
        assert f"its {entry!r} is no" in str(caught.value), name


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("optimizer", {"state": 3, "param_groups": []}),
        ("optimizer", {"state": {}, "param_groups": [3]}),
        ("optimizer", {}),
        ("scheduler", {"last_epoch": 99}),
        ("iteration", 5),
    ],
)
def test_a_resume_refuses_a_state_that_does_not_fit(
    tiny_root: Path, entry: str, value: object
) -> None:
    cfg = tiny_config(tiny_root)
    train(cfg)
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    torch.save(torch.load(path, weights_only=True) | {entry: value}, path)
    with pytest.raises(CheckpointError):
        ways(cfg, path)["resume"]()
