"""Files of torch.save are read without running code, and damage is named."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from panoptic_common.checkpoint.safe_load import torch_load_safely


class RunsCode:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


STATE = {"model": {"weight": torch.arange(1000.0)}, "iteration": 7, "config": "A: 1"}


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_checkpoint_loads(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    loaded = torch_load_safely(path)
    assert torch.equal(loaded["model"]["weight"], STATE["model"]["weight"])
    assert loaded["iteration"] == 7


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"x": RunsCode(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir.*--allow-unsafe-checkpoint") as error:
        torch_load_safely(path)
    assert str(path) in str(error.value)
    assert not trace.exists()
    torch_load_safely(path, allow_unsafe=True)
    assert trace.exists()


def test_all_offending_names_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"args": argparse.Namespace(lr=1), "best": np.float64(3.0)}, path)
    with pytest.raises(pickle.UnpicklingError, match="argparse.Namespace") as error:
        torch_load_safely(path)
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        assert "multiarray.scalar" in str(error.value)
    assert torch_load_safely(path, allow_unsafe=True)["args"].lr == 1


def test_unusual_pickle_protocol_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "protocol.pth"
    torch.save({"args": argparse.Namespace(lr=1)}, path, pickle_protocol=4)
    with pytest.raises(pickle.UnpicklingError, match="--allow-unsafe-checkpoint"):
        torch_load_safely(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_file_cut_short_is_named(tmp_path: Path, zipped: bool, keep: float) -> None:
    path = tmp_path / "model.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"model\.pth: it is damaged, cut short"):
        torch_load_safely(path)
    with pytest.raises(ValueError, match="damaged"):  # the permission does not mend it
        torch_load_safely(path, allow_unsafe=True)


def test_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[record.header_offset + 200 + record.file_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        torch_load_safely(path)


def test_compressed_archive_is_refused_before_it_grows(tmp_path: Path) -> None:
    """torch never compresses; 64 MiB of zeros would travel as 64 KiB."""
    torch.save({"x": torch.zeros(1 << 16)}, tmp_path / "plain.pth")
    path = tmp_path / "small.pth"
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    with pytest.raises(ValueError, match=r"small\.pth: it is damaged.*compressed"):
        torch_load_safely(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensor_that_repeats_one_value_is_refused(tmp_path: Path, zipped: bool) -> None:
    """Four terabytes by a stride of 0: harmless until somebody copies it."""
    path = tmp_path / "wide.pth"
    wide = {"x": [torch.zeros(1).expand(1 << 40)]}
    torch.save(wide, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="bigger than the file"):
        torch_load_safely(path)


@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta", "nested"])
def test_tensor_that_is_no_plain_array_is_refused(tmp_path: Path, kind: str) -> None:
    """torch reads them, and fails in its own words wherever they are used."""
    value = torch.ones(3, 2)
    odd = {
        "sparse": lambda: value.to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.quint8),
        "meta": lambda: value.to("meta"),
        "nested": lambda: torch.nested.nested_tensor([value, value]),
    }
    path = tmp_path / "odd.pth"
    torch.save({**STATE, "optimizer": {"x": [odd[kind](), torch.zeros(99)]}}, path)
    with pytest.raises(ValueError, match=rf"odd\.pth: .*it holds a {kind} tensor"):
        torch_load_safely(path)


def test_a_torch_that_refuses_odd_tensors_gives_the_same_sentence(tmp_path, monkeypatch):
    """torch 2.15 takes no nested tensors; `--allow-unsafe-checkpoint` is no way out of that."""
    path = tmp_path / "odd.pth"
    torch.save(STATE, path)

    def refuse(*_: object, **__: object) -> None:
        raise pickle.UnpicklingError("Unsupported global: GLOBAL torch._utils._rebuild_qtensor")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(ValueError, match=r"odd\.pth: .*it holds a quantized tensor"):
        torch_load_safely(path, allow_unsafe=True)


@pytest.mark.parametrize("content", [b"<html>404 not found</html>", b"\0" * 5000, b"PK\3\4 no"])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"page\.pth: it is damaged"):
        torch_load_safely(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        torch_load_safely(tmp_path / "nowhere.pth")
