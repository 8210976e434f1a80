"""Steps of a network along a loss's gradient, and what they do to panoptic quality.

A step is the first one of Adam from the mean over some batches. Each weight moves by the rate times
m / sqrt(v): m is the mean of its gradients over the batches, v the mean of their squares. That is
at most the rate, and the less the less the batches agree. So a rate here is a rate of training.

Shapes: N images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from cops.losses.panoptic_quality import true_statistics
from panoptic_common.coco.quality import PanopticStatistics
from panoptic_common.data.train_loader import scoped_seed

Batch = list[dict]
Loss = Callable[[nn.Module, Batch], Tensor]
Step = list[Tensor]  # one per trained parameter, its shape


class Standing(NamedTuple):
    """How good a network is on some batches.

    Attributes:
        quality: PQ of all classes on the grid, in 0..100.
        things: that of things.
        surrogate: mean of the smooth quality (Eq. 6) of the batches, in 0..100.
        pretraining: mean of the pre-training losses.
    """

    quality: float
    things: float
    surrogate: float
    pretraining: float

    def change(self, other: Standing) -> Standing:
        """Return what `other` has more."""
        return Standing(*(theirs - own for own, theirs in zip(self, other, strict=True)))


def solver_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss through the solver of a batch, as training computes it."""
    maps = model.predict_maps(model.preprocess(batch).tensor)
    truths = [x["cops_target"] for x in batch]
    losses = model.solver_training(maps.class_costs, maps.edge_costs, truths)
    return torch.stack(list(losses.values())).sum()


def pretraining_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the sum of the pre-training losses of a batch."""
    maps = model.predict_maps(model.preprocess(batch).tensor)
    truths = [x["cops_target"] for x in batch]
    losses = model.pretraining(maps.class_logits, maps.edge_logits, truths, batch)
    return torch.stack(list(losses.values())).sum()


LOSSES: dict[str, Loss] = {"through the solver": solver_loss, "pre-training": pretraining_loss}
RANDOM = "random"


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, in the model's order."""
    return [p for p in model.parameters() if p.requires_grad]


def _moments(
    model: nn.Module, batches: Sequence[Batch], loss: Loss, seed: int
) -> tuple[Step, Step]:
    """Return the mean of the gradients of some batches, and that of their squares.

    Args:
        model: in training mode; unchanged.
        batches: as `model` takes them.
        loss: of the model and a batch.
        seed: of what the loss draws, such as the interpolation ranges of Algorithm 1.
    """
    parameters = trained(model)
    means = [torch.zeros_like(p) for p in parameters]
    squares = [torch.zeros_like(p) for p in parameters]
    with EventStorage(), scoped_seed(seed):
        for batch in batches:
            gradients = torch.autograd.grad(loss(model, batch), parameters, allow_unused=True)
            for mean, square, gradient in zip(means, squares, gradients, strict=True):
                if gradient is not None:
                    mean += gradient / len(batches)
                    square += gradient.square() / len(batches)
    return means, squares


def adam_step(model: nn.Module, batches: Sequence[Batch], loss: Loss, seed: int) -> Step:
    """Return the step of rate 1 that lowers the mean of a loss over some batches.

    Args:
        model: in training mode; unchanged.
        batches: as `model` takes them.
        loss: of the model and a batch.
        seed: of what the loss draws.
    """
    means, squares = _moments(model, batches, loss, seed)
    # A weight without a gradient does not move.
    return [-m / s.sqrt().clamp(min=1e-30) for m, s in zip(means, squares, strict=True)]


def agreement(
    model: nn.Module, first: Sequence[Batch], second: Sequence[Batch], loss: Loss, seed: int
) -> float:
    """Return the cosine between the mean gradients of two sets of batches.

    Near 1 the sets agree where to go. Near 0 a step for the one means nothing for the other.

    Args:
        model: in training mode; unchanged.
        first: batches, as `model` takes them.
        second: others.
        loss: of the model and a batch.
        seed: of what the loss draws.
    """
    flat = [
        torch.cat([mean.flatten() for mean in _moments(model, batches, loss, seed)[0]])
        for batches in (first, second)
    ]
    return float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))


def said_slopes(model: nn.Module, batches: Sequence[Batch], line: Step, seed: int) -> list[float]:
    """Return how fast the smooth quality rises along a line, by its gradient on each batch.

    Args:
        model: in training mode, with the PQ surrogate; unchanged.
        batches: as `model` takes them.
        line: a step of the trained parameters; the slope is per its length.
        seed: of what the loss draws.

    Returns:
        Points of 0..100 per batch.
    """
    weight = model.solver_training.loss.weight
    slopes = []
    with EventStorage(), scoped_seed(seed):
        for batch in batches:
            loss = solver_loss(model, batch)
            gradients = torch.autograd.grad(loss, trained(model), allow_unused=True)
            pairs = [(g, way) for g, way in zip(gradients, line, strict=True) if g is not None]
            slopes.append(-100 * sum(float((g * way).sum()) for g, way in pairs) / weight)
    return slopes


def random_step(like: Step, seed: int) -> Step:
    """Return a step in a random direction, each parameter's of the same L2 norm as that of `like`.

    Args:
        like: a step.
        seed: of the direction.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = [torch.randn(x.shape, generator=generator) for x in like]
    return [s * (x.norm() / s.norm()) for s, x in zip(steps, like, strict=True)]


@contextmanager
def stepped(model: nn.Module, step: Step, rate: float) -> Iterator[None]:
    """Move the trained parameters by rate times a step; inside the context only."""
    parameters = trained(model)
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, change in zip(parameters, step, strict=True):
            parameter += rate * change
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


@contextmanager
def edges_moved(model: nn.Module, offset: float) -> Iterator[None]:
    """Add a constant to the costs of all edges; inside the context only."""
    parameter = model.cost_scale.edge_offset
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter -= offset  # an edge costs less the greater it is
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(before)


@torch.no_grad()
def standing(model: nn.Module, batches: Sequence[Batch]) -> Standing:
    """Measure a network on some batches, solved as in training but without cost dropout.

    Args:
        model: in training mode, with the PQ surrogate.
        batches: as `model` takes them, at least one.
    """
    training = model.solver_training
    generator = torch.Generator()  # draws nothing that counts: there is no backward pass
    sums = PanopticStatistics.zeros(len(training.is_thing))
    surrogates, losses = [], []
    for batch in batches:
        maps = model.predict_maps(model.preprocess(batch).tensor)
        truths = [x["cops_target"] for x in batch]
        costs = (maps.class_costs.float(), maps.edge_costs.float())
        labels = training.amwc(*costs, truths, generator)
        surrogates.append(float(training.loss(labels, truths)[1].pq.nanmean()))
        pretraining = model.pretraining(maps.class_logits, maps.edge_logits, truths, batch)
        losses.append(float(torch.stack(list(pretraining.values())).sum()))
        sums += true_statistics(labels, truths, training.loss.area_limits)
    quality = sums.quality(training.is_thing)
    return Standing(
        100 * quality.all.pq,
        100 * quality.things.pq,
        100 * sum(surrogates) / len(surrogates),
        sum(losses) / len(losses),
    )
