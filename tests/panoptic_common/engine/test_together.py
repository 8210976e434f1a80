"""Parts of a batch, averages and early ends in two processes: all do the same, at one time."""

from __future__ import annotations

import pytest
import torch
from process_group import run_processes
from tiny_runs import assert_identical
from tiny_system import forget_tiny, register_tiny
from trained_together import every_run, stepped_weights

COUNT = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    register_tiny(folder)
    forget_tiny()
    return folder


@pytest.fixture(scope="module")
def runs(root) -> list[dict]:
    """What each of two processes found."""
    return run_processes(COUNT, root / "gloo", every_run, root)


def final_state(root, name: str) -> dict:
    return torch.load(root / name / "out/model_final.pth", weights_only=True)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_processes_and_parts_take_the_step_of_the_whole_batch(runs, parts):
    """A mean over 8 images is the mean over any equal shares of them: 1 x 1, 2 x 1, ... 2 x 4."""
    whole = stepped_weights(0, 1, 1)
    torch.testing.assert_close(stepped_weights(0, 1, 2 * parts), whole, rtol=0, atol=1e-12)
    for found in runs:
        torch.testing.assert_close(found["stepped"][parts], whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "parts", "early", "averaged"])
def test_all_processes_end_with_the_weights_that_are_saved(runs, root, name):
    weights = [found[name]["weights"] for found in runs]
    state = final_state(root, name)
    saved = state["average"]["weights"] if name == "averaged" else state["model"]
    for key, value in saved.items():
        if "running" in key:  # batch norm: of the main process
            assert torch.equal(weights[0][key], value)
        else:
            assert all(torch.equal(own[key], value) for own in weights), key


def test_the_average_is_the_same_everywhere(runs, root):
    first, second = (found["averaged"]["average"] for found in runs)
    keys = [key for key in first if "running" not in key]
    assert_identical({k: first[k] for k in keys}, {k: second[k] for k in keys})
    model = final_state(root, "averaged")["model"]
    assert_identical({k: first[k] for k in keys}, {k: model[k] for k in keys})


def test_all_processes_evaluate_what_is_saved(runs, root):
    """Also the statistics of batch norm, which each process takes from images of its own."""
    first, second = (found["averaged"]["measured"] for found in runs)
    assert len(first) == len(second) == 3  # after 5, 10 and 12 steps
    for own, other in zip(first, second, strict=True):
        assert_identical(own, other)
    assert_identical(first[-1], dict(final_state(root, "averaged")["model"]))


@pytest.mark.parametrize("late", range(COUNT))
def test_time_that_is_up_in_one_process_ends_all_after_one_step(runs, late):
    """Its clock shows 0 at the start, then 1, 2, ...: 5 is the first past 4.5, after step 5."""
    for found in runs:
        assert found["late"][late]["ended"]["iteration"] == 4
        assert found["late"][late]["files"] == ["model_0000003.pth", "model_0000004.pth"]


@pytest.mark.parametrize("late", range(COUNT))
def test_what_was_ended_in_time_goes_on_to_the_same_state(runs, root, late):
    plain, limited = final_state(root, "plain"), final_state(root, f"late{late}")
    for key in ("model", "optimizer", "scheduler"):
        assert_identical(plain[key], limited[key], key)
    for found in runs:
        assert found["late"][late]["resumed"]["iteration"] == found["plain"]["iteration"]


def test_a_metric_that_no_longer_rises_ends_all_after_one_step(runs, root):
    """PQ 30, 50, 40, 50: the best of iteration 1 is not beaten by iterations 2 and 3."""
    assert [found["early"]["iteration"] for found in runs] == [3, 3]
    assert final_state(root, "early")["iteration"] == 3
