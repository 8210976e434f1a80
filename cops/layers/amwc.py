"""Asymmetric multiway cut as a differentiable layer (Abbas, Swoboda, NeurIPS 2021, 3.3).

`AmwcLayer` solves the AMWC problem of each image and gives its segments as masks, matched with
the truth, for a loss on panoptic labels. The gradient of that loss goes through Algorithm 1
(`lifting.py`).

The gradient has no gradient of its own. A loss scale, as of mixed precision with gradient
scaling, would scale the perturbation: `cops.losses.loss_scale` keeps it away. Solves run on
threads, all images and all lambdas side by side; the results do not depend on their number.

Shapes: N images; K classes; D distances; h, w cells of the grid, V = h w nodes, E edges; S true
segments, M predicted ones, J masks of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cops.layers.lifting import algorithm_1
from cops.layers.matching import count_segment_overlaps, match_by_iou
from cops.layers.panoptic_masks import PanopticMasks, cluster_classes
from cops.layers.perturbation import SolverSettings
from cops.layers.solved_batch import SolvedBatch, SolverLayer
from cops.solver import Result
from cops.targets import CopsTarget


class _Labels(NamedTuple):
    """The labels of the loss for one image.

    Attributes:
        classes: (J,).
        match: (J,) index of the true segment or -1.
        num_predicted: how many are segments of the solution.
        mask_of_nodes: (V,) label of each node, -1 where its segment is too small for one.
    """

    classes: np.ndarray
    match: np.ndarray
    num_predicted: int
    mask_of_nodes: np.ndarray


def _label_segments(solution: Result, truth: CopsTarget, settings: SolverSettings) -> _Labels:
    """Find the segments that get a mask and their partners in the truth; add what was missed.

    Args:
        solution: of the solver.
        truth: of the same image.
        settings: which classes are things, and how many cells a thing's mask needs.
    """
    classes, cells = cluster_classes(solution), np.bincount(solution.node_clusters)
    kept = (cells >= settings.least_cells) | ~np.array(settings.partitionable)[classes]
    num = int(kept.sum())
    # Small segments share the number after the last; it is matched with nothing.
    mask_of_nodes = np.where(kept, np.cumsum(kept) - 1, num)[solution.node_clusters]
    segment_map = truth.segment_map.cpu().numpy()
    true_classes = truth.classes.cpu().numpy()
    overlaps = count_segment_overlaps(
        mask_of_nodes.reshape(segment_map.shape), segment_map, num + 1, len(true_classes)
    )
    match = match_by_iou(overlaps.iou()[:num], classes[kept], true_classes)
    missed = np.setdiff1d(np.arange(len(true_classes)), match)
    return _Labels(
        np.concatenate([classes[kept], true_classes[missed]]),
        np.concatenate([match, missed]),
        num,
        np.where(mask_of_nodes < num, mask_of_nodes, -1),
    )


class _AmwcFunction(torch.autograd.Function):
    """Costs to the masks of all images; see `AmwcLayer`."""

    @staticmethod
    def forward(
        ctx: Any,
        class_costs: Tensor,
        edge_costs: Tensor,
        batch: SolvedBatch,
        labels: list[_Labels],
    ) -> tuple[Tensor, ...]:
        batch.solve(class_costs, edge_costs)
        batch.know([truth.segment_map >= 0 for truth in batch.truths])
        masks = []
        for solution, truth in zip(batch.solutions, batch.truths, strict=True):
            found = _label_segments(solution, truth, batch.settings)
            labels.append(found)
            # The channels of missed segments stay empty. One more takes nodes without a mask.
            num = len(found.classes)
            channels = np.where(found.mask_of_nodes < 0, num, found.mask_of_nodes)
            image = torch.zeros(num + 1, len(channels))
            image.scatter_(0, torch.from_numpy(channels.astype(np.int64))[None], 1.0)
            masks.append(image[:-1].reshape(-1, *truth.segment_map.shape).to(class_costs.device))
        ctx.batch = batch
        ctx.labels = labels
        ctx.save_for_backward(class_costs, edge_costs)
        ctx.set_materialize_grads(False)
        return tuple(masks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *mask_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        batch: SolvedBatch = ctx.batch
        reactions = []
        for index, problem in enumerate(batch.problems):
            found = ctx.labels[index]
            shape = (len(found.classes), problem.graph.num_nodes)
            given = mask_gradients[index]
            gradient = np.zeros(shape[::-1], dtype=np.float32)
            if given is not None:
                gradient[:] = given.reshape(shape).to("cpu", torch.float32).numpy().T
            if not np.isfinite(gradient).all():
                raise ValueError(f"the loss's gradient at the masks of image {index} is not finite")
            reactions.append(
                algorithm_1(
                    problem,
                    batch.solutions[index],
                    found.classes,
                    gradient,
                    batch.known_nodes[index],
                    mask_of_nodes=found.mask_of_nodes,
                    method=batch.settings.method,
                    warm_start=batch.settings.warm_start,
                )
            )
        gradients = batch.as_maps(batch.differentiate(reactions), *ctx.saved_tensors)
        return *gradients, None, None


class AmwcLayer(SolverLayer):
    """Class costs and edge costs to panoptic masks; backward is Algorithm 1."""

    def forward(
        self,
        class_costs: Tensor,
        edge_costs: Tensor,
        truths: Sequence[CopsTarget],
        generator: torch.Generator,
    ) -> list[PanopticMasks]:
        """Solve, and match the segments with the truth.

        Args:
            class_costs: (N, K, h, w), what a cell pays for each class.
            edge_costs: (N, 2 D, h, w), what is paid for cutting each edge; channels as in
                `cops.grid_graph`.
            truths: of the N images. An image with fewer cells than h x w is solved on these, at
                the top left; the rest, padding, gets no gradient.
            generator: on the CPU; gives the lambdas.

        Returns:
            The masks of each image, on the costs' device.

        Raises:
            ValueError: shapes that do not fit together, or costs that are not finite.
        """
        batch = self.batch(truths, generator)
        labels: list[_Labels] = []
        masks = _AmwcFunction.apply(class_costs, edge_costs, batch, labels)
        device = class_costs.device
        return [
            PanopticMasks(
                mask,
                torch.from_numpy(found.classes).to(device),
                torch.from_numpy(found.match).to(device),
                found.num_predicted,
                solution,
            )
            for mask, found, solution in zip(masks, labels, batch.solutions, strict=True)
        ]
