"""From grid to result: aligned to the pixel, in strips as at once."""

from __future__ import annotations

import pytest
import torch

from panoptic_common.modeling.resampling import resample, resample_nearest
from panoptic_common.runtime.resampling import cells_of_pixels


def test_bilinear_follows_the_centres_of_the_cells():
    """Cells of 4 with centres 2, 6, 10, ...; the result has half the input's size."""
    ramp = (4.0 * torch.arange(5) + 2).expand(1, 3, 5)
    found = resample(ramp, (10, 18), (5, 9), 4)
    expected = (2.0 * torch.arange(9) + 1).clamp(2, 18)
    torch.testing.assert_close(found, expected.expand(1, 5, 9))
    strips = [resample(ramp, (10, 18), (5, 9), 4, rows) for rows in ((0, 2), (2, 5))]
    torch.testing.assert_close(torch.cat(strips, dim=1), found)


def test_nearest_is_the_cell_of_the_centre():
    labels = torch.arange(6).reshape(2, 3)
    assert resample_nearest(labels, (3, 5), (3, 5), 2).tolist() == [
        [0, 0, 1, 1, 2],
        [0, 0, 1, 1, 2],
        [3, 3, 4, 4, 5],
    ]
    # 5 input pixels on 3: centres 0.83, 2.5 and 4.17, in the cells 0, 1, 2 of 2 pixels.
    assert cells_of_pixels(5, 3, 2).tolist() == [0, 1, 2]
    assert cells_of_pixels(7, 70000, 1)[-1] == 6


def test_a_grid_that_is_too_small_is_refused():
    for function, maps in ((resample, torch.zeros(1, 2, 2)), (resample_nearest, torch.zeros(2, 2))):
        with pytest.raises(ValueError, match="2 x 2 cells of 4 pixels .* input of 8 x 9"):
            function(maps, (8, 9), (8, 9), 4)
