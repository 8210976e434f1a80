"""The pretended GPU itself: a mix of devices is an error there, and values are those of the CPU."""

from __future__ import annotations

from panoptic_common.compat.devices import require_device

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


def test_libraries_are_told_of_one_gpu_that_has_no_driver():
    with pretended_gpu():
        require_device("cuda")
        torch.cuda.synchronize()
        with pytest.raises(ValueError, match="torch sees 1 GPU"):
            require_device("cuda:1")
        weight = torch.nn.Parameter(torch.ones(1, device="cuda"))
        weight.sum().backward()
        torch.optim.AdamW([weight], lr=0.5, weight_decay=0.0).step()  # by its gradient's sign
        assert weight.tolist() == pytest.approx([0.5])
