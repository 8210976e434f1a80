"""What each of several processes computes of one batch of four images; run by `run_processes`."""

from __future__ import annotations

import numpy as np
import torch
from cops_factory import C, grid_truth, make_image, seeded, tiny_model
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cops.layers.panoptic_masks import PanopticMasks
from cops.losses.gradient_scale import scale_gradient
from cops.losses.loss_scale import LossScale
from cops.losses.panoptic_quality import smooth_panoptic_quality
from cops.losses.separate import class_label_loss, edge_label_loss
from cops.solver import Result

NUM_IMAGES = 4
THROUGH_THE_SOLVER = {
    C + "TRAINING": "surrogate",
    C + "FREEZE": True,  # batch norm of a part of the batch would be another function
    C + "LOSS.COST_DROPOUT": 0.0,
    C + "BACKWARD.SAMPLES": 1,
    C + "BACKWARD.LAMBDA_RANGE": (200.0, 200.0),  # else they would draw in another order
}


def share(rank: int, count: int) -> slice:
    """Images of a process, in the order of the whole batch."""
    each = NUM_IMAGES // count
    return slice(rank * each, (rank + 1) * each)


def masks_and_truths() -> tuple[list[PanopticMasks], list]:
    """Soft masks in float64 of four images: pairs, a false positive, an empty mask."""
    rng = np.random.default_rng(0)
    truths = [grid_truth(rng, 5, 6) for _ in range(NUM_IMAGES)]
    predictions = []
    for truth in truths:
        masks = torch.tensor(rng.uniform(0.05, 0.9, (5, 5, 6)))
        masks[4] = 0
        classes, match = torch.tensor([0, 1, 2, 1, 1]), torch.tensor([0, 1, -1, -1, 2])
        clusters = masks.flatten(1).argmax(dim=0).to(torch.int32).numpy()
        solution = Result(clusters, clusters, np.zeros(0, bool), 0.0)
        masks.requires_grad_()
        assert truth.classes.tolist() == [0, 1, 1, 2]
        predictions.append(PanopticMasks(masks, classes, match, 4, solution))
    return predictions, truths


def surrogate_of_share(rank: int, count: int, form: str) -> tuple[float, list[Tensor]]:
    """Loss, and its gradient at the masks of this process."""
    predictions, truths = (items[share(rank, count)] for items in masks_and_truths())
    limits = torch.tensor([6.0, 4.0, 3.0], dtype=torch.float64)
    loss, _ = smooth_panoptic_quality(predictions, truths, limits, form=form, linear_share=0.2)
    loss.backward()
    return float(loss.detach()), [prediction.masks.grad for prediction in predictions]


def separate_of_share(rank: int, count: int) -> tuple[float, list[Tensor]]:
    """Eq. 8 and 9, and their gradients at the labels of this process."""
    own, generator = share(rank, count), seeded(0)
    labels = [
        torch.rand(NUM_IMAGES, channels, 5, 6, generator=generator, dtype=torch.float64)
        for channels in (3, 4)
    ]
    classes = torch.randint(0, 3, (NUM_IMAGES, 5, 6), generator=generator)
    is_cut = torch.randint(0, 2, (NUM_IMAGES, 4, 5, 6), generator=generator).double()
    weights = [torch.rand(x.shape, generator=generator).double() for x in (classes, is_cut)]
    x, y = (values[own].requires_grad_() for values in labels)
    loss = class_label_loss(x, classes[own], weights[0][own])
    loss = loss + edge_label_loss(y, is_cut[own], weights[1][own])
    loss.backward()
    return float(loss.detach()), [*x.grad, *y.grad]


def scaled_of_share(rank: int, count: int) -> list[Tensor]:
    """The gradient of four values, scaled to a norm of 1 over all processes, as DDP sees it."""
    values = torch.tensor([1.0, -2.0, 3.0, 6.0], dtype=torch.float64)[share(rank, count)]
    leaf, scale = torch.zeros_like(values, requires_grad=True), LossScale()
    (inside,) = scale_gradient(scale.enter((leaf,)), 1.0)
    scale.leave((inside * values).sum()).backward()
    return [leaf.grad]


def trained_share(rank: int, count: int) -> tuple[float, dict[str, Tensor]]:
    """Loss of a network through the solver, and the gradients that DDP leaves at its weights.

    The images have one size: padding a smaller one would change what the network makes of it.
    """
    model = tiny_model(THROUGH_THE_SOLVER).train()
    trained = model if count == 1 else DistributedDataParallel(model)
    images = [make_image(seed) for seed in range(NUM_IMAGES)]
    with EventStorage():
        losses = trained(images[share(rank, count)])
        sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(sum(losses.values()).detach()), gradients
