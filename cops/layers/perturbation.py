"""What the layers around the solver share: their settings, their problems, and what they measure.

A combinatorial solver is a step function of its costs. So the gradient is that of an interpolation
(Vlastelica et al., "Differentiation of Blackbox Combinatorial Solvers", ICLR 2020; Abbas and
Swoboda, NeurIPS 2021, Eq. 3). Perturb the costs by lambda times the loss's gradient, solve again,
and divide the change of the solution by lambda. Eq. 4 averages this over several lambdas.

Shapes: N images; S lambdas per image; K classes; D distances; h, w cells of the grid, V = h w
nodes; E edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cops.grid_graph import GridGraph
from cops.solver import Result

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SolverSettings:
    """How the layers solve, forward and backward.

    Attributes:
        partitionable: (K,) the classes P that may have several segments; the things.
        distances: D distances of edges, in cells.
        num_samples: S, the number of lambdas (the paper's N).
        lambda_range: lambdas are drawn uniformly from here; positive.
        method: of `cops.solver.solve_amwc`.
        num_threads: solves that run side by side; 0: one per core. It does not change any result.
        warm_start: the perturbed MWC starts from the forward solution; "multilevel" only.
        zero: what a perturbed solution is compared with. "forward": the solution of the forward
            pass, as in Eq. 3. "solved": the lifted problem without perturbation, solved once more
            by the same method. It costs one solve per image. A change that the perturbation did
            not cause then is none. `AmwcLabelsLayer` lifts nothing, so both are the same there.
        least_cells: a predicted thing of fewer cells has no mask, so the loss does not see it.
            `AmwcLabelsLayer` has no masks.
    """

    partitionable: tuple[bool, ...]
    distances: tuple[int, ...]
    num_samples: int = 5
    lambda_range: tuple[float, float] = (1.0, 5000.0)
    method: str = "greedy"
    num_threads: int = 0
    warm_start: bool = False
    zero: str = "forward"
    least_cells: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ValueError: names the argument.
        """
        low, high = self.lambda_range
        if not 0 < low <= high < float("inf"):
            raise ValueError(
                f"lambda_range is {self.lambda_range}: give two positive numbers in ascending order"
            )
        if self.num_samples < 1:
            raise ValueError(f"num_samples is {self.num_samples}: at least one lambda is needed")
        if self.warm_start and self.method != "multilevel":
            raise ValueError(f"warm_start needs the method 'multilevel', not {self.method!r}")
        if self.least_cells < 0:
            raise ValueError(f"least_cells is {self.least_cells}: give 0 or more")
        if self.zero not in ("forward", "solved"):
            raise ValueError(f"zero is {self.zero!r}: use 'forward' or 'solved'")

    def draw_lambdas(self, generator: torch.Generator) -> npt.NDArray[np.float64]:
        """Draw the (S,) lambdas of one image, uniformly from their range."""
        low, high = self.lambda_range
        uniform = torch.rand(self.num_samples, generator=generator, dtype=torch.float64)
        return (low + (high - low) * uniform).numpy()


@dataclass(frozen=True, eq=False)
class Problem:
    """The AMWC problem of one image.

    Attributes:
        graph: the grid.
        node_costs: (V, K) float32, C-contiguous.
        edge_costs: (E,) float32.
    """

    graph: GridGraph
    node_costs: FloatArray
    edge_costs: FloatArray


@dataclass(eq=False)
class LayerStatistics:
    """What the last forward and backward pass of a layer did; overwritten by each pass.

    Attributes:
        forward_seconds: of the CPU, spent in the AMWC solves.
        backward_seconds: of the CPU, spent in the solves of the perturbed problems.
        lambdas: (N, S).
        reacted: (N, S) bool, whether the perturbation changed any label that the truth knows.
        class_l1: (N, S) L1 norm of the class costs' gradient of each lambda, before the average.
        edge_l1: (N, S) likewise of the edge costs.
        worse: (N, S) bool, whether the perturbed problem was solved worse than by leaving all
            labels as they are. Then the change is the solver's error, and no answer to the loss.
        residual: share of nodes and edges that change without any perturbation; nan where it was
            not measured.
    """

    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    lambdas: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    reacted: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    class_l1: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    edge_l1: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    worse: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    residual: float = math.nan

    def summary(self) -> dict[str, float]:
        """Return figures to log: for all lambdas, and for the lower and the upper half of them."""
        figures = {"seconds_amwc": self.forward_seconds, "seconds_mwc": self.backward_seconds}
        if not math.isnan(self.residual):
            figures["residual_at_zero"] = self.residual
        if not self.lambdas.size:
            return figures
        middle = np.median(self.lambdas)
        groups = {"": self.lambdas > 0, "_small_lambda": self.lambdas <= middle}
        groups["_large_lambda"] = self.lambdas >= middle
        for suffix, group in groups.items():
            figures[f"unreacted{suffix}"] = float(1 - self.reacted[group].mean())
            figures[f"worse_than_unchanged{suffix}"] = float(self.worse[group].mean())
            figures[f"class_gradient_l1{suffix}"] = float(self.class_l1[group].mean())
            figures[f"edge_gradient_l1{suffix}"] = float(self.edge_l1[group].mean())
        return figures


class PerturbedSolution(NamedTuple):
    """What the solver gives for the costs at one lambda.

    Attributes:
        node_classes: (V,) x_p.
        is_cut: (E,) y_p.
        worse: whether these costs are paid less by leaving all labels as they are.
    """

    node_classes: npt.NDArray[np.integer[Any]]
    is_cut: npt.NDArray[np.bool_]
    worse: bool


def is_worse(
    solved: Result,
    node_costs: FloatArray,
    edge_costs: FloatArray,
    labels: FloatArray,
    cut: FloatArray,
) -> bool:
    """Return whether a solution costs more than given labels, by more than rounding.

    Args:
        solved: for these costs.
        node_costs: (V, L), perturbed.
        edge_costs: (E,).
        labels: (V,) to compare with, in 0..L-1.
        cut: (E,) the cut edges of these.
    """
    kept = float(node_costs[np.arange(len(labels)), labels].sum(dtype=np.float64))
    kept += float(edge_costs[cut].sum(dtype=np.float64))
    return solved.energy > kept + 1e-6 * max(1.0, abs(kept))


class SolutionChange(NamedTuple):
    """How a solution reacts to a perturbation, where the truth is known.

    Attributes:
        nodes: (C,) nodes that change their class.
        new_classes: (C,) which they change to.
        edges: (F,) edges that are cut now and were not, or the reverse.
    """

    nodes: IntArray
    new_classes: npt.NDArray[np.integer[Any]]
    edges: IntArray


def solution_change(
    before: Result | PerturbedSolution,
    after: PerturbedSolution,
    known_nodes: npt.NDArray[np.bool_],
    known_edges: npt.NDArray[np.bool_],
) -> SolutionChange:
    """Compare two solutions; cells and edges without truth are left out.

    Args:
        before: the solution of the forward pass, or of the lifted problem without perturbation.
        after: at one lambda.
        known_nodes: (V,) False for void and crowd.
        known_edges: (E,) False for edges that touch these.
    """
    nodes = np.flatnonzero((after.node_classes != before.node_classes) & known_nodes)
    edges = np.flatnonzero((after.is_cut != before.is_cut) & known_edges)
    return SolutionChange(nodes, after.node_classes[nodes], edges)


class SolverGradient(NamedTuple):
    """Eq. 4 of one image.

    Attributes:
        node_costs: (V, K) float32 gradient of the class costs.
        edge_costs: (E,) float32 gradient of the edge costs.
        reacted: (S,) bool, whether anything changed at each lambda.
        class_l1: (S,) L1 norm of the first gradient at each lambda.
        edge_l1: (S,) of the second.
    """

    node_costs: FloatArray
    edge_costs: FloatArray
    reacted: npt.NDArray[np.bool_]
    class_l1: FloatArray
    edge_l1: FloatArray


def average_changes(
    before: Result | PerturbedSolution,
    changes: list[SolutionChange],
    lambdas: FloatArray,
    num_classes: int,
) -> SolverGradient:
    """Average the gradients of all lambdas (lines 4 and 5 of Algorithm 1; Eq. 3, 4).

    Args:
        before: what the changes are changes of.
        changes: S of them.
        lambdas: (S,).
        num_classes: K.
    """
    node_gradient = np.zeros((len(before.node_classes), num_classes), dtype=np.float32)
    edge_gradient = np.zeros(len(before.is_cut), dtype=np.float32)
    for change, interpolation in zip(changes, lambdas, strict=True):
        step = np.float32(1.0 / (interpolation * len(lambdas)))
        node_gradient[change.nodes, change.new_classes] += step
        node_gradient[change.nodes, before.node_classes[change.nodes]] -= step
        edge_gradient[change.edges] += np.where(before.is_cut[change.edges], -step, step)
    num_nodes = np.array([len(change.nodes) for change in changes])
    num_edges = np.array([len(change.edges) for change in changes])
    return SolverGradient(
        node_gradient,
        edge_gradient,
        (num_nodes + num_edges) > 0,
        2 * num_nodes / lambdas,
        num_edges / lambdas,
    )
