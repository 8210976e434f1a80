"""Files and entries that no reader of weights takes are named, whatever they are."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from checkpoint_factory import change_entry, saved_run

from panoptic_common.checkpoint.files import CheckpointError, read_weights_file


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model",), [1], "'model' is no dict of weights"),
        (("model", 7), torch.zeros(1), "'model' is no dict of weights"),
        (("iteration",), "9", "'iteration' is no number of an iteration"),
        (("iteration",), True, "'iteration' is no number of an iteration"),
        (("iteration",), -2, "'iteration' is no number of an iteration"),
        (("iteration",), 2**70, "'iteration' is no number of an iteration"),
        (("seed",), None, "'seed' is no whole number"),
        (("seed",), -1, "'seed' is no whole number"),
        (("config",), None, "'config' is no config in YAML"),
        (("config",), "a: [", "'config' is no config in YAML"),
        (("config",), "word", "'config' is no config in YAML"),
        (("config",), "!!python/name:os.system", "'config' is no config in YAML"),
        (("class_table",), 3, "'class_table' is no list of classes"),
        (("class_table", 1), "car", "'class_table' is no list of classes"),
        (("class_table", 1, "name"), 4, "'class_table' is no list of classes"),
        (("class_table", 0, "isthing"), 2, "'class_table' is no list of classes"),
        (("class_table", 0, "isthing"), 0.0, "'class_table' is no list of classes"),
        (("class_table", 0, "color"), [1, 2], "'class_table' is no list of classes"),
    ],
    ids=str,
)
def test_entry_of_the_wrong_kind_is_named(tmp_path, keys, value, message):
    saved, _ = saved_run(tmp_path)
    path = Path(saved.get_checkpoint_file())
    change_entry(path, *keys, value=value)
    with pytest.raises(CheckpointError, match="damaged or of another program") as caught:
        read_weights_file(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "The previous one is model_0000009.pth" in str(caught.value)


def test_a_file_that_may_not_be_read_and_one_too_big_are_named(tmp_path, monkeypatch):
    path = tmp_path / "model.pkl"
    path.touch()
    for error, message in ((PermissionError(13, "denied"), "denied"), (MemoryError(), "too big")):

        def fail(_, error=error):
            raise error

        monkeypatch.setattr(Path, "read_bytes", fail)
        with pytest.raises(CheckpointError, match=f"model.pkl .*{message}"):
            read_weights_file(path)


def test_weights_without_names_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": {(1, 2): torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"one of them is called \(1, 2\)"):
        read_weights_file(path)
    for contents, message in (({"blobs": 3}, "no dict of blobs"), ({7: 1.0}, "called 7")):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(contents))
        with pytest.raises(CheckpointError, match=message):
            read_weights_file(tmp_path / "model.pkl")
