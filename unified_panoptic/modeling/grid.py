"""The grid at stride 4, and at which pixels of its cells the losses compare it with the truth.

A cell of the grid covers pixels 4 i .. 4 i + 3, and its centre lies between two of them. The truth
has no value there, so a pixel of each cell is compared. Maps are interpolated at that pixel, as
enlarging them does, and boxes move by as much. Compared with the cell's own value, the pixel next
to the centre would have all borders learnt half a pixel off.

`LossPixel` is one of the 16 pixels, the same for all cells. With another one in each step the mean
is the loss at the size of the image, for a sixteenth of its cost. The paper says nothing of this
(3.4 forms P at stride 4 in training).

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
    """

    row: int
    column: int

    @classmethod
    def draw(cls, pixels: str) -> LossPixel:
        """Return the pixel of a training step.

        Args:
            pixels: "centre" for the one next to the centre, the same in each step; or "random",
                which takes it of torch's generator on the CPU.
        """
        if pixels == "centre":
            return CENTRE
        row, column = torch.randint(STRIDE, (2,)).tolist()
        return cls(row, column)

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
        return _shift(_shift(maps, self.row, -2), self.column, -1)

    def of_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """Move boxes (D, 4), XYXY in cells: centres of cells lie in them if the pixels did."""
        moves = [-_distance(self.column), -_distance(self.row)] * 2
        return boxes + boxes.new_tensor(moves)


CENTRE = LossPixel(2, 2)


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
