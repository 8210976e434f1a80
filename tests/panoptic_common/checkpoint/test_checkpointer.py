"""Our own checkpoints, and safetensors: what is stored, what comes back, and what is refused."""

from __future__ import annotations

import argparse
import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_factory import TABLE, TinyModel, checkpointer_of, randomised, saved_run
from detectron2.config import CfgNode

from panoptic_common.checkpoint.files import (
    CheckpointError,
    plain,
    read_checkpoint_metadata,
    read_weights_file,
)
from panoptic_common.checkpoint.weight_names import class_table_difference


def test_round_trip_is_exact_and_safe(tmp_path):
    saved, optimizer = saved_run(tmp_path)
    contents = torch.load(saved.get_checkpoint_file(), weights_only=True)
    keys = {"model", "optimizer", "iteration", "class_table", "config", "seed"}
    assert set(contents) == keys
    assert contents["class_table"] == TABLE and contents["seed"] == 3
    model = TinyModel()
    other = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    extra = checkpointer_of(model, tmp_path, optimizer=other).resume_or_load("", resume=True)
    assert extra["iteration"] == 19
    for name, value in saved.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for a, b in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])
    assert other.param_groups[0]["lr"] == 0.1


def test_metadata(tmp_path):
    saved, _ = saved_run(tmp_path)
    metadata = read_checkpoint_metadata(saved.get_checkpoint_file())
    assert metadata.iteration == 19 and metadata.seed == 3 and metadata.class_table == TABLE
    assert CfgNode.load_cfg(metadata.config).SOLVER.OPTIMIZER == "SGD"
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        read_checkpoint_metadata(tmp_path / "foreign.pth")


def test_plain_values_only():
    assert type(plain({"a": [np.float64(1.5)]})["a"][0]) is float
    assert type(plain(np.int64(3))) is int and type(plain(np.bool_(True))) is bool
    assert plain((True, None, "x")) == (True, None, "x")
    with pytest.raises(TypeError, match=r"optimizer.*Namespace"):
        plain({"optimizer": {"x": argparse.Namespace()}})


def test_evaluation_wants_every_entry(tmp_path):
    saved, _ = saved_run(tmp_path)
    path = saved.get_checkpoint_file()
    contents = torch.load(path)
    del contents["model"]["backbone.2.weight"]
    torch.save(contents, path)
    with pytest.raises(CheckpointError, match=r"backbone\.2\.weight"):
        checkpointer_of(TinyModel()).load(path, checkpointables=[], purpose="evaluate")


def test_evaluation_refuses_other_classes(tmp_path):
    saved, _ = saved_run(tmp_path)
    other = [TABLE[0], {"id": 9, "name": "bus", "isthing": 1}]
    with pytest.raises(CheckpointError, match="class 1 is 'car' .*'bus'"):
        checkpointer_of(TinyModel(), class_table=other).load(
            saved.get_checkpoint_file(), checkpointables=[], purpose="evaluate"
        )


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fine_tuning_on_other_classes_starts_the_head_afresh(tmp_path, num_classes, caplog):
    """Even if the shapes are equal: the old weights would mean other classes."""
    saved, _ = saved_run(tmp_path)
    other = [{"id": i, "name": f"new {i}", "isthing": 0} for i in range(num_classes)]
    model = TinyModel(num_classes)
    head = model.sem_seg_head["predictor"].weight.detach().clone()
    checkpointer_of(model, class_table=other).load(saved.get_checkpoint_file(), checkpointables=[])
    assert torch.equal(model.sem_seg_head["predictor"].weight, head)
    assert torch.equal(model.backbone[0].weight, saved.model.backbone[0].weight)
    assert "sem_seg_head.predictor.{weight, bias}" in caplog.text


def test_class_tables_are_compared_by_name_and_kind():
    assert class_table_difference(TABLE, [{**entry, "id": 1} for entry in TABLE]) is None
    assert "1 classes there, 2 here" in class_table_difference(TABLE[:1], TABLE)
    swapped = [TABLE[0], {**TABLE[1], "isthing": 0}]
    assert "'car' (thing) there, 'car' (stuff) here" in class_table_difference(TABLE, swapped)


def test_resuming_from_a_foreign_file_is_refused(tmp_path):
    torch.save({"model": TinyModel().state_dict()}, tmp_path / "model.pth")
    (tmp_path / "last_checkpoint").write_text("model.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)


@pytest.mark.parametrize("name", ["../other/model.pth", "{other}/model.pth", "gone.pth", "", "."])
def test_the_last_checkpoint_is_one_of_the_runs_own(tmp_path, name):
    """A resume never goes on with what another run has left."""
    saved, _ = saved_run(tmp_path / "other")
    os.replace(saved.get_checkpoint_file(), tmp_path / "other/model.pth")
    run, _ = saved_run(tmp_path / "run")
    pointer = tmp_path / "run/last_checkpoint"
    pointer.write_text(name.format(other=tmp_path / "other"))
    with pytest.raises(CheckpointError, match="which is no file beside it: write the name of one"):
        run.get_checkpoint_file()


# ---- safetensors --------------------------------------------------------------------------------


def test_safetensors_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CheckpointError, match="pip install safetensors"):
        read_weights_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", [torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize("purpose", ["evaluate", "initialise"])
def test_weights_of_an_odd_type_are_named(tmp_path, kind, purpose):
    """torch copies complex values without their imaginary part, and cannot compare 8 bits."""
    weights = {name: value.to(kind) for name, value in TinyModel().state_dict().items()}
    torch.save(weights, tmp_path / "odd.pth")
    name = str(kind).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"odd\.pth: the entry .* is a {name} tensor"):
        checkpointer_of(TinyModel()).load(
            str(tmp_path / "odd.pth"), checkpointables=[], purpose=purpose
        )


def test_safetensors_round_trip(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    source, model = randomised(TinyModel()), TinyModel()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    path = str(tmp_path / "model.safetensors")
    checkpointer_of(model).load(path, checkpointables=[])
    assert torch.equal(model.backbone[0].weight, source.backbone[0].weight)
    Path(path).write_bytes(Path(path).read_bytes()[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        read_weights_file(path)
