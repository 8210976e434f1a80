"""The identity, whose backward pass scales the gradient to a given L1 norm.

Two losses at the same costs, the surrogate through the solver and the pre-training losses, have
gradients whose sizes tell nothing of their worth. The solver's is 1 / lambda per cell, whatever the
loss weighs. Each goes through its own copy of the costs, with its gradient brought to a norm that
is chosen:

    class_a, edge_a = scale_gradient((class_costs, edge_costs), norm=1.0)
    class_b, edge_b = scale_gradient((class_costs, edge_costs), norm=0.5)
    loss = surrogate(class_a, edge_a) + pretraining(class_b, edge_b)

The norm is taken over all tensors of a call, so class and edge costs keep their proportion. With
several processes it is taken over the tensors of all of them. A factor of the loss, as that of
mixed precision, would be undone: `cops.losses.loss_scale` carries it around this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cops.losses.processes import sum_over_processes


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, norm: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.norm = norm
        ctx.device = tensors[0].device
        ctx.set_materialize_grads(False)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # In float64: the sum of 10^7 float32 values loses digits. Read from the device once.
        norms = [g.abs().sum(dtype=torch.float64) for g in gradients if g is not None]
        own = torch.stack(norms).sum() if norms else torch.zeros((), dtype=torch.float64)
        total = float(sum_over_processes(own.to(ctx.device)))
        factor = ctx.norm / total if total > 0 else 0.0
        return None, *(None if g is None else g * factor for g in gradients)


def scale_gradient(tensors: Sequence[Tensor], norm: float) -> tuple[Tensor, ...]:
    """Pass tensors on unchanged; scale their gradients so that their joint L1 norm is `norm`.

    Args:
        tensors: one or more, of any shapes, on one device.
        norm: not negative. A gradient of all zeros stays so; one with inf becomes nan.

    Returns:
        The same values, to be used in place of `tensors` by one loss.

    Raises:
        ValueError: a negative norm.
    """
    if not norm >= 0:
        raise ValueError(f"an L1 norm cannot be {norm}")
    return _ScaleGradient.apply(float(norm), *tensors)
