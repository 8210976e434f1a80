"""From a network's grid to the pixels of a result, in one step and without a shift.

A network sees an image resized to (H_in, W_in) and padded. It answers on a grid of cells of stride
x stride of its pixels. Cell i covers the pixels stride * i to stride * i + stride - 1. The grid may
reach beyond the input, whose sides need be no multiples of the stride. The result has a size of its
own. What belongs to a pixel of the result is found from its centre. Resizing the grid as a whole to
the size of the result would shift it by up to a cell, and resizing twice blurs.

Shapes: C channels; h, w cells of the grid; (H_in, W_in) pixels of the network's input without
padding; (H, W) pixels of the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from panoptic_common.runtime.resampling import cells_of_pixels, check_grid


def resample(
    maps: torch.Tensor,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    stride: int,
    rows: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Interpolate bilinearly between the centres of the cells.

    Args:
        maps: (C, h, w) values at the centres of the cells.
        input_size: (H_in, W_in).
        output_size: (H, W).
        stride: pixels of the input per cell.
        rows: first and last (exclusive) row of the result to make; None for all.

    Returns:
        (C, last - first, W) float32. Beyond the outermost centres the values stay what they are
        there.

    Raises:
        ValueError: the grid does not cover the input.
    """
    check_grid((maps.shape[-2], maps.shape[-1]), input_size, stride)
    first, last = rows if rows is not None else (0, output_size[0])
    y = torch.arange(first, last, device=maps.device, dtype=torch.float32) + 0.5
    x = torch.arange(output_size[1], device=maps.device, dtype=torch.float32) + 0.5
    # In grid_sample's unit, -1 and 1 are the outer edges of the grid.
    y = y * (input_size[0] / output_size[0]) * (2 / (stride * maps.shape[1])) - 1
    x = x * (input_size[1] / output_size[1]) * (2 / (stride * maps.shape[2])) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return F.grid_sample(
        maps.float()[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def resample_nearest(
    labels: torch.Tensor, input_size: tuple[int, int], output_size: tuple[int, int], stride: int
) -> torch.Tensor:
    """Take the value of the cell in which the centre of each pixel of the result lies.

    Args:
        labels: (h, w) values of the cells, of any dtype.
        input_size: (H_in, W_in).
        output_size: (H, W).
        stride: pixels of the input per cell.

    Returns:
        (H, W) of the same dtype.

    Raises:
        ValueError: the grid does not cover the input.
    """
    check_grid((labels.shape[0], labels.shape[1]), input_size, stride)
    rows, columns = (
        torch.from_numpy(cells_of_pixels(input_size[axis], output_size[axis], stride)).to(
            labels.device
        )
        for axis in (0, 1)
    )
    return labels[rows[:, None], columns[None, :]]
