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
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cops.layers.lifting import algorithm_1
from cops.layers.matching import count_segment_overlaps, match_by_iou
from cops.layers.panoptic_masks import PanopticMasks
from cops.layers.solved_batch import SolvedBatch, SolverLayer
from cops.solver import Result
from cops.targets import CopsTarget


def _match_with_truth(
    solution: Result, classes: np.ndarray, truth: CopsTarget
) -> tuple[np.ndarray, np.ndarray]:
    """Match the M clusters with the S true segments.

    Args:
        solution: of the solver.
        truth: of the same image.
        classes: (M,) of the clusters.

    Returns:
        (M,) index of the true segment or -1, and the indices of the true segments left over.
    """
    segment_map = truth.segment_map.cpu().numpy()
    true_classes = truth.classes.cpu().numpy()
    overlaps = count_segment_overlaps(
        solution.node_clusters.reshape(segment_map.shape),
        segment_map,
        len(classes),
        len(true_classes),
    )
    match = match_by_iou(overlaps.iou(), classes, true_classes)
    return match, np.setdiff1d(np.arange(len(true_classes)), match)


def _cluster_classes(solution: Result) -> np.ndarray:
    """Return the (M,) class of each cluster."""
    classes = np.zeros(int(solution.node_clusters.max()) + 1, dtype=np.int64)
    classes[solution.node_clusters] = solution.node_classes
    return classes


class _AmwcFunction(torch.autograd.Function):
    """Costs to the masks of all images; see `AmwcLayer`."""

    @staticmethod
    def forward(
        ctx: Any,
        class_costs: Tensor,
        edge_costs: Tensor,
        batch: SolvedBatch,
        labels: list[tuple[np.ndarray, np.ndarray]],
    ) -> tuple[Tensor, ...]:
        batch.solve(class_costs, edge_costs)
        batch.know([truth.segment_map >= 0 for truth in batch.truths])
        masks = []
        for solution, truth in zip(batch.solutions, batch.truths, strict=True):
            predicted = _cluster_classes(solution)
            match, missed = _match_with_truth(solution, predicted, truth)
            missed_classes = truth.classes.cpu().numpy()[missed]
            labels.append(
                (np.concatenate([predicted, missed_classes]), np.concatenate([match, missed]))
            )
            # Clusters are numbered from 0, so the missed segments' channels stay empty.
            clusters = torch.from_numpy(solution.node_clusters.astype(np.int64))
            image = torch.zeros(len(labels[-1][0]), clusters.numel())
            image.scatter_(0, clusters[None], 1.0)
            masks.append(image.reshape(-1, *truth.segment_map.shape).to(class_costs.device))
        ctx.batch = batch
        ctx.classes = [classes for classes, _ in labels]
        ctx.save_for_backward(class_costs, edge_costs)
        ctx.set_materialize_grads(False)
        return tuple(masks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *mask_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        batch: SolvedBatch = ctx.batch
        reactions = []
        for index, problem in enumerate(batch.problems):
            shape = (len(ctx.classes[index]), problem.graph.num_nodes)
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
                    ctx.classes[index],
                    gradient,
                    batch.known_nodes[index],
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
        labels: list[tuple[np.ndarray, np.ndarray]] = []
        masks = _AmwcFunction.apply(class_costs, edge_costs, batch, labels)
        device = class_costs.device
        return [
            PanopticMasks(
                mask,
                torch.from_numpy(classes).to(device),
                torch.from_numpy(match).to(device),
                int(solution.node_clusters.max()) + 1,
                solution,
            )
            for mask, (classes, match), solution in zip(masks, labels, batch.solutions, strict=True)
        ]
