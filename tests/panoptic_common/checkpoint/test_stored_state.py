"""A state of an optimizer or schedule that does not fit is refused by the entry's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_factory import TinyModel, change_entry, checkpointer_of, saved_run

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.checkpoint.stored_state import state_problem

NAN = float("nan")


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
        (("param_groups", 0, "params"), [0] * 8, "'params' of group 0 are not those"),
        (
            ("param_groups", 0, "params"),
            [*range(8)][::-1],
            "'params' of group 0 are not those",
        ),
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
    change_entry(Path(path), "optimizer", *keys, value=value)
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


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("step", lambda t: t - 9),
        ("step", lambda t: t.expand(3)),
        ("exp_avg", lambda t: t.long()),
        ("exp_avg", lambda t: t.to(torch.complex64)),
        ("exp_avg", lambda t: t.to_sparse()),
        ("exp_avg", lambda t: t.sum()),
        ("exp_avg_sq", lambda t: -1 - t),
    ],
)
def test_a_moment_with_which_adam_cannot_go_on_is_named(name, change):
    """The root of a mean below 0 is NaN; a single number would be taken for all of a weight."""
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    entries = next(v for k, v in state["state"].items() if v["exp_avg"].numel() > 1)
    entries[name] = change(entries[name])
    assert f"'{name}' of parameter" in (state_problem(state, optimizer) or "")


def test_a_moment_that_only_one_parameter_lacks_is_named():
    """Adam would fail in its first step by a KeyError; a parameter without any is a frozen one."""
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    del state["state"][1]
    assert state_problem(state, optimizer) is None
    del state["state"][0]["exp_avg"]
    assert state_problem(state, optimizer) == "it holds no 'exp_avg' of parameter 0, but of others"


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_states_of_our_optimizers_fit_themselves(make):
    model = TinyModel()
    optimizer = make(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert state_problem(optimizer.state_dict(), make(model.parameters(), lr=0.2)) is None
