"""The folder of an exported model: what it must hold, and what is said where it does not."""

from __future__ import annotations

import json

import pytest
from model_factory import tiny_config

from panoptic_common.inference.exporting import image_preparation
from panoptic_common.runtime.folder import ExportError, read_manifest, write_manifest


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
    (folder / "model.json").unlink()
    with pytest.raises(ExportError, match="give a folder that tools/export.py has written"):
        read_manifest(folder)
