"""Batch norm that looks at a batch without remembering it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from panoptic_common.modeling.batch_norm import keeping_statistics


@pytest.mark.parametrize("momentum", [0.1, None])
def test_outputs_stay_and_nothing_is_remembered(momentum):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=momentum)).train()
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(model)
    expected = other(images)
    before = copy.deepcopy(model.state_dict())
    with keeping_statistics(model):
        found = model(images)
    assert torch.equal(found, expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    # Afterwards it remembers as before.
    model(images)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_statistics_are_kept_after_an_error():
    model = nn.BatchNorm2d(2).train()
    with pytest.raises(RuntimeError, match="stop"), keeping_statistics(model):
        raise RuntimeError("stop")
    assert model.momentum == 0.1 and int(model.num_batches_tracked) == 0
