"""The costs of a finer grid, to solve without downsampling (Abbas, Swoboda, NeurIPS 2021, A.7).

The network predicts at stride 4, or at 2. Its costs are interpolated here to a finer grid, where
outlines are finer and small objects have more cells. With f cells of the finer grid along the side
of a cell of stride 4:

* Class costs are interpolated between the centres of the cells.
* An edge of distance d links places 4 d pixels apart, so on the finer grid it has the distance f d.
  Its cost is interpolated between the middles of the edges.
* Edges of the distances f d alone fall into f x f grids that nothing links to one another. So there
  must be edges of distance 1 as well. No map was trained for them. A cut between two neighbours at
  stride 4 lies at one of the f places between them. If it has the probability p there, each
  place has p / f. In costs, where p = 1 / (1 + exp(c)), that is

      c' = log(f - 1 + f exp(c)).

  c' is never below log(f - 1): Neighbouring pixels only ever attract, strongly inside a segment and
  weakly where a boundary may be. It is the long edges that force the cut, which then falls where it
  is cheapest. Taking c itself would let a whole band of f pixels be cut to pieces at each boundary.
  Every one of its edges would want the cut that only one of them has.

The paper says of its own experiment only that it was made.

Shapes: h, w cells of the network's grid; h', w' cells of the finer one; K classes; D distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from cops.targets import GRID_STRIDE


class RefinedCosts(NamedTuple):
    """A problem on a finer grid.

    Attributes:
        class_costs: (K, h', w').
        edge_costs: (2 D', h', w'), laid out like the network's.
        distances: D' distances in cells of the finer grid, ascending if the network's are.
    """

    class_costs: torch.Tensor
    edge_costs: torch.Tensor
    distances: tuple[int, ...]


def refine_costs(
    class_costs: torch.Tensor,
    edge_costs: torch.Tensor,
    distances: Sequence[int],
    input_size: tuple[int, int],
    stride: int,
    grid_stride: int = GRID_STRIDE,
) -> RefinedCosts:
    """Interpolate costs to a finer grid.

    Args:
        class_costs: (K, h, w) at the network's stride.
        edge_costs: (2 D, h, w), after scale and offset: `log` above wants log odds.
        distances: D, in cells of the network's grid; 1 must be among them.
        input_size: (H_in, W_in) of the network's input, without padding; the finer grid ends there.
        stride: of the finer grid; divides the network's.
        grid_stride: of the network's grid.

    Returns:
        Costs of the finer grid, and its distances: 1 and f d for each d. Cells without an edge have
        edge cost 0. With the network's own stride nothing changes but the size, cut to the input.

    Raises:
        ValueError: a stride that does not divide the network's, or no distance 1.
    """
    if stride < 1 or grid_stride % stride:
        raise ValueError(f"stride is {stride}, which must divide the network's, {grid_stride}")
    height, width = class_costs.shape[1:]
    size = (math.ceil(input_size[0] / stride), math.ceil(input_size[1] / stride))
    factor = grid_stride // stride
    if size[0] > factor * height or size[1] > factor * width:
        raise ValueError(
            f"costs of {height} x {width} cells do not cover an input of {tuple(input_size)} pixels"
        )
    if factor == 1:
        crop = (..., slice(size[0]), slice(size[1]))
        return RefinedCosts(class_costs[crop], edge_costs[crop], tuple(distances))
    if 1 not in distances:
        raise ValueError(f"the distances {tuple(distances)} lack 1, without which no finer grid is")
    nearest = list(distances).index(1)
    neighbours = _spread_cut(edge_costs[2 * nearest : 2 * nearest + 2], factor)
    maps = [_edges(neighbours, 1, 1, size, factor)] + [
        _edges(edge_costs[2 * index : 2 * index + 2], d, factor * d, size, factor)
        for index, d in enumerate(distances)
    ]
    ends = [(0, height - 1), (0, width - 1)]
    rows, columns = (_centres(size[axis], factor).clamp(*ends[axis]) for axis in (0, 1))
    return RefinedCosts(
        _sample(class_costs, rows, columns),
        torch.cat(maps),
        (1, *(factor * d for d in distances)),
    )


def _edges(
    edge_costs: torch.Tensor, coarse: int, fine: int, size: tuple[int, int], factor: int
) -> torch.Tensor:
    """Interpolate the costs of the edges of one distance to the finer grid.

    Args:
        edge_costs: (2, h, w) of the edges they are taken from.
        coarse: distance of those, in cells of the network's grid.
        fine: distance of the wanted ones, in cells of the finer grid.
        size: (h', w').
        factor: f.

    Returns:
        (2, h', w'), 0 where a cell has no edge.
    """
    result = edge_costs.new_zeros(2, *size)
    for direction, axis in enumerate((1, 0)):  # horizontal edges run along the columns
        costs = edge_costs[direction]
        before, count = _before(coarse), costs.shape[axis] - coarse
        fine_before, fine_count = _before(fine), size[axis] - fine
        if count < 1 or fine_count < 1:
            continue  # the distance does not fit into a grid
        # The middle of each fine edge, in cells of the network's grid, and from there the index of
        # the coarse map. Its entry i has its middle at i - before + coarse / 2.
        places = [_centres(n, factor) for n in size]
        middles = torch.arange(fine_count) + fine / 2
        middles = (middles + 0.5) / factor - 0.5
        places[axis] = (middles + before - coarse / 2).clamp(before, before + count - 1)
        places[1 - axis] = places[1 - axis].clamp(0, costs.shape[1 - axis] - 1)
        block = _sample(costs[None], places[0], places[1])
        result[direction].narrow(axis, fine_before, fine_count).copy_(block[0])
    return result


def _before(distance: int) -> int:
    """Count the cells by which an edge begins before its entry in the map (Eq. 10, 11)."""
    return 0 if distance == 1 else math.ceil(distance / 2)


def _centres(cells: int, factor: int) -> torch.Tensor:
    """Centres of the finer cells, in the index of the coarse ones."""
    return (torch.arange(cells) + 0.5) / factor - 0.5


def _sample(maps: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of (C, h, w) at fractional rows and columns, all of them inside."""
    for axis, places in ((1, rows), (2, columns)):
        low = places.floor()
        weight = (places - low).to(maps)
        low = low.long().to(maps.device)
        high = (low + 1).clamp(max=maps.shape[axis] - 1)
        shape = (-1, 1) if axis == 1 else (-1,)
        first, second = maps.index_select(axis, low), maps.index_select(axis, high)
        maps = torch.lerp(first, second, weight.view(shape))
    return maps


def _spread_cut(costs: torch.Tensor, factor: int) -> torch.Tensor:
    """Costs of f edges in a row of which one is cut as often as the edge in their place was."""
    # log(f - 1 + f e^c), without overflow.
    return torch.logaddexp(costs + math.log(factor), costs.new_tensor(math.log(factor - 1)))
