"""Resampling in numpy: torch's as the twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from panoptic_common.modeling import resampling as by_torch
from panoptic_common.runtime import resampling

CASES = [
    ((64, 96), (64, 96), 4),
    ((61, 94), (33, 200), 4),
    ((8, 5), (31, 1), 2),
    ((1, 1), (3, 2), 4),
]


@pytest.mark.parametrize(("input_size", "output_size", "stride"), CASES)
def test_bilinear(input_size, output_size, stride):
    torch.manual_seed(0)
    grid = [-(-side // stride) + 1 for side in input_size]  # a cell more, as padding makes
    maps = torch.randn(3, *grid)
    expected = by_torch.resample(maps, input_size, output_size, stride)
    found = resampling.resample(maps.numpy(), input_size, output_size, stride)
    assert found.dtype == np.float32
    # torch rounds a position to 2^-24 of the grid, 6e-6 cells of 94; values differ by 4 per cell.
    np.testing.assert_allclose(found, expected.numpy(), atol=4e-5)
    last = output_size[0]
    strip = resampling.resample(maps.numpy(), input_size, output_size, stride, (last // 2, last))
    np.testing.assert_allclose(strip, found[:, last // 2 :], atol=1e-6)


@pytest.mark.parametrize(("input_size", "output_size", "stride"), CASES)
def test_nearest(input_size, output_size, stride):
    grid = [-(-side // stride) for side in input_size]
    labels = torch.arange(grid[0] * grid[1]).reshape(*grid)
    expected = by_torch.resample_nearest(labels, input_size, output_size, stride)
    found = resampling.resample_nearest(labels.numpy(), input_size, output_size, stride)
    np.testing.assert_array_equal(found, expected.numpy())


def test_a_grid_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="does not cover an input of 9 x 8"):
        resampling.resample(np.zeros((1, 2, 2), np.float32), (9, 8), (9, 8), 4)
