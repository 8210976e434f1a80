"""Dropout of the solver's costs (A.2): a share of them is set to zero in training.

Unlike dropout of features the rest is not scaled up: a cost is a preference, and without its own a
cell follows its neighbours'.

Shapes: N images; K classes; D distances; h, w cells of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def drop_costs(
    class_costs: Tensor, edge_costs: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Set a share of the costs to zero; no gradient reaches these.

    Args:
        class_costs: (N, K, h, w); a cell loses the costs of all classes.
        edge_costs: (N, 2 D, h, w); single edges.
        share: in 0..1, the chance of each cell and of each edge.
        generator: on the CPU, so that a seed means the same on every device.

    Returns:
        Both, with zeros.

    Raises:
        ValueError: a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: give a share of the costs in 0..1")
    if share == 0:
        return class_costs, edge_costs
    num, _, height, width = class_costs.shape
    cells = torch.rand((num, 1, height, width), generator=generator) < share
    edges = torch.rand(tuple(edge_costs.shape), generator=generator) < share
    return (
        class_costs.masked_fill(cells.to(class_costs.device), 0.0),
        edge_costs.masked_fill(edges.to(edge_costs.device), 0.0),
    )
