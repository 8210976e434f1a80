"""From a network's grid to the pixels of a result, without torch; see `modeling.resampling`.

Shapes: C channels; h, w cells of the grid; (H_in, W_in) pixels of the network's input without
padding; (H, W) pixels of the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def resample(
    maps: FloatArray,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    stride: int,
    rows: tuple[int, int] | None = None,
) -> FloatArray:
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
    check_grid((maps.shape[1], maps.shape[2]), input_size, stride)
    first, last = rows if rows is not None else (0, output_size[0])
    y = _positions(np.arange(first, last), input_size[0] / output_size[0] / stride, maps.shape[1])
    x = _positions(
        np.arange(output_size[1]), input_size[1] / output_size[1] / stride, maps.shape[2]
    )
    # Only the rows that are read are widened; a strip of the result reads few.
    above, below = int(y[0]), min(int(y[-1]) + 2, maps.shape[1])
    wide = _interpolate(maps[:, above:below], x, axis=2)
    return _interpolate(wide, y - np.float32(above), axis=1)


def _positions(pixels: npt.NDArray[Any], factor: float, cells: int) -> FloatArray:
    """Find the centres of pixels, in cells of the grid whose centres are at whole numbers."""
    return ((pixels + 0.5) * factor - 0.5).clip(0, cells - 1).astype(np.float32)


def _interpolate(maps: FloatArray, positions: FloatArray, axis: int) -> FloatArray:
    before = positions.astype(np.intp)
    after = np.minimum(before + 1, maps.shape[axis] - 1)
    share = positions - before.astype(np.float32)
    share = share[:, None] if axis == 1 else share
    result = np.take(maps, after, axis=axis)
    low = np.take(maps, before, axis=axis)
    result -= low
    result *= share
    result += low
    return result


def resample_nearest(
    labels: npt.NDArray[Any], input_size: tuple[int, int], output_size: tuple[int, int], stride: int
) -> npt.NDArray[Any]:
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
        cells_of_pixels(input_size[axis], output_size[axis], stride) for axis in (0, 1)
    )
    return labels[rows[:, None], columns[None, :]]


def cells_of_pixels(input_length: int, output_length: int, stride: int) -> npt.NDArray[np.int64]:
    """Find, along one axis, the cell in which the centre of each pixel of the result lies.

    Exact, in whole numbers: pixel i has its centre at (i + 1/2) L_in / L_out in the input. That is
    cell floor((2 i + 1) L_in / (2 L_out stride)).

    Returns:
        (L_out,) int64.
    """
    doubled = 2 * np.arange(output_length, dtype=np.int64) + 1
    return doubled * input_length // (2 * output_length * stride)


def check_grid(grid_size: tuple[int, int], input_size: tuple[int, int], stride: int) -> None:
    """Refuse a grid that ends before the input does.

    Raises:
        ValueError: giving both sizes.
    """
    if any(cells * stride < pixels for cells, pixels in zip(grid_size, input_size, strict=True)):
        raise ValueError(
            f"a grid of {grid_size[0]} x {grid_size[1]} cells of {stride} pixels does not cover an "
            f"input of {input_size[0]} x {input_size[1]} pixels (height x width)"
        )
