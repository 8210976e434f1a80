"""Degenerate batches: one step of training and one inference of each system stay finite."""

from __future__ import annotations

import random
from pathlib import Path

import cops_factory
import model_factory
import torch
from torch import nn

from trials.outcome import Outcome

MEANS = (
    "losses and gradients of a training step are finite, every class of prediction has the size "
    "of its image, and nothing raises"
)
SIZES = ((1, 1), (1, 64), (64, 1), (5, 7), (17, 9), (31, 33), (48, 64), (61, 94))
# No instance, one class, crowds alone, nothing but void.
UNIFIED_TRUTHS = (
    dict(things=(), crowd=False),
    dict(things=(), stuff=(), crowd=False),
    dict(things=(), stuff=(2,), crowd=False, void_rows=0),
    dict(things=(3, 3), stuff=(), crowd=False),
    dict(things=(), stuff=()),
    dict(),
)
COPS_TRUTHS = (dict(things=0), dict(void=True), dict(things=1), dict(things=3))
COPS_TRAININGS = ({}, {"TRAINING": "surrogate"}, {"TRAINING": "separate"})


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Try `count` batches of one or two images, each with a size and a truth of its own."""
    draw, outcome = random.Random(seed), Outcome()
    for number in range(count):
        system = ("unified", "cops")[number % 2]
        make_batch = {"unified": unified_batch, "cops": cops_batch}[system]
        sizes = [draw.choice(SIZES) for _ in range(draw.choice((1, 2)))]
        name = f"{number} {system}, {sizes}"
        try:
            model, batch = make_batch(sizes, draw)
            problem = step_problem(model, batch) or inference_problem(model, batch)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        outcome.record(name, problem, system)
    return outcome


def unified_batch(
    sizes: list[tuple[int, int]], draw: random.Random
) -> tuple[nn.Module, list[dict]]:
    """A tiny Unified model, and images with such truths."""
    truths = [draw.choice(UNIFIED_TRUTHS) for _ in sizes]
    batch = [
        model_factory.make_image(draw.randrange(100), size, **truth)
        for size, truth in zip(sizes, truths, strict=True)
    ]
    return model_factory.tiny_model(), batch


def cops_batch(sizes: list[tuple[int, int]], draw: random.Random) -> tuple[nn.Module, list[dict]]:
    """A tiny COPS model in one of its trainings, and images with such truths."""
    changes = {f"{cops_factory.C}{k}": v for k, v in draw.choice(COPS_TRAININGS).items()}
    changes[f"{cops_factory.C}BACKWARD.SAMPLES"] = 1
    batch = []
    for size in sizes:
        truth = draw.choice(COPS_TRUTHS)
        if min(size) <= 12:  # a thing of the factory has 12 x 12 pixels
            truth = dict(truth, things=0)
        batch.append(cops_factory.make_image(draw.randrange(100), size, **truth))
    return cops_factory.tiny_model(changes), batch


def step_problem(model: nn.Module, batch: list[dict]) -> str | None:
    """Return what a training step makes that is not finite."""
    losses = model_factory.training_step(model, batch)
    wrong = [name for name, loss in losses.items() if not loss.isfinite()]
    wrong += [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return f"{wrong[:3]} are not finite" if wrong else None


def inference_problem(model: nn.Module, batch: list[dict]) -> str | None:
    """Return which output has not its image's size, or is not finite."""
    with torch.no_grad():
        outputs = model.eval()(batch)
    for image, output in zip(batch, outputs, strict=True):
        size, found = (image["height"], image["width"]), tuple(output["panoptic_seg"][0].shape)
        if found != size:
            return f"a map of {found} for an image of {size}"
        if not output["sem_seg"].isfinite().all():
            return "class scores are not finite"
    return None
