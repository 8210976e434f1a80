"""Deformable convolution of size 3x3 (Dai et al., ICCV 2017), with a form of its own for CPUs.

Tap k of the result at cell p reads the input at p + r_k + o_k. Here r_k is one of the nine steps
of a plain convolution and o_k a learnt offset. Between cells the input is interpolated linearly in
both directions; outside the image it is 0.

torchvision's operator collects what the taps read channel by channel. On a CPU each of these reads
is a step far through memory. Here the channels of a cell lie side by side. A tap is then a weighted
sum of four rows of a table, as `embedding_bag` forms it. The product with the weights follows at
once, while the rows are still in the cache.

Shapes: N images; C_in, C_out channels; h, w cells; P = N h w places, each with 9 taps.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import deform_conv2d

TAPS = 9
# With 256 channels a place takes 9 kB. Without gradients 256 places, 2.4 MB, stay in the cache of
# most CPUs. With gradients each block costs a map of the input's size, so the blocks are larger.
PLACES_AT_A_TIME = 256
PLACES_AT_A_TIME_WITH_GRADIENTS = 4096


class DeformableConv3x3(nn.Module):
    """A 3x3 convolution at learnt positions; on a GPU by torchvision's operator.

    The offsets start at zero, so training starts from a plain convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__()
        self.offset = nn.Conv2d(in_channels, 2 * TAPS, 3, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve: (N, C_in, h, w) -> (N, C_out, h, w)."""
        offset = self.offset(x)
        # A graph has a node for the operator, but none for blocks.
        if x.device.type == "cpu" and not torch.onnx.is_in_onnx_export():
            return deformable_by_rows(x, offset, self.weight, self.bias)
        # The operator takes no mixed types. Positions want single precision anyway: bfloat16 knows
        # only every second cell beyond 256.
        dtype = self.weight.dtype
        with torch.autocast(x.device.type, enabled=False):
            return deform_conv2d(x.to(dtype), offset.to(dtype), self.weight, self.bias, padding=1)


def deformable_by_rows(
    x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Compute torchvision's ``deform_conv2d(x, offset, weight, bias, padding=1)`` in plain torch.

    Positions and interpolation have at least single precision. The product has autocast's where
    that is on, else that of `weight`. Memory beyond input and result is one block of places, also
    for the backward pass, which forms the blocks again.

    Args:
        x: (N, C_in, h, w); fastest in channels-last order, else it is copied once.
        offset: (N, 18, h, w), (y, x) for each tap in raster order, in cells.
        weight: (C_out, C_in, 3, 3).
        bias: (C_out,) or None.

    Returns:
        (N, C_out, h, w) in channels-last order, of the type of the product.
    """
    kind = x.device.type
    reduced = torch.is_autocast_enabled(kind)
    product_dtype = torch.get_autocast_dtype(kind) if reduced else weight.dtype
    table_dtype = torch.promote_types(weight.dtype, torch.float32)
    batch, channels, height, width = x.shape
    with torch.autocast(kind, enabled=False):
        cells, shares = _reads(offset.to(table_dtype))
        # Contiguous, or every block would copy the whole table anew.
        table = x.to(table_dtype).permute(0, 2, 3, 1).contiguous().view(-1, channels)
        matrix = weight.permute(2, 3, 1, 0).flatten(0, 2).to(product_dtype)
        added = None if bias is None else bias.to(product_dtype)
        with_gradients = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (x, offset, weight)
        )
        if with_gradients and not table.requires_grad and not _shares_alone_can_learn():
            table = table.detach().requires_grad_()  # its gradient goes nowhere
        blocks = _blocks(cells, shares, with_gradients)
        if with_gradients:
            parts = [
                checkpoint(
                    *(_convolve, table, *block, matrix, added),
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                for block in blocks
            ]
        else:
            parts = [_convolve(table, *block, matrix, added) for block in blocks]
        result = torch.cat(parts)
    return result.view(batch, height, width, -1).permute(0, 3, 1, 2)


@functools.cache
def _shares_alone_can_learn() -> bool:
    """Tell whether `embedding_bag` takes a table that needs no gradient; torch 2.4 does not."""
    shares = torch.ones(1, 1, requires_grad=True)
    cell = torch.zeros(1, 1, dtype=torch.int64)
    try:
        F.embedding_bag(cell, torch.ones(1, 1), mode="sum", per_sample_weights=shares)
    except RuntimeError:
        return False
    return True


def _blocks(
    cells: torch.Tensor, shares: torch.Tensor, with_gradients: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    places = PLACES_AT_A_TIME_WITH_GRADIENTS if with_gradients else PLACES_AT_A_TIME
    return list(zip(cells.split(places * TAPS), shares.split(places * TAPS), strict=True))


def _convolve(
    table: torch.Tensor,
    cells: torch.Tensor,
    shares: torch.Tensor,
    matrix: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Read and multiply one block of p places: (9 p, 4) cells and shares -> (p, C_out)."""
    read = F.embedding_bag(cells, table, mode="sum", per_sample_weights=shares)
    columns = read.view(-1, len(matrix)).to(matrix.dtype)
    return columns @ matrix if bias is None else torch.addmm(bias, columns, matrix)


def _reads(offset: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell which cells each tap reads, and how much of each.

    A position (y, x) lies among the four cells of rows floor(y), floor(y) + 1 and columns
    floor(x), floor(x) + 1. With v = y - floor(y), u = x - floor(x) their shares are
    (1 - v)(1 - u), (1 - v) u, v (1 - u) and v u. For example, (2.25, 7.5) takes 0.375 of cells
    (2, 7) and (2, 8) and 0.125 of (3, 7) and (3, 8). A cell outside the image has share 0, and
    the nearest one inside is named for it.

    Args:
        offset: (N, 18, h, w).

    Returns:
        (9 P, 4) int64 rows of the table of all images' cells, and (9 P, 4) shares.
    """
    batch, _, height, width = offset.shape
    # (N, 18, h, w) -> two of (N, h, w, 9): the taps of a place side by side.
    moves_y, moves_x = offset.unflatten(1, (TAPS, 2)).permute(2, 0, 3, 4, 1).unbind(0)
    steps = torch.arange(-1, 2, device=offset.device)
    rows = torch.arange(height, device=offset.device)[:, None, None] + steps.repeat_interleave(3)
    columns = torch.arange(width, device=offset.device)[:, None] + steps.repeat(3)
    row_cells, row_shares = _neighbours(moves_y + rows, height)
    column_cells, column_shares = _neighbours(moves_x + columns, width)
    image = torch.arange(batch, device=offset.device)[:, None, None, None] * (height * width)
    pairs = [(row, column) for row in (0, 1) for column in (0, 1)]
    cells = [image + row_cells[row] * width + column_cells[column] for row, column in pairs]
    shares = [row_shares[row] * column_shares[column] for row, column in pairs]
    return torch.stack(cells, -1).view(-1, 4), torch.stack(shares, -1).view(-1, 4)


def _neighbours(
    positions: torch.Tensor, length: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return the indices of the cells before and after each position, and their shares.

    Args:
        positions: in cells along one axis; cell i is at i.
        length: cells of the axis.
    """
    # Beyond these ends nothing is read; without them a huge offset would overflow the index.
    positions = positions.clamp(-2, length + 1)
    floor = positions.detach().floor()
    # A position that is not a number keeps its share so, but must name some cell.
    before = torch.nan_to_num(floor).long()
    after_share = positions - floor
    shares = (
        (1 - after_share) * ((before >= 0) & (before < length)),
        after_share * ((before >= -1) & (before < length - 1)),
    )
    return (before.clamp(0, length - 1), (before + 1).clamp(0, length - 1)), shares
