"""Channels-last order where convolutions are faster so, and the old order elsewhere."""

from panoptic_common.compat.layout import lay_out

import torch
from torch import nn


def is_channels_last(model: nn.Module) -> bool:
    return model.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_cpu_has_channels_last():
    model = nn.Conv2d(3, 4, 3)
    weight = model.weight
    values = weight.detach().clone()
    assert lay_out(model) is model
    assert is_channels_last(model)
    # An optimizer that was made before still holds the parameter.
    assert model.weight is weight and weight.equal(values)


def test_another_device_keeps_its_order():
    assert not is_channels_last(lay_out(nn.Conv2d(3, 4, 3, device="meta")))
