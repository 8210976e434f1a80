"""Keep whatever multiplies the loss away from the solver, and give it back behind.

A solver's backward pass is not linear in the gradient that comes in: it perturbs the costs by
lambda times that gradient (Abbas, Swoboda, NeurIPS 2021, Eq. 3). Mixed precision multiplies the
loss by up to 65536 and expects gradients that are as many times larger. Through the solver it would
get those of a perturbation that is 65536 times as strong, and they would not be larger at all. So

    scale = LossScale()
    costs = scale.enter(costs)              # backward: times the factor
    loss = scale.leave(loss_of(solve(costs)))   # backward: remembers the factor, passes on 1

makes the gradient linear in a factor of the loss: loss scales, and the division by the number of
accumulated batches. The loss's own weight stands inside and does perturb (A.2).

With several processes, or parts of a batch, it also multiplies by their number. The loss is that of
the whole batch (`cops.losses.batch_sums`), so gradients must be added up over the shares. But
DistributedDataParallel takes their mean, and so does `SOLVER.ACCUMULATE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cops.losses.batch_sums import num_shares


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: LossScale, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        factor = ctx.scale.factor
        if factor is None:
            raise RuntimeError("no loss left this scale: call `leave` with what is trained")
        factor = factor * ctx.scale.shares
        return None, *(None if g is None else g * factor.to(g.dtype) for g in gradients)


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: LossScale, loss: Tensor) -> Tensor:
        ctx.scale = scale
        return loss.view_as(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        ctx.scale.factor = gradient
        return None, torch.ones_like(gradient)


class LossScale:
    """A pair of identities around what must not see a factor of the loss.

    Several losses may leave it if they are multiplied by the same factor, as the sum of all losses
    is. One object serves one forward and backward pass.

    Attributes:
        factor: of the loss, a scalar; known once the backward pass has come to the loss.
        shares: how many gradients the trainer takes the mean of.
    """

    def __init__(self) -> None:
        """Begin without a factor, in the part of a batch that is being computed."""
        self.factor: Tensor | None = None
        self.shares = num_shares()

    def enter(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the same values; their gradients are multiplied by the factor."""
        return _Enter.apply(self, *tensors)

    def leave(self, loss: Tensor) -> Tensor:
        """Return the same scalar loss; its gradient, the factor, is kept and replaced by 1."""
        return _Leave.apply(self, loss)
