"""Weights as .safetensors: what comes back, how exact, and what a damaged file costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_factory import TABLE, TinyModel, checkpointer_of, randomised
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from panoptic_common.checkpoint.files import (
    CheckpointError,
    read_checkpoint_metadata,
    read_weights_file,
)
from panoptic_common.checkpoint.weights_format import LEAST_BYTES, STORAGES, write_weights


@pytest.fixture
def contents(tmp_path: Path) -> dict:
    """Of a checkpoint as training writes it."""
    checkpointer_of(randomised(TinyModel()), tmp_path).save("model", iteration=7)
    return read_weights_file(tmp_path / "model.pth")


def test_config_classes_and_weights_come_back(contents: dict, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, contents)
    metadata = read_checkpoint_metadata(path)
    assert (metadata.iteration, metadata.seed) == (7, 3)
    assert metadata.class_table == TABLE and metadata.config == contents["config"]
    model = TinyModel()
    checkpointer_of(model).load(str(path), checkpointables=[], purpose="evaluate")
    for name, value in contents["model"].items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_resume_needs_more_and_says_so(contents: dict, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, contents)
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match="has no 'optimizer'"):
        checkpointer_of(model, optimizer=optimizer).load(str(path))


@pytest.mark.parametrize("storage", STORAGES)
def test_the_error_is_bounded(storage: str, contents: dict, tmp_path: Path) -> None:
    """float32: none. half: 2^-11 of each value. bytes: half a step, 1/254 of the channel's maximum.

    A weight of 8 * 3000 values is above the least size for bytes, the others are below.
    """
    generator = torch.Generator().manual_seed(0)
    large = (
        torch.randn(8, 3000, generator=generator)
        * torch.tensor(10.0) ** torch.arange(-4, 4)[:, None]
    )
    large[3] = 0  # a channel that is off
    contents = {**contents, "model": {**contents["model"], "large": large}}
    path = tmp_path / "model.safetensors"
    write_weights(path, contents, storage)
    found = read_weights_file(path)["model"]
    assert found.keys() == contents["model"].keys()
    for name, value in contents["model"].items():
        assert found[name].dtype == value.dtype
        error = (found[name] - value).abs()
        if storage == "float32" or not value.is_floating_point():
            assert torch.equal(found[name], value)
        elif storage == "bytes" and name == "large":
            # The factor itself is rounded to half precision: 2^-11 of up to 127 steps.
            top = value.abs().amax(dim=1, keepdim=True)
            assert (error <= top * (1 / 254 + 2**-11) + 4e-6).all()
        else:
            assert (error <= value.abs() * 2**-11 + 2**-25).all()
    if storage == "bytes":
        stored = load_file(path)
        assert stored["large"].dtype == torch.int8 and stored["large:scale"].shape == (8,)


def test_values_beyond_half_precision_are_refused(contents: dict, tmp_path: Path) -> None:
    contents["model"]["backbone.0.bias"][0] = 1e5  # the largest is 65504
    with pytest.raises(ValueError, match=r"backbone\.0\.bias has values beyond"):
        write_weights(tmp_path / "model.safetensors", contents, "half")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("class_table", "[{}]", "'class_table' is no list of classes"),
        ("class_table", "[[", "damaged or no safetensors"),
        ("seed", "-1", "'seed' is no whole number"),
        ("iteration", "many", "damaged or no safetensors"),
        ("config", "a: [", "'config' is no config in YAML"),
    ],
)
def test_forged_metadata_is_named(
    key: str, value: str, sentence: str, contents: dict, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, contents)
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    assert json.loads(texts["class_table"]) == TABLE
    save_file(load_file(path), path, metadata={**texts, key: value})
    with pytest.raises(CheckpointError, match=sentence):
        read_weights_file(path)


def stored_in_bytes(contents: dict, path: Path) -> dict[str, torch.Tensor]:
    """Write a model with one weight in bytes, "large"; returns the tensors of the file."""
    large = torch.linspace(-1, 1, LEAST_BYTES + 8).reshape(8, -1)
    contents["model"]["large"] = large
    write_weights(path, contents, "bytes")
    return load_file(path)


def spoilt(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Put other tensors into a file of ours; returns the sentence that refuses it."""
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    save_file(tensors, path, metadata=texts)
    with pytest.raises(CheckpointError) as refused:
        read_weights_file(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("factors", "sentence"),
    [
        (None, "large is stored in bytes, but large:scale is not there"),
        (torch.ones(1), "large:scale is float32 of shape (1,), but the weight has the shape (8,"),
        (torch.ones(7), "of shape (7,)"),
        (torch.ones(()), "of shape ()"),
        (torch.ones(8, 1), "of shape (8, 1)"),
        (torch.ones(8, dtype=torch.int64), "large:scale is int64 of shape (8,)"),
    ],
)
def test_bytes_without_their_factors_are_refused(
    factors: torch.Tensor | None, sentence: str, contents: dict, tmp_path: Path
) -> None:
    """They would be weights of up to 127."""
    path = tmp_path / "model.safetensors"
    tensors = stored_in_bytes(contents, path)
    del tensors["large:scale"]
    told = spoilt(path, tensors if factors is None else {**tensors, "large:scale": factors})
    assert str(path) in told and sentence in told


def test_factors_without_bytes_are_refused(contents: dict, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = stored_in_bytes(contents, path)
    alone = {name: value for name, value in tensors.items() if name != "large"}
    assert "large:scale holds factors of a weight that is not there" in spoilt(path, alone)
    told = spoilt(path, {**tensors, "large": tensors["large"].half()})
    assert "large:scale holds factors of a weight that is stored as float16" in told


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.uint8])
def test_whole_numbers_are_no_weights_of_a_model(
    kind: torch.dtype, contents: dict, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    contents["model"]["backbone.0.bias"] = contents["model"]["backbone.0.bias"].to(kind)
    write_weights(path, contents)
    model = TinyModel()
    before = model.state_dict()["backbone.0.bias"].clone()
    for purpose in ("evaluate", "initialise"):
        with pytest.raises(CheckpointError, match=r"first backbone\.0\.bias as (int|bool|uint)"):
            checkpointer_of(model).load(str(path), checkpointables=[], purpose=purpose)
    assert torch.equal(model.state_dict()["backbone.0.bias"], before)


def test_a_file_cut_short_is_damaged(contents: dict, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, contents)
    data = path.read_bytes()
    for length in (0, 7, 40, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="damaged or no safetensors"):
            read_weights_file(path)
