"""The identity with a scaled gradient: values, norms, and what stays zero."""

from __future__ import annotations

import pytest
import torch

from cops.losses.gradient_scale import scale_gradient


def leaves():
    return torch.tensor([1.0, -2.0], requires_grad=True), torch.ones(2, 2, requires_grad=True)


def test_values_pass_and_the_joint_norm_is_as_asked():
    a, b = leaves()
    x, y = scale_gradient((a, b), norm=3.0)
    assert torch.equal(x, a) and torch.equal(y, b)
    (5 * x.sum() - y[0].sum()).backward()
    # |5| + |5| + |-1| + |-1| = 12, so the factor is 1/4.
    assert a.grad.tolist() == [1.25, 1.25]
    assert b.grad.tolist() == [[-0.25, -0.25], [0.0, 0.0]]


def test_two_copies_of_the_costs_keep_their_own_norms():
    a, _ = leaves()
    (first,) = scale_gradient((a,), norm=1.0)
    (second,) = scale_gradient((a,), norm=0.5)
    (1000 * first[0] + 1e-3 * second[1]).backward()
    assert a.grad.tolist() == [1.0, 0.5]


def test_zero_stays_zero_and_unused_is_not_invented():
    a, b = leaves()
    x, _ = scale_gradient((a, b), norm=1.0)
    (0 * x.sum()).backward()
    assert a.grad.tolist() == [0.0, 0.0] and b.grad is None


def test_norm_zero_switches_a_loss_off():
    a, _ = leaves()
    scale_gradient((a,), norm=0.0)[0].sum().backward()
    assert a.grad.tolist() == [0.0, 0.0]


def test_a_negative_norm_is_refused():
    with pytest.raises(ValueError, match="-1"):
        scale_gradient(leaves(), norm=-1.0)


def test_no_second_derivative():
    a, _ = leaves()
    (x,) = scale_gradient((a,), norm=1.0)
    (gradient,) = torch.autograd.grad((x**2).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
