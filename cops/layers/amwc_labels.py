"""Asymmetric multiway cut as a layer that gives class labels and edge labels (A.3).

For the ablation of Abbas and Swoboda, NeurIPS 2021, Table 4. The losses act on the labels x of the
cells and y of the edges, each on its own. Both sets of costs have a label of their own, so nothing
is lifted: the backward pass perturbs both,

    c'_V = c_V + lambda dL/dx,    c'_E = c_E + lambda dL/dy,

and solves AMWC again (Eq. 3, 4). What is said in `amwc.py` on threads, loss scales and second
derivatives holds here too.

Shapes: N images; K classes; D distances; h, w cells of the grid, V = h w nodes, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cops.layers.perturbation import (
    FloatArray,
    PerturbedSolution,
    is_worse,
)
from cops.layers.solved_batch import SolvedBatch, SolverLayer, batch_maps
from cops.solver import solve_amwc
from cops.targets import CopsTarget


class _AmwcLabelsFunction(torch.autograd.Function):
    """Costs to class labels and edge labels; see `AmwcLabelsLayer`."""

    @staticmethod
    def forward(
        ctx: Any, class_costs: Tensor, edge_costs: Tensor, batch: SolvedBatch
    ) -> tuple[Tensor, Tensor]:
        batch.solve(class_costs, edge_costs)
        batch.know([truth.pixel_weights > 0 for truth in batch.truths])
        num_classes = class_costs.shape[1]
        nodes, edges = [], []
        for problem, solution in zip(batch.problems, batch.solutions, strict=True):
            one_hot = np.zeros((problem.graph.num_nodes, num_classes), dtype=np.float32)
            one_hot[np.arange(len(one_hot)), solution.node_classes] = 1
            nodes.append(problem.graph.maps_from_nodes(one_hot))
            edges.append(problem.graph.maps_from_edges(solution.is_cut.astype(np.float32)))
        ctx.batch = batch
        ctx.save_for_backward(class_costs, edge_costs)
        ctx.set_materialize_grads(False)
        return batch_maps(nodes, class_costs), batch_maps(edges, edge_costs)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, class_gradient: Tensor | None, edge_gradient: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        batch: SolvedBatch = ctx.batch
        reactions = [
            _reaction(
                batch,
                index,
                _crop(class_gradient, batch, index),
                _crop(edge_gradient, batch, index),
            )
            for index in range(len(batch.problems))
        ]
        return *batch.as_maps(batch.differentiate(reactions), *ctx.saved_tensors), None


def _crop(gradient: Tensor | None, batch: SolvedBatch, index: int) -> FloatArray | None:
    """Crop the incoming gradient (C, h, w) of one image to its own grid."""
    if gradient is None:
        return None
    graph = batch.problems[index].graph
    values = gradient[index, :, : graph.height, : graph.width].to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"the loss's gradient at the labels of image {index} is not finite")
    return values


def _reaction(
    batch: SolvedBatch, index: int, class_maps: FloatArray | None, edge_maps: FloatArray | None
) -> Callable[[float], PerturbedSolution]:
    """Build the function from lambda to one image's solution.

    Args:
        batch: the problems and solutions of the forward pass.
        index: of the image.
        class_maps: (K, h, w) dL/dx; None for zero.
        edge_maps: (2 D, h, w) dL/dy; None for zero.
    """
    problem, known = batch.problems[index], (batch.known_nodes[index], batch.known_edges[index])
    graph, settings = problem.graph, batch.settings
    node_step = np.zeros_like(problem.node_costs)
    edge_step = np.zeros_like(problem.edge_costs)
    if class_maps is not None:
        node_step += graph.node_costs_from_maps(class_maps) * known[0][:, None]
    if edge_maps is not None:
        edge_step += graph.edge_costs_from_maps(edge_maps) * known[1]
    partitionable = np.array(settings.partitionable, dtype=bool)

    before = batch.solutions[index]

    def react(interpolation: float) -> PerturbedSolution:
        scale = np.float32(interpolation)
        node_costs = problem.node_costs + scale * node_step
        edge_costs = problem.edge_costs + scale * edge_step
        solved = solve_amwc(
            node_costs, graph.edges, edge_costs, partitionable, method=settings.method
        )
        worse = is_worse(solved, node_costs, edge_costs, before.node_classes, before.is_cut)
        return PerturbedSolution(solved.node_classes, solved.is_cut, worse)

    return react


class AmwcLabelsLayer(SolverLayer):
    """Class costs and edge costs to class labels x and edge labels y of the AMWC solution."""

    def forward(
        self,
        class_costs: Tensor,
        edge_costs: Tensor,
        truths: Sequence[CopsTarget],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Solve.

        Args:
            class_costs: (N, K, h, w).
            edge_costs: (N, 2 D, h, w).
            truths: of the N images; they say where a gradient is wanted, and how many cells a
                image has.
            generator: on the CPU; gives the lambdas.

        Returns:
            (N, K, h, w) x, 1 at the class of each cell, and (N, 2 D, h, w) y, 1 where an edge is
            cut. Both are 0 in the padding and where there is no edge.

        Raises:
            ValueError: shapes that do not fit together, or costs that are not finite.
        """
        batch = self.batch(truths, generator)
        return _AmwcLabelsFunction.apply(class_costs, edge_costs, batch)
