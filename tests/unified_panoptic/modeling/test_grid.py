"""Pixels of the cells: what is compared there, and that the mean of all is the whole image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unified_panoptic.modeling.dynamic_potential import dynamic_potential, inside_boxes
from unified_panoptic.modeling.grid import CENTRE, STRIDE, LossPixel

EVERY = [LossPixel(row, column) for row in range(STRIDE) for column in range(STRIDE)]


@pytest.mark.parametrize(
    "length,expected",
    [
        (8, [2, 6]),
        (9, [2, 6, 8]),  # index 10 would lie outside: the last pixel
        (10, [2, 6, 9]),
        (11, [2, 6, 10]),
        (1, [0]),
    ],
)
def test_the_centre_is_the_pixel_next_to_it(length, expected):
    count = -(-length // 4)
    row = torch.arange(length)
    assert CENTRE.of_truth(row.expand(3, length), (1, count))[0].tolist() == expected
    assert CENTRE.of_truth(row[:, None].expand(length, 3), (count, 1))[:, 0].tolist() == expected


@pytest.mark.parametrize("pixel", EVERY)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 4)])
def test_maps_are_interpolated_as_in_the_enlarged_ones(pixel, size):
    maps = torch.rand(2, 3, *size, dtype=torch.float64)
    large = F.interpolate(maps, scale_factor=STRIDE, mode="bilinear", align_corners=False)
    found = pixel.of_maps(maps)
    assert found.shape == maps.shape
    assert torch.allclose(found, pixel.of_truth(large, size), atol=1e-12)


@pytest.mark.parametrize("pixel", EVERY)
@pytest.mark.parametrize("variant", ["B", "C"])
def test_the_potential_is_that_of_the_image_at_every_fourth_pixel(pixel, variant):
    """Masks are pasted there; nothing is interpolated but V."""
    torch.manual_seed(0)
    semantic = torch.rand(5, 6, 8, dtype=torch.float64).float()
    boxes = torch.tensor([[3.0, 2.5, 22.2, 19.0], [0.0, 0.0, 32.0, 24.0], [9.7, 8.1, 10.2, 30.0]])
    others = (torch.tensor([1, 3, 1]), torch.rand(3), torch.rand(3, 7, 7), (0, 2, 4), variant)
    large = F.interpolate(semantic[None], scale_factor=STRIDE, mode="bilinear")[0]
    whole = dynamic_potential(large, boxes, *others)
    found = dynamic_potential(pixel.of_maps(semantic), pixel.of_boxes(boxes / STRIDE), *others)
    assert torch.allclose(found, pixel.of_truth(whole, (6, 8)), atol=1e-5)
    cells = inside_boxes(pixel.of_boxes(boxes / STRIDE), 6, 8)
    assert torch.equal(cells, pixel.of_truth(inside_boxes(boxes, 24, 32), (6, 8)))


def test_the_mean_over_all_pixels_is_the_loss_of_the_image():
    logits = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    truth = torch.randint(5, (2, 24, 32))
    large = F.interpolate(logits, scale_factor=STRIDE, mode="bilinear", align_corners=False)
    losses = [F.cross_entropy(p.of_maps(logits), p.of_truth(truth, (6, 8))) for p in EVERY]
    assert torch.stack(losses).mean().item() == pytest.approx(F.cross_entropy(large, truth).item())


def test_pixels_are_drawn_from_all_and_repeat_with_the_seed():
    assert LossPixel.draw("centre") is CENTRE
    torch.manual_seed(3)
    drawn = [LossPixel.draw("random") for _ in range(300)]
    assert set(drawn) == set(EVERY)
    torch.manual_seed(3)
    assert [LossPixel.draw("random") for _ in range(300)] == drawn
