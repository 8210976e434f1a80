"""Sums over all processes of a training, so that a ratio of sums does not depend on their number.

Panoptic quality is a ratio of sums over a batch. Taken per process, it is the ratio of a smaller
batch: the mean of the ratios of two halves is another function, with another gradient. So each
process computes the quality of the whole batch, from sums to which all have added theirs.

The gradient of such a loss at what *this* process has added is the one that a single process would
have. It needs no communication: `sum_over_processes` passes it on unchanged. A sum whose gradient
is summed over the processes as well (they all have the same loss) would be too large by their
number.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def num_processes() -> int:
    """Return how many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def sum_over_processes(values: Tensor) -> Tensor:
    """Add up a tensor over all processes; the gradient goes on to this process's own part.

    All processes have to call it, in the same order, with tensors of one shape and type.

    Args:
        values: any shape; what this process adds.

    Returns:
        The sum, on every process; with one process `values` itself.
    """
    return values if num_processes() == 1 else _SumOverProcesses.apply(values)
