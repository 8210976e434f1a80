"""Channels-last order where convolutions are faster so, and the old order elsewhere."""

from panoptic_common.compat.layout import lay_out

import torch
from torch import nn


def is_channels_last(model: nn.Module) -> bool:
    return model.weight.is_contiguous(memory_format=torch.channels_last)


def test_only_bfloat16_on_a_cpu_changes_the_order():
    for dtype, expected in ((torch.bfloat16, True), (torch.float32, False)):
        model = nn.Conv2d(3, 4, 3)
        weight = model.weight
        values = weight.detach().clone()
        assert lay_out(model, dtype) is model
        assert is_channels_last(model) is expected
        # An optimizer that was made before still holds the parameter.
        assert model.weight is weight and weight.equal(values)


def test_another_device_keeps_its_order():
    assert not is_channels_last(lay_out(nn.Conv2d(3, 4, 3, device="meta"), torch.bfloat16))
