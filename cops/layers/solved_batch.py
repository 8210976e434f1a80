"""The AMWC problems of a batch between the forward and the backward pass of a layer.

Shapes: N images; K classes; D distances; h, w cells of the grid, V = h w nodes, E edges;
S lambdas per image.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cops.grid_graph import grid_graph
from cops.layers.perturbation import (
    FloatArray,
    LayerStatistics,
    PerturbedSolution,
    Problem,
    SolverGradient,
    SolverSettings,
    average_changes,
    solution_change,
)
from cops.solver import Result, solve_many
from cops.solver.parallel import run_all
from cops.targets import CopsTarget


class SolvedBatch:
    """The problems of a batch from the forward to the backward pass.

    Args:
        truths: of the N images.
        settings: of the layer.
        statistics: of the layer; overwritten by each pass. The times in it need no synchronising
            of a GPU: what is timed works on arrays that have been copied to the CPU before.
        generator: on the CPU; gives the lambdas.
        measure_residual: solve without perturbation as well, for `LayerStatistics.residual`.

    Attributes:
        problems: of the N images.
        solutions: of the N images.
        lambdas: N arrays (S,).
        known_nodes: N arrays (V,) of bools, where the truth is known.
        known_edges: N arrays (E,) of bools, likewise.
    """

    def __init__(
        self,
        truths: Sequence[CopsTarget],
        settings: SolverSettings,
        statistics: LayerStatistics,
        generator: torch.Generator,
        measure_residual: bool = False,
    ) -> None:
        self.truths = truths
        self.measure_residual = measure_residual
        self.settings = settings
        self.statistics = statistics
        # Drawn now, image by image: neither the order of the solves nor a backward pass that
        # never comes can change what later draws give.
        self.lambdas = [settings.draw_lambdas(generator) for _ in truths]
        self.problems: list[Problem] = []
        self.solutions: list[Result] = []
        self.known_nodes: list[np.ndarray] = []
        self.known_edges: list[np.ndarray] = []

    @property
    def num_threads(self) -> int:
        """As asked for, or one per core."""
        return self.settings.num_threads or os.cpu_count() or 1

    def solve(self, class_costs: Tensor, edge_costs: Tensor) -> None:
        """Run the forward pass on (N, K, h, w) class costs and (N, 2 D, h, w) edge costs.

        Raises:
            ValueError: shapes that do not fit together, or costs that are not finite.
        """
        sizes = [(int(t.sem_seg.shape[0]), int(t.sem_seg.shape[1])) for t in self.truths]
        self.problems = build_problems(class_costs, edge_costs, sizes, self.settings)
        began = time.perf_counter()
        self.solutions = solve_many(
            [
                {
                    "node_costs": problem.node_costs,
                    "edges": problem.graph.edges,
                    "edge_costs": problem.edge_costs,
                    "partitionable": np.array(self.settings.partitionable, dtype=bool),
                    "method": self.settings.method,
                }
                for problem in self.problems
            ],
            self.num_threads,
        )
        self.statistics.forward_seconds = time.perf_counter() - began

    def know(self, nodes: Sequence[Tensor]) -> None:
        """Say where the truth is known.

        Args:
            nodes: (h, w) bools, one map per image. Edges are known where they have a weight.
        """
        self.known_nodes = [known.flatten().cpu().numpy() for known in nodes]
        self.known_edges = [
            problem.graph.edge_costs_from_maps((truth.edge_weights > 0).cpu().numpy())
            for problem, truth in zip(self.problems, self.truths, strict=True)
        ]

    def differentiate(
        self, reactions: Sequence[Callable[[float], PerturbedSolution]]
    ) -> list[SolverGradient]:
        """Run the backward pass: Eq. 4 of every image.

        Args:
            reactions: for each image the function from lambda to its solution.
        """
        began = time.perf_counter()
        solve_zero = self.measure_residual or self.settings.zero == "solved"
        tasks = [
            partial(react, float(interpolation))
            for react, lambdas in zip(reactions, self.lambdas, strict=True)
            for interpolation in (*lambdas, *([0.0] if solve_zero else []))
        ]
        solved = run_all(tasks, self.num_threads)
        self.statistics.backward_seconds = time.perf_counter() - began
        step = self.settings.num_samples + int(solve_zero)
        images = [solved[begin : begin + step] for begin in range(0, len(solved), step)]
        zeros = [image.pop() for image in images] if solve_zero else []
        self.statistics.residual = self._residual(zeros)
        self.statistics.worse = np.array([[s.worse for s in image] for image in images])
        gradients = [
            self._gradient(index, zeros[index] if self.settings.zero == "solved" else None, image)
            for index, image in enumerate(images)
        ]
        self.statistics.lambdas = np.stack(self.lambdas)
        self.statistics.reacted = np.stack([g.reacted for g in gradients])
        self.statistics.class_l1 = np.stack([g.class_l1 for g in gradients])
        self.statistics.edge_l1 = np.stack([g.edge_l1 for g in gradients])
        return gradients

    def _gradient(
        self, index: int, zero: PerturbedSolution | None, solved: list[PerturbedSolution]
    ) -> SolverGradient:
        """Average an image's changes, from the solution without perturbation if it is given."""
        before = zero or self.solutions[index]
        known = self.known_nodes[index], self.known_edges[index]
        changes = [solution_change(before, after, *known) for after in solved]
        num_classes = len(self.settings.partitionable)
        return average_changes(before, changes, self.lambdas[index], num_classes)

    def _residual(self, zeros: list[PerturbedSolution]) -> float:
        """Return the share of known nodes and edges that change without a perturbation."""
        changed = total = 0
        for index, zero in enumerate(zeros):
            known = self.known_nodes[index], self.known_edges[index]
            change = solution_change(self.solutions[index], zero, *known)
            changed += len(change.nodes) + len(change.edges)
            total += int(known[0].sum() + known[1].sum())
        return changed / total if total else math.nan

    def as_maps(
        self, gradients: Sequence[SolverGradient], class_costs: Tensor, edge_costs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn gradients into tensors like the costs."""
        graphs = [problem.graph for problem in self.problems]
        pairs = list(zip(graphs, gradients, strict=True))
        nodes = [graph.maps_from_nodes(gradient.node_costs) for graph, gradient in pairs]
        edges = [graph.maps_from_edges(gradient.edge_costs) for graph, gradient in pairs]
        return batch_maps(nodes, class_costs), batch_maps(edges, edge_costs)


def build_problems(
    class_costs: Tensor,
    edge_costs: Tensor,
    sizes: Sequence[tuple[int, int]],
    settings: SolverSettings,
) -> list[Problem]:
    """Build the problems of a batch.

    Args:
        class_costs: (N, K, h, w).
        edge_costs: (N, 2 D, h, w).
        sizes: cells of each image, (rows, columns). A smaller image of a padded batch is
            solved on its own grid, at the top left of the batch's.
        settings: of the layer.

    Raises:
        ValueError: shapes that do not fit together, or costs that are not finite.
    """
    num, num_classes, height, width = class_costs.shape
    channels = 2 * len(settings.distances)
    if num_classes != len(settings.partitionable):
        raise ValueError(
            f"class costs of {num_classes} classes, but {len(settings.partitionable)} are known"
        )
    if tuple(edge_costs.shape) != (num, channels, height, width):
        raise ValueError(
            f"edge costs have shape {tuple(edge_costs.shape)}; class costs of shape "
            f"{tuple(class_costs.shape)} and the distances {settings.distances} need "
            f"{(num, channels, height, width)}"
        )
    if len(sizes) != num:
        raise ValueError(f"costs of {num} images, truths of {len(sizes)}")
    problems = []
    node_maps = class_costs.detach().to("cpu", torch.float32).numpy()
    edge_maps = edge_costs.detach().to("cpu", torch.float32).numpy()
    for index, (rows, columns) in enumerate(sizes):
        if rows > height or columns > width:
            raise ValueError(
                f"image {index} of the batch has {rows} x {columns} cells of truth, but costs of "
                f"{height} x {width}"
            )
        nodes, edges = (m[index, :, :rows, :columns] for m in (node_maps, edge_maps))
        graph = grid_graph(rows, columns, settings.distances)
        problem = Problem(
            graph, graph.node_costs_from_maps(nodes), graph.edge_costs_from_maps(edges)
        )
        for name, costs in (("class", problem.node_costs), ("edge", problem.edge_costs)):
            if not np.isfinite(costs).all():
                raise ValueError(
                    f"the {name} costs of image {index} of the batch are not finite: training "
                    "has diverged; lower the learning rate"
                )
        problems.append(problem)
    return problems


def batch_maps(maps: Sequence[FloatArray], like: Tensor) -> Tensor:
    """Put maps (C, rows, columns) of the images into one tensor like `like`, 0 elsewhere."""
    stacked = torch.zeros(like.shape, dtype=torch.float32)
    for target, values in zip(stacked, maps, strict=True):
        target[:, : values.shape[1], : values.shape[2]] = torch.from_numpy(values)
    return stacked.to(device=like.device, dtype=like.dtype)


class SolverLayer(nn.Module):
    """What the layers around the solver share.

    Attributes:
        settings: of the solver and of the perturbation.
        statistics: of the last forward and backward pass.
        measure_residual: the next passes also measure `LayerStatistics.residual`, which takes one
            solve more per image.
    """

    def __init__(self, settings: SolverSettings) -> None:
        """Keep the settings; there are no parameters."""
        super().__init__()
        self.settings = settings
        self.statistics = LayerStatistics()
        self.measure_residual = False

    def batch(self, truths: Sequence[CopsTarget], generator: torch.Generator) -> SolvedBatch:
        """Prepare a forward and a backward pass.

        Args:
            truths: of the N images.
            generator: on the CPU; gives the lambdas.
        """
        return SolvedBatch(truths, self.settings, self.statistics, generator, self.measure_residual)
