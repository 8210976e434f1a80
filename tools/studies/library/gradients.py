"""Gradients through the solver (Abbas, Swoboda, NeurIPS 2021, Algorithm 1), solved in several ways.

Shapes: S lambdas per image; J masks of an image; h, w cells of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cops.layers.amwc import AmwcLayer
from cops.layers.lifting import algorithm_1
from cops.layers.panoptic_masks import PanopticMasks
from cops.layers.perturbation import (
    PerturbedSolution,
    Problem,
    average_changes,
    solution_change,
)
from cops.layers.solved_batch import build_problems
from cops.targets import CopsTarget
from panoptic_tools.studies.library.measure import seconds_of

Figure = dict[str, Any]
SCRATCH = {"method": "multilevel"}
# Row: how the perturbed problem is solved.
WAYS: dict[str, dict[str, Any]] = {
    "multilevel, warm start": {"method": "multilevel", "warm_start": True},
    "greedy": {"method": "greedy"},
    "other lambdas": SCRATCH,
}


def compare_batch(model: nn.Module, batch: list[dict], seed: int) -> list[Figure]:
    """Compare the gradients of every image and way of one batch.

    Args:
        model: a `COPS` in training mode, with an `AmwcLayer`.
        batch: as `model` takes it.
        seed: of the lambdas.

    Returns:
        Dicts with "way", "cosine", "norm_ratio" (nan where both, or the reference, are zero),
        "reacted" and "worse" (shares of lambdas) and "seconds" of one solve. The reference itself
        is compared with nothing.
    """
    with torch.no_grad():
        maps = model.predict_maps(model.preprocess(batch).tensor)
    truths = [x["cops_target"] for x in batch]
    layer: AmwcLayer = model.amwc
    class_costs = maps.class_costs.float().requires_grad_()
    edge_costs = maps.edge_costs.float().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    labels = layer(class_costs, edge_costs, truths, generator)
    loss, _ = model.solver_loss(labels, truths)
    mask_gradients = torch.autograd.grad(loss, [x.masks for x in labels])

    sizes = [tuple(t.sem_seg.shape) for t in truths]
    problems = build_problems(class_costs, edge_costs, sizes, layer.settings)
    figures = []
    for problem, label, truth, mask_gradient in zip(
        problems, labels, truths, mask_gradients, strict=True
    ):
        lambdas = layer.settings.draw_lambdas(generator)
        others = layer.settings.draw_lambdas(generator)
        image = SolvedImage(problem, label, truth, mask_gradient)
        figures += compare_image(image, lambdas, others)
    return figures


class SolvedImage(NamedTuple):
    """One image of a batch between the passes."""

    problem: Problem
    label: PanopticMasks
    truth: CopsTarget
    mask_gradient: torch.Tensor  # (J, h, w)

    @property
    def known_nodes(self) -> np.ndarray:
        """(V,) bools."""
        return (self.truth.segment_map >= 0).flatten().numpy()

    @property
    def known_edges(self) -> np.ndarray:
        """(E,) bools."""
        return self.problem.graph.edge_costs_from_maps((self.truth.edge_weights > 0).numpy())

    def react(self, keywords: Mapping[str, Any]) -> Callable[[float], PerturbedSolution]:
        """Return the function from lambda to the solution, solved by `keywords`."""
        return algorithm_1(
            self.problem,
            self.label.solution,
            self.label.classes.numpy(),
            self.mask_gradient.flatten(1).numpy().T.copy(),
            self.known_nodes,
            **keywords,
        )


def compare_image(image: SolvedImage, lambdas: np.ndarray, others: np.ndarray) -> list[Figure]:
    """Compare the gradients of every way on one image.

    Args:
        image: with the surrogate's gradient.
        lambdas: (S,).
        others: (S,), for the row "other lambdas".

    Returns:
        A figure per way, the reference first.
    """
    figures: list[Figure] = []
    reference: np.ndarray | None = None
    for way, keywords in {"from scratch": SCRATCH, **WAYS}.items():
        chosen = others if way == "other lambdas" else lambdas
        react = image.react(keywords)
        solved: list[PerturbedSolution] = []
        seconds = seconds_of(
            lambda react=react, chosen=chosen, solved=solved: solved.extend(
                react(float(value)) for value in chosen
            )
        )
        known = image.known_nodes, image.known_edges
        changes = [solution_change(image.label.solution, after, *known) for after in solved]
        num_classes = image.problem.node_costs.shape[1]
        found = average_changes(image.label.solution, changes, chosen, num_classes)
        gradient = np.concatenate([found.node_costs.ravel(), found.edge_costs])
        figure: Figure = {
            "way": way,
            "reacted": float(found.reacted.mean()),
            "worse": sum(after.worse for after in solved) / len(solved),
            "seconds": seconds / len(chosen),
        }
        if reference is None:
            reference = gradient
        else:
            figure |= compare(gradient, reference)
        figures.append(figure)
    return figures


def compare(gradient: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return cosine and ratio of norms; nan where one of them is not defined."""
    ours, theirs = (float(np.linalg.norm(x.astype(np.float64))) for x in (gradient, reference))
    inner = float(gradient.astype(np.float64) @ reference.astype(np.float64))
    return {
        "cosine": inner / (ours * theirs) if ours and theirs else float("nan"),
        "norm_ratio": ours / theirs if theirs else float("nan"),
    }
