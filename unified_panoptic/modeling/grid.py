"""The grid at stride 4, and at which pixels of its cells the losses compare it with the truth.

A cell of the grid covers pixels 4 i .. 4 i + 3. Its centre lies between two of them, so the one
next to it is half a pixel off. A network that learns it at the centre has all borders half a pixel
off in the maps of images, which are enlarged bilinearly. Nor does it learn where within a cell a
border runs. The paper says nothing of this (3.4 forms P at stride 4 in training).

`LossPixel` is one of the 16 pixels of each cell, the same for all cells. Maps are interpolated
there, as enlarging them does, and boxes move by as much. With another pixel in each step the mean
is the loss at the size of the image, for a sixteenth of its cost.

Shapes: h, w the grid; H, W pixels; C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

STRIDE = 4  # of the grid
PIXELS = ("centre", "random")


@dataclass(frozen=True)
class LossPixel:
    """A pixel of each cell.

    Attributes:
        row: 0 to 3.
        column: 0 to 3.
        exact: maps are taken at the pixel; else at the centre of its cell, wherever it is.
    """

    row: int
    column: int
    exact: bool

    @classmethod
    def draw(cls, pixels: str) -> LossPixel:
        """Return the pixel of a training step.

        Args:
            pixels: one of `PIXELS`; "random" takes it of torch's generator on the CPU.
        """
        if pixels == "centre":
            return CENTRE
        row, column = torch.randint(STRIDE, (2,)).tolist()
        return cls(row, column, True)

    def of_truth(self, truth: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
        """Take this pixel of each cell, or the last one where the image ends before it.

        Args:
            truth: (..., H, W).
            size: (h, w) of the grid, at most (ceil(H / 4), ceil(W / 4)).

        Returns:
            (..., h, w).
        """
        rows = _indices(size[0], self.row, truth.shape[-2], truth.device)
        columns = _indices(size[1], self.column, truth.shape[-1], truth.device)
        return truth[..., rows[:, None], columns[None, :]]

    def of_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """Interpolate maps (..., h, w) there: every 4th value of the maps enlarged bilinearly."""
        if not self.exact:
            return maps
        return _shift(_shift(maps, self.row, -2), self.column, -1)

    def of_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """Move boxes (D, 4), XYXY in cells, so that centres of cells lie in them as pixels did."""
        if not self.exact:
            return boxes
        moves = [-_distance(self.column), -_distance(self.row)] * 2
        return boxes + boxes.new_tensor(moves)


CENTRE = LossPixel(2, 2, False)


def _indices(cells: int, pixel: int, length: int, device: torch.device) -> torch.Tensor:
    return (torch.arange(cells, device=device) * STRIDE + pixel).clamp(max=length - 1)


def _distance(pixel: int) -> float:
    """Return how far the centre of a pixel lies behind that of its cell, in cells."""
    return (pixel + 0.5) / STRIDE - 0.5


def _shift(maps: torch.Tensor, pixel: int, axis: int) -> torch.Tensor:
    """Interpolate between cells and their neighbours along an axis; edges stay as they are."""
    distance = _distance(pixel)
    length = maps.shape[axis]
    first, last = maps.narrow(axis, 0, 1), maps.narrow(axis, length - 1, 1)
    if distance > 0:
        neighbours = torch.cat([maps.narrow(axis, 1, length - 1), last], dim=axis)
    else:
        neighbours = torch.cat([first, maps.narrow(axis, 0, length - 1)], dim=axis)
    return maps.lerp(neighbours, abs(distance))
