"""From the network's logits to the costs that the solver pays (Abbas and Swoboda, NeurIPS 2021).

A class costs less the greater its logit is, and cutting an edge the less the more its logit is for
a cut:

    c_V = -(s logit + o)                  c_E = -(|s_d| logit + o_d)   for an edge of distance d

The paper does not mention s and o; the authors' networks have them, and learn them in fine-tuning.
They balance classes against edges, and edges of one distance against those of another. The offset o
adds the same to all classes of a cell, which shifts the energy and no solution. It counts only
beside costs that cost dropout has set to zero.

Shapes: N images; K classes; D distances; h, w cells at stride 4.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import nn


class CostScale(nn.Module):
    """The learned scales and offsets; they start at 1 and 0, so that costs are minus the logits.

    Args:
        num_distances: D.
    """

    @configurable
    def __init__(self, *, num_distances: int) -> None:
        super().__init__()
        self.num_distances = num_distances
        self.class_scale = nn.Parameter(torch.ones(1))
        self.class_offset = nn.Parameter(torch.zeros(1))
        self.edge_scale = nn.Parameter(torch.ones(num_distances))
        self.edge_offset = nn.Parameter(torch.zeros(num_distances))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read MODEL.COPS.DISTANCES."""
        return {"num_distances": len(cfg.MODEL.COPS.DISTANCES)}

    def class_costs(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn (N, K, h, w) class logits into class costs, in single precision at least."""
        return -(self.class_scale * _at_least_single(logits) + self.class_offset)

    def edge_costs(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn edge logits into the costs of cutting the edges.

        Args:
            logits: (N, 2 D, h, w) of `AffinityHead`.

        Returns:
            (N, 2 D, h, w), in single precision at least; positive: the ends want to stay together.

        Raises:
            ValueError: another number of maps.
        """
        if logits.shape[1] != 2 * self.num_distances:
            raise ValueError(
                f"{logits.shape[1]} maps of edge logits for {self.num_distances} distances: two "
                "per distance are needed"
            )
        logits = _at_least_single(logits)
        # Both directions of a distance share its numbers.
        scale = self.edge_scale.abs().repeat_interleave(2)[:, None, None]
        offset = self.edge_offset.repeat_interleave(2)[:, None, None]
        return -(scale * logits + offset)


def _at_least_single(x: torch.Tensor) -> torch.Tensor:
    """Widen half precision, in which costs tie; ties decide what a greedy solver contracts."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
