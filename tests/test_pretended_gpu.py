"""The pretended GPU itself: a mix of devices is an error there, and values are those of the CPU."""

from __future__ import annotations

import pytest
import torch
from pretended_gpu import pretended_gpu


def test_a_mix_of_devices_is_an_error_and_one_device_is_none():
    with pretended_gpu():
        there, here = torch.ones(2, device="cuda"), torch.ones(2)
        assert there.device.type == "cuda" and here.device.type == "cpu"
        with pytest.raises(RuntimeError, match="device"):
            there + here
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (there + here.to("cuda")).cpu().tolist() == [2.0, 2.0]


def test_gradients_come_back_to_the_device_of_their_tensor():
    with pretended_gpu():
        x = torch.tensor([3.0], device="cuda", requires_grad=True)
        (x * x).sum().backward()
        assert x.grad.device.type == "cuda" and x.grad.cpu().tolist() == [6.0]
