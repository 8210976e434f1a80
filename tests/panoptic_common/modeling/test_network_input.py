"""Images of several sizes as one batch for a network, against values by hand."""

from __future__ import annotations

import pytest
import torch

from panoptic_common.modeling.network_input import normalised_batch

MEAN = torch.tensor([100.0, 50.0, 0.0]).view(3, 1, 1)
STD = torch.tensor([10.0, 1.0, 2.0]).view(3, 1, 1)


@pytest.mark.parametrize(("divisibility", "size"), [(0, (7, 8)), (1, (7, 8)), (4, (8, 8))])
def test_images_are_normalised_then_padded(divisibility: int, size: tuple[int, int]) -> None:
    """A pixel (120, 40, 6) becomes ((120 - 100) / 10, (40 - 50) / 1, (6 - 0) / 2) = (2, -10, 3)."""
    pixel = torch.tensor([120, 40, 6], dtype=torch.uint8).view(3, 1, 1)
    shapes = [(7, 5), (3, 8)]
    batch = normalised_batch(
        [{"image": pixel.expand(3, *shape)} for shape in shapes], MEAN, STD, divisibility
    )
    assert batch.tensor.shape == (2, 3, *size) and batch.tensor.dtype == torch.float32
    assert [tuple(shape) for shape in batch.image_sizes] == shapes
    for padded, (height, width) in zip(batch.tensor, shapes, strict=True):
        inside = padded[:, :height, :width]
        assert inside.flatten(1).T.unique(dim=0).tolist() == [[2.0, -10.0, 3.0]]
        assert padded.sum() == inside.sum()  # 0 elsewhere
        assert padded.count_nonzero() == inside.numel()


@pytest.mark.parametrize(
    ("shapes", "divisibility", "stride", "size"),
    [
        ([(16, 16)], 4, 16, (16, 20)),  # 2 cells of stride 16
        ([(3, 5)], 4, 16, (4, 20)),
        ([(17, 3)], 4, 16, (20, 4)),  # has 2 already
        ([(32, 1)], 32, 32, (32, 64)),
        ([(5, 5)], 0, 16, (5, 17)),
        ([(16, 16)], 4, None, (16, 16)),  # not in training
        ([(16, 16), (8, 8)], 4, 16, (16, 16)),  # 2 images are 2 values
    ],
)
def test_a_small_image_alone_gets_a_second_cell(shapes, divisibility, stride, size) -> None:
    inputs = [{"image": torch.full((3, *shape), 7, dtype=torch.uint8)} for shape in shapes]
    batch = normalised_batch(inputs, MEAN, STD, divisibility, stride)
    assert batch.tensor.shape == (len(shapes), 3, *size)
    assert [tuple(shape) for shape in batch.image_sizes] == shapes
    assert batch.tensor[..., shapes[0][1] :].count_nonzero() == 0
