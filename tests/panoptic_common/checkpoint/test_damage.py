"""What a kill or a flipped bit leaves of a file of weights, and files that would run code."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_factory import TinyModel, checkpointer_of, saved_run, write_zoo_pickle

from panoptic_common.checkpoint.files import CheckpointError, read_weights_file

# ---- kills and damage ---------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["write", "fsync", "rename", "pointer"])
def test_kill_while_saving_leaves_a_usable_folder(tmp_path, stage, monkeypatch):
    """The process dies by SIGKILL inside the save: the pointer names a whole checkpoint."""
    saved, _ = saved_run(tmp_path, iterations=(9,))

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        if stage == "write":  # half a file
            whole = torch.save
            torch.save = lambda data, file: (whole(data, file), file.truncate(100), die())
        elif stage == "fsync":
            os.fsync = die
        else:
            rename, which = os.replace, "last_checkpoint" if stage == "pointer" else ".pth"
            os.replace = lambda a, b: die() if str(b).endswith(which) else rename(a, b)
        saved.save("model_0000019", iteration=19)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1  # what was being written
    checkpointer = checkpointer_of(TinyModel(), tmp_path)
    assert checkpointer.load(checkpointer.get_checkpoint_file(), [])["iteration"] == 9
    saved.save("model_0000029", iteration=29)
    assert not list(tmp_path.glob(".*.tmp"))
    assert checkpointer.load(checkpointer.get_checkpoint_file(), [])["iteration"] == 29


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint_names_itself_and_the_previous_one(tmp_path, share):
    saved, _ = saved_run(tmp_path)
    path = Path(saved.get_checkpoint_file())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError) as caught:
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)
    assert "model_0000019.pth" in str(caught.value)
    assert "The previous one is model_0000009.pth" in str(caught.value)


def test_flipped_bits_never_pass_unnoticed(tmp_path):
    """Either the file is refused, or (padding, file dates) its contents are what was saved."""
    saved, _ = saved_run(tmp_path)
    path = Path(saved.get_checkpoint_file())
    original = path.read_bytes()
    expected = torch.load(path, weights_only=True)["model"]
    refused = 0
    places = np.random.default_rng(0).integers(0, len(original), 60)
    weights = original.index(expected["backbone.0.weight"].numpy().tobytes())
    for place in [weights, weights + 5, *places]:
        path.write_bytes(original[:place] + bytes([original[place] ^ 16]) + original[place + 1 :])
        try:
            model = read_weights_file(path)["model"]
        except CheckpointError as error:
            assert "model_0000019.pth" in str(error)
            refused += 1
        else:
            assert place not in (weights, weights + 5)
            assert all(torch.equal(model[name], value) for name, value in expected.items())
    assert refused >= 10


def test_only_checkpoint_damaged_says_start_again(tmp_path):
    saved, _ = saved_run(tmp_path, iterations=(9,))
    Path(saved.get_checkpoint_file()).write_bytes(b"x" * 50)
    with pytest.raises(CheckpointError, match="no earlier checkpoint.*without --resume"):
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)


@pytest.mark.parametrize("pointer", ["", "model_0000099.pth"])
def test_pointer_to_nowhere(tmp_path, pointer):
    saved_run(tmp_path)
    (tmp_path / "last_checkpoint").write_text(pointer)
    with pytest.raises(CheckpointError, match="model_0000019.pth"):
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)


def test_damaged_pickle(tmp_path):
    write_zoo_pickle(tmp_path / "model.pkl", TinyModel())
    whole = (tmp_path / "model.pkl").read_bytes()
    (tmp_path / "model.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="model.pkl is damaged"):
        read_weights_file(tmp_path / "model.pkl")


# ---- files that would run code ------------------------------------------------------------------


class _Touch:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth"])
def test_file_that_runs_code_is_refused_unless_allowed(tmp_path, name):
    path, trace = tmp_path / name, tmp_path / "trace"
    contents = {"model": {"backbone.weight": np.zeros(2, np.float32)}, "x": _Touch(trace)}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps({**contents, "__author__": "somebody"}))
    else:
        torch.save(contents, path)
    with pytest.raises(CheckpointError, match="--allow-unsafe-checkpoint"):
        read_weights_file(path)
    assert not trace.exists()
    assert "backbone.weight" in read_weights_file(path, allow_unsafe=True)["model"]
    assert trace.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy._core.multiarray\nfromfile\n(S'x'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
    ],
)
def test_pickle_may_name_nothing_but_arrays(tmp_path, payload):
    (tmp_path / "evil.pkl").write_bytes(payload)
    with pytest.raises(CheckpointError):
        read_weights_file(tmp_path / "evil.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_every_numpy_and_protocol_are_read(tmp_path, protocol, core):
    arrays = {
        "model": {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "s": np.float64(2.5),
            "i": np.array(7),
        },
        "__author__": "numpy",
    }
    # The module's name in the file depends on the numpy that wrote it. A protocol above 3 counts
    # the bytes of a name, so that only there the length before it changes.
    text = pickle.dumps(arrays, protocol)
    if protocol < 4:
        text = text.replace(b"numpy._core.", core.encode() + b".")
        text = text.replace(b"numpy.core.", core.encode() + b".")
    (tmp_path / "a.pkl").write_bytes(text)
    read = read_weights_file(tmp_path / "a.pkl")["model"]
    for name, value in arrays["model"].items():
        np.testing.assert_array_equal(read[name], value)


def test_negative_variance_is_refused(tmp_path):
    """Its root is NaN, and a map can be made of scores that are NaN, too."""
    model = TinyModel()
    model.backbone[1].running_var[1] = -1e-3
    checkpointer_of(model, tmp_path).save("model", iteration=0)
    with pytest.raises(CheckpointError, match="negative variance in backbone.1.running_var"):
        checkpointer_of(TinyModel()).load(
            str(tmp_path / "model.pth"), checkpointables=[], purpose="evaluate"
        )
