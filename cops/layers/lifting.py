"""Algorithm 1: the gradient of a loss on the *panoptic* labels of an AMWC solution.

A loss on segments has a gradient for each segment apart, but AMWC knows the costs of classes only:
all cars share them. So the backward pass lifts the problem to a multiway cut (MWC) whose classes
are the panoptic labels (Abbas, Swoboda, NeurIPS 2021, 3.3.3). With m(l) the class of label l, the
node costs are

    c'_V(i, l) = c_V(i, m(l)) + lambda dL/dz(i, l),

the edge costs stay, and the solution (z_p, y_p) maps back to classes x_p = m(z_p). Eq. 3 then gives
the gradients (x_p - x) / lambda and (y_p - y) / lambda, and Eq. 4 their mean over several lambdas.

The sign: where dL/dz is positive the loss wants node i to leave label l. Costs are paid, so l gets
dearer and the node moves to another class. The gradient is -1/lambda at the old class and +1/lambda
at the new one. Descending along it makes the old class dearer and the new one cheaper.

The labels are: one for each predicted segment, whether the truth has it or not; one for each true
segment that was missed. Without perturbation there is also one for each class that has none so far,
so that the lifted problem can express every class. What it cannot express is a new segment of a
thing class that is neither predicted nor missed. Segments of few cells may be left without a label
of their own (`SolverSettings.least_cells`). All such cells of a class share one label then.

Two segments of one class cost a node the same, so without a perturbation the lifted problem cannot
tell them apart. A solver that takes the first of equal labels then merges all cars. No loss asked
for this change, and at small lambda, where it is divided by least, it is the loudest. (Measured:
with dL/dz = 0 greedy contraction joined 100 edges per image of 24 x 48 cells.) A node's own label
is therefore cheaper by `TIE_BREAK`, which is far below any preference of a network.

Everything here is numpy; `amwc.py` makes an autograd function of it.

Shapes: K classes; V nodes; E edges; J labels of the loss, J' >= J labels in all; S lambdas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.layers.perturbation import PerturbedSolution, Problem, is_worse
from cops.solver import Result, solve_mwc

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

# What keeping its label saves a node in the lifted problem. A power of two, so that sums stay exact
# where the costs are; float32 resolves it up to costs of 1000.
TIE_BREAK = 2.0**-13


def lift_classes(
    mask_classes: npt.NDArray[np.integer],
    num_classes: int,
    rest_classes: npt.NDArray[np.integer] | None = None,
) -> IntArray:
    """Return the map m from labels to classes.

    Args:
        mask_classes: (J,) classes of the loss's labels.
        num_classes: K.
        rest_classes: that need a label beside those of the loss, for nodes without a mask.

    Returns:
        (J',) these, then every class that is not among them, then those of `rest_classes` that are;
        each ascending.
    """
    others = np.setdiff1d(np.arange(num_classes), mask_classes)
    rest = np.intersect1d([] if rest_classes is None else rest_classes, mask_classes)
    return np.concatenate([mask_classes, others, rest]).astype(np.int64)


def label_nodes(
    mask_of_nodes: npt.NDArray[np.integer],
    node_classes: npt.NDArray[np.integer],
    label_classes: IntArray,
    num: int,
) -> IntArray:
    """Return the (V,) label of each node in the lifted problem.

    Args:
        mask_of_nodes: (V,) the mask of each node, -1 for nodes without one.
        node_classes: (V,) classes.
        label_classes: (J',) of `lift_classes`.
        num: J; the label of a node without a mask is the one from J on that has its class.
    """
    label_of_class = np.full(int(label_classes.max()) + 1, -1)
    label_of_class[label_classes[num:]] = np.arange(num, len(label_classes))
    return np.where(mask_of_nodes >= 0, mask_of_nodes, label_of_class[node_classes])


def perturb(
    lifted_costs: FloatArray, mask_gradient: FloatArray, interpolation: float
) -> FloatArray:
    """Perturb the lifted costs: line 1 of Algorithm 1.

    Args:
        lifted_costs: (V, J') float32, c_V(i, m(l)).
        mask_gradient: (V, J) float32, dL/dz; the other labels are not perturbed.
        interpolation: lambda.

    Returns:
        (V, J') float32, C-contiguous.
    """
    costs = lifted_costs.copy()
    costs[:, : mask_gradient.shape[1]] += np.float32(interpolation) * mask_gradient
    return costs


def algorithm_1(
    problem: Problem,
    before: Result,
    mask_classes: npt.NDArray[np.integer],
    mask_gradient: FloatArray,
    known_nodes: npt.NDArray[np.bool_],
    *,
    mask_of_nodes: IntArray | None = None,
    method: str = "greedy",
    warm_start: bool = False,
) -> Callable[[float], PerturbedSolution]:
    """Prepare Algorithm 1 for one image, up to lambda.

    What does not depend on lambda is made here, once; the function that comes back may run on
    several threads at a time.

    Args:
        problem: of the forward pass.
        before: its solution.
        mask_classes: (J,) classes of the labels.
        mask_gradient: (V, J) float32, dL/dz.
        known_nodes: (V,) False for void and crowd, whose part of dL/dz is dropped.
        mask_of_nodes: (V,) label of the loss that each node has now, -1 for a node whose segment
            has none. By default the solution's clusters 0 .. M-1 are the first M labels.
        method: of `cops.solver.solve_mwc`.
        warm_start: start from the solution of the forward pass ("multilevel" only).

    Returns:
        A function from lambda to the solution; 0 solves the lifted problem itself.
    """
    masks = before.node_clusters if mask_of_nodes is None else mask_of_nodes
    rest_classes = np.unique(before.node_classes[masks < 0])
    label_classes = lift_classes(mask_classes, problem.node_costs.shape[1], rest_classes)
    labels = label_nodes(masks, before.node_classes, label_classes, len(mask_classes))
    lifted_costs = np.take(problem.node_costs, label_classes, axis=1)
    lifted_costs[np.arange(len(lifted_costs)), labels] -= np.float32(TIE_BREAK)
    mask_gradient = np.where(known_nodes[:, None], mask_gradient, np.float32(0))
    start = labels if warm_start else None

    def react(interpolation: float) -> PerturbedSolution:
        costs = perturb(lifted_costs, mask_gradient, interpolation)
        solved = solve_mwc(
            costs, problem.graph.edges, problem.edge_costs, method=method, start=start
        )
        worse = is_worse(solved, costs, problem.edge_costs, labels, before.is_cut)
        return PerturbedSolution(label_classes[solved.node_classes], solved.is_cut, worse)

    return react
