"""The losses through the solver, and their gradients, do not depend on the number of processes."""

from __future__ import annotations

import pytest
import torch
from process_group import run_processes
from split_batches import (
    scaled_of_share,
    separate_of_share,
    surrogate_of_share,
    trained_share,
)

from cops.losses.processes import num_processes, sum_over_processes


def test_alone_nothing_is_communicated():
    values = torch.ones(2, requires_grad=True)
    assert num_processes() == 1 and sum_over_processes(values) is values


def everything(rank: int, count: int) -> dict:
    """All of it in one start of the processes."""
    return {
        "authors": surrogate_of_share(rank, count, "authors"),
        "literal": surrogate_of_share(rank, count, "literal"),
        "expected": surrogate_of_share(rank, count, "expected"),
        "separate": separate_of_share(rank, count),
        "scaled": scaled_of_share(rank, count),
        "trained": trained_share(rank, count),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, list[dict]]:
    """What each process finds, by the number of processes."""
    folder = tmp_path_factory.mktemp("gloo")
    return {count: run_processes(count, folder / str(count), everything) for count in (1, 2, 4)}


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("loss", ["authors", "literal", "expected", "separate"])
def test_loss_and_gradient_are_those_of_one_process(results, loss, count):
    (value, gradient) = results[1][0][loss]
    shares = [result[loss] for result in results[count]]
    for own_value, _ in shares:
        assert own_value == pytest.approx(value, abs=1e-12)
    if loss == "separate":  # images of x, then of y, of each process
        half = len(gradient) // 2
        each = half // count
        parts = [own[:each] for _, own in shares] + [own[each:] for _, own in shares]
    else:
        parts = [own for _, own in shares]
    together = [image for part in parts for image in part]
    assert len(together) == len(gradient) and max(g.abs().max() for g in gradient) > 1e-4
    for own, expected in zip(together, gradient, strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def test_a_norm_of_gradients_is_that_of_all_processes(results):
    # 1 + 2 + 3 + 6 = 12. Two processes multiply by 2, so that the mean of DDP becomes a sum.
    expected = torch.tensor([1.0, -2.0, 3.0, 6.0], dtype=torch.float64) / 12
    for count, found in results.items():
        together = torch.cat([result["scaled"][0] for result in found]) / count
        torch.testing.assert_close(together, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("count", [2, 4])
def test_a_network_under_ddp_gets_the_gradient_of_one_process(results, count):
    value, gradients = results[1][0]["trained"]
    norm = sum(float(g.double().square().sum()) for g in gradients.values()) ** 0.5
    assert norm > 0
    for own_value, own in (result["trained"] for result in results[count]):
        assert own_value == pytest.approx(value, rel=1e-5) and own.keys() == gradients.keys()
        error = sum(float((own[name] - g).double().square().sum()) for name, g in gradients.items())
        assert error**0.5 < 1e-4 * norm
