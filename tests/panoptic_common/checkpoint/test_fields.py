"""Entries of the wrong kind in our checkpoints are named, whatever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import TinyModel, checkpointer_of, saved_run

from panoptic_common.checkpoint.fields import state_problem
from panoptic_common.checkpoint.files import CheckpointError, read_weights_file

NAN = float("nan")


def change(path: Path, *keys: Any, value: Any) -> None:
    """Set contents[key][key]... of a file."""
    contents = node = torch.load(path, weights_only=True)
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    torch.save(contents, path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model",), [1], "its 'model' is a list"),
        (("model", 7), torch.zeros(1), "no name but 7"),
        (("iteration",), "9", "'iteration' is '9', not an integer from -1 on"),
        (("iteration",), True, "'iteration' is True"),
        (("iteration",), -2, "'iteration' is -2"),
        (("iteration",), 2**70, "'iteration' is 1180591620717411303424"),
        (("seed",), None, "'seed' is None, not an integer from 0 on"),
        (("seed",), -1, "'seed' is -1"),
        (("config",), None, "'config' is None"),
        (("config",), "a: [", "'config' is no YAML"),
        (("config",), "word", "'config' is 'word', not a YAML text of settings"),
        (("config",), "!!python/name:os.system", "'config' is no YAML"),
        (("class_table",), 3, "'class_table' is 3, not a list"),
        (("class_table", 1), "car", "entry 1 of its 'class_table' is no class with a name"),
        (("class_table", 1, "name"), 4, "entry 1 of its 'class_table' is no class"),
        (("class_table", 0, "isthing"), 2, "entry 0 of its 'class_table' does not say"),
        (("class_table", 0, "isthing"), 0.0, "entry 0 of its 'class_table' does not say"),
        (("class_table", 0, "color"), [1, 2], "entry 0 of its 'class_table' has the color"),
    ],
    ids=str,
)
def test_entry_of_the_wrong_kind_is_named(tmp_path, keys, value, message):
    saved, _ = saved_run(tmp_path)
    path = Path(saved.get_checkpoint_file())
    change(path, *keys, value=value)
    with pytest.raises(CheckpointError, match="damaged or forged") as caught:
        read_weights_file(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "The previous one is model_0000009.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("state",), [], "moments are a list"),
        (("state", "0"), {}, "of parameter '0', which there is not"),
        (("state", 99), {}, "of parameter 99"),
        (("state", 0), 1.0, "moments of parameter 0 are 1.0"),
        (("state", 0, "momentum_buffer"), "x", "'momentum_buffer' of parameter 0 is 'x'"),
        (("state", 0, "momentum_buffer"), torch.zeros(7), "'momentum_buffer' of parameter 0"),
        (("state", 0, "momentum_buffer"), NAN, "'momentum_buffer' of parameter 0 is nan"),
        (("param_groups",), None, "no list of groups"),
        (("param_groups", 0, "params"), 3, "no list of groups"),
        (("param_groups", 0, "lr"), "0.1", "'lr' of group 0 is '0.1', not as 0.1"),
        (("param_groups", 0, "lr"), NAN, "'lr' of group 0 is nan"),
        (("param_groups", 0, "nesterov"), [1], "'nesterov' of group 0 is a list"),
    ],
    ids=str,
)
def test_state_of_the_optimizer_that_does_not_fit_is_named(tmp_path, keys, value, message):
    """Momentum of another shape would be broadcast without a word."""
    saved, optimizer = saved_run(tmp_path)
    path = saved.get_checkpoint_file()
    change(Path(path), "optimizer", *keys, value=value)
    with pytest.raises(CheckpointError) as caught:
        checkpointer_of(TinyModel(), tmp_path, optimizer=optimizer).load(path)
    assert f"the optimizer of {path} is damaged or forged: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"base_lrs": [0.1, 0.2], "last_epoch": 4}, None),
        ({"base_lrs": [0.1, 2], "last_epoch": 4, "more": 1}, None),
        ({"base_lrs": [0.1, 0.2]}, "its state has no 'last_epoch'"),
        ({"base_lrs": [0.1], "last_epoch": 4}, "'base_lrs' of its state is a list, not 2 values"),
        (
            {"base_lrs": [0.1, "x"], "last_epoch": 4},
            "'base_lrs' of its state[1] is 'x', not as 0.2",
        ),
        ({"base_lrs": [0.1, 0.2], "last_epoch": 1.5}, "'last_epoch' of its state is 1.5, not as 3"),
        (7, "its state is 7, not a dict"),
    ],
    ids=str,
)
def test_state_of_a_schedule_is_compared_with_ours(state, message):
    class Schedule:
        def state_dict(self) -> dict:
            return {"base_lrs": [0.1, 0.2], "last_epoch": 3}

    assert state_problem(state, Schedule()) == message


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_states_of_our_optimizers_fit_themselves(make):
    model = TinyModel()
    optimizer = make(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert state_problem(optimizer.state_dict(), make(model.parameters(), lr=0.2)) is None


def test_a_file_that_may_not_be_read_and_one_too_big_are_named(tmp_path, monkeypatch):
    path = tmp_path / "model.pkl"
    path.touch()
    for error, message in ((PermissionError(13, "denied"), "denied"), (MemoryError(), "too big")):

        def fail(_, error=error):
            raise error

        monkeypatch.setattr(Path, "read_bytes", fail)
        with pytest.raises(CheckpointError, match=f"model.pkl .*{message}"):
            read_weights_file(path)
