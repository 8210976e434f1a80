"""The folder of an exported model: what it must hold, and what is said where it does not."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from model_factory import tiny_config

from panoptic_common.inference.exporting import image_preparation
from panoptic_common.runtime.folder import (
    ExportedModel,
    ExportError,
    read_manifest,
    write_manifest,
)
from panoptic_common.runtime.forms import NUMBER, POSITIVE


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"")
    write_manifest(
        tmp_path,
        system="COPS",
        classes=[{"id": 1, "name": "sky", "isthing": 0}],
        preparation={**image_preparation(tiny_config()), "divisibility": 4, "smallest": [1, 1]},
        parts={"network": "network.onnx"},
        options={"stride": 4},
    )
    return tmp_path


def test_what_is_written_is_read(folder):
    manifest = read_manifest(folder)
    assert manifest["options"] == {"stride": 4}
    assert manifest["classes"][0]["name"] == "sky"


def change(folder, **values):
    path = folder / "model.json"
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"options": None}, "lacks options"),
        ({"format": 7}, "has format 7, this program reads 1"),
        ({"parts": {"dense": "dense.onnx"}}, "lacks dense.onnx"),
        ({"preparation": {}}, "preparation is wrong"),
        ({"parts": ["network.onnx"]}, "model.parts is no object"),
        ({"parts": {"network": "../network.onnx"}}, "which is no file beside it"),
        ({"parts": {"network": "/etc/passwd"}}, "names '/etc/passwd', which is no file beside it"),
        ({"parts": {"network": ".."}}, "which is no file beside it"),
        ({"parts": {"network": 3}}, "names '3', which is no file beside it"),
        ({"classes": [{"name": "sky"}]}, r"model.classes\[0\] lacks isthing"),
        ({"classes": [{"name": "sky", "isthing": "0"}]}, "isthing is '0', not 0 or 1"),
        ({"system": ["COPS"]}, r"model.system is \['COPS'\], not a text"),
    ],
)
def test_a_wrong_manifest_is_refused(folder, values, message):
    change(folder, **values)
    with pytest.raises(ExportError, match=message):
        read_manifest(folder)


def test_a_folder_without_and_with_a_broken_manifest(folder):
    (folder / "model.json").write_text("{")
    with pytest.raises(ExportError, match="is no JSON"):
        read_manifest(folder)
    (folder / "model.json").write_text("[" * 100_000)
    with pytest.raises(ExportError, match="is no JSON"):
        read_manifest(folder)
    (folder / "model.json").unlink()
    with pytest.raises(ExportError, match="give a folder that panoptic-export has written"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("change_of", "message"),
    [
        (lambda p: p.update(longest=float("inf")), "preparation.longest is inf"),
        (lambda p: p.update(scale=float("nan")), "preparation.scale is nan"),
        (lambda p: p.update(pixel_mean=[1, 2, "3"]), r"preparation.pixel_mean\[2\] is '3'"),
        (lambda p: p.update(smallest=[1]), "smallest 2"),
        (lambda p: p["intensity"].update(percentiles=[1]), "percentiles are 2 numbers, or none"),
        (lambda p: p.update(longest=0), "longest is 0"),
    ],
)
def test_a_preparation_that_makes_no_sense_is_refused(folder, change_of, message):
    preparation = json.loads((folder / "model.json").read_text())["preparation"]
    change_of(preparation)
    change(folder, preparation=preparation)
    with pytest.raises(ExportError, match=message):
        read_manifest(folder)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(folder):
    (folder / "model.json").unlink()
    os.mkfifo(folder / "model.json")
    with pytest.raises(ExportError, match="no regular file"):
        read_manifest(folder)


class FakeSession:
    """Answers as onnxruntime would, with what it is told."""

    def __init__(self, **outputs):
        self.outputs = outputs

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self.outputs]

    def run(self, names, inputs):
        if "image" not in inputs:
            raise RuntimeError("Required inputs (['image']) are missing\nand more")
        return [self.outputs[name] for name in names]


def test_networks_that_fail_or_give_nan_are_named(folder, monkeypatch):
    """A network of NaN weights would give classes like any other: the first of all."""
    session = FakeSession(good=np.zeros((1, 2)), bad=np.array([1.0, np.nan]))
    monkeypatch.setattr("panoptic_common.runtime.folder.open_session", lambda *_: session)
    model = ExportedModel(folder)
    with pytest.raises(ExportError, match="'network' of .* gives NaN as 'bad'"):
        model.run("network", {"image": np.zeros(1)})
    session.outputs.pop("bad")
    found = model.run("network", {"image": np.zeros(1)})
    assert found["good"].shape == (1, 2)
    with pytest.raises(ExportError, match="has no output 'class_costs'"):
        found["class_costs"]
    with pytest.raises(ExportError, match="cannot be run .*are missing.: export the model again"):
        model.run("network", {"x": np.zeros(1)})
    with pytest.raises(ExportError, match="has no network 'dense'"):
        model.run("dense", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0, "weights": [1.0]}, "options.stride is 0, not a positive whole number"),
        ({"stride": 4}, "options lacks weights"),
        ({"stride": 4, "weights": [1.0, None]}, r"options.weights\[1\] is None, not a finite"),
        ({"stride": 4, "weights": 1.0}, "options.weights is no list"),
        ([], "options is no object"),
    ],
)
def test_options_of_another_form_are_refused(folder, monkeypatch, options, message):
    monkeypatch.setattr("panoptic_common.runtime.folder.open_session", lambda *_: None)
    change(folder, options=options)
    with pytest.raises(ExportError, match=message):
        ExportedModel(folder).require_options({"stride": POSITIVE, "weights": [NUMBER]})
