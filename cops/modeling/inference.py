"""From the costs of one image to its outputs: solve, then post-process (Abbas, Swoboda, NeurIPS
2021, 4.2 "Resolution", A.6 to A.8).

Shapes: K classes; D distances; h, w cells of the network's grid, stride 4; H, W pixels of the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import torch
from detectron2.config import CfgNode

from cops.grid_graph import GridGraph, grid_graph
from cops.modeling.instance_scores import instance_scores
from cops.modeling.postprocess import (
    Panoptic,
    cut_edge_map,
    cut_probability_map,
    instances_from_segments,
    oracle_class_costs,
    segments_from_labels,
    semantic_probabilities,
)
from cops.modeling.refine import refine_costs
from cops.solver import Result, solve_amwc
from cops.targets import CopsTarget, build_target_function

STRIDE = 4  # of the network's grid
AREA_DIVISORS = ("geometric", "authors")


@dataclass(frozen=True)
class InferenceOptions:
    """How a panoptic map is made; see MODEL.COPS.INFERENCE and SOLVER in `cops.config`."""

    method: str = "greedy"
    stride: int = 4
    thing_area_limit: int = 200
    stuff_area_limit: int = 2048
    edge_offset: float = 0.0
    semantic_oracle: bool = False

    def __post_init__(self) -> None:
        if self.stride not in (1, 2, 4):
            raise ValueError(f"MODEL.COPS.INFERENCE.STRIDE is {self.stride}: use 4, 2 or 1")
        if self.method not in ("greedy", "multilevel"):
            raise ValueError(
                f"MODEL.COPS.SOLVER.METHOD is {self.method!r}: use 'greedy' or 'multilevel'"
            )

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> InferenceOptions:
        """The options of a config."""
        node = cfg.MODEL.COPS
        return cls(
            method=node.SOLVER.METHOD,
            stride=node.INFERENCE.STRIDE,
            thing_area_limit=node.INFERENCE.THING_AREA_LIMIT,
            stuff_area_limit=node.INFERENCE.STUFF_AREA_LIMIT,
            edge_offset=node.INFERENCE.EDGE_OFFSET,
            semantic_oracle=node.INFERENCE.SEMANTIC_ORACLE,
        )

    def changed(self, changes: Mapping[str, Any]) -> InferenceOptions:
        """The same options but for some."""
        return replace(self, **changes)


# What each name in TEST.PANOPTIC_VARIANTS changes about the configured way.
VARIANTS: dict[str, dict[str, Any]] = {
    "greedy": {"method": "greedy"},
    "multilevel": {"method": "multilevel"},
    "stride4": {"stride": 4},
    "stride2": {"stride": 2},
    "stride1": {"stride": 1},
    "greedy_stride2": {"method": "greedy", "stride": 2},
    "greedy_stride1": {"method": "greedy", "stride": 1},
    "multilevel_stride2": {"method": "multilevel", "stride": 2},
    "multilevel_stride1": {"method": "multilevel", "stride": 1},
    "untrimmed": {"thing_area_limit": 0, "stuff_area_limit": 0},
    "edges_0.5": {"edge_offset": 0.5},
    "edges_0.75": {"edge_offset": 0.75},
    "edges_1": {"edge_offset": 1.0},
    "multilevel_edges_0.5": {"method": "multilevel", "edge_offset": 0.5},
    "multilevel_edges_1": {"method": "multilevel", "edge_offset": 1.0},
    "multilevel_edges_1.5": {"method": "multilevel", "edge_offset": 1.5},
    "oracle": {"semantic_oracle": True},
}


def build_test_target_function(
    cfg: CfgNode,
) -> Callable[[np.ndarray, Sequence[dict]], dict] | None:
    """The target function for test images, if the semantic oracle wants their truth; else None.

    Args:
        cfg: a config completed from the class table.
    """
    chosen = [VARIANTS.get(name, {}) for name in cfg.TEST.PANOPTIC_VARIANTS]
    oracle = cfg.MODEL.COPS.INFERENCE.SEMANTIC_ORACLE
    if not oracle and not any("semantic_oracle" in changes for changes in chosen):
        return None
    return build_target_function(cfg)


def area_limits_on_grid(
    is_thing: Sequence[bool], thing_limit: int, stuff_limit: int, divisor: str
) -> tuple[float, ...]:
    """Rejection areas of the classes in cells of the network's grid.

    Args:
        is_thing: K flags.
        thing_limit, stuff_limit: in pixels.
        divisor: "geometric" divides by the pixels of a cell, 16; "authors" divides that of things
            by 4, as the authors' training does.
    """
    if divisor not in AREA_DIVISORS:
        raise ValueError(
            f"MODEL.COPS.INFERENCE.AREA_DIVISOR is {divisor!r}: use one of {AREA_DIVISORS}"
        )
    of_things = STRIDE**2 if divisor == "geometric" else STRIDE
    return tuple(thing_limit / of_things if flag else stuff_limit / STRIDE**2 for flag in is_thing)


class SolvedImage:
    """One image's costs, and what different options make of them; solutions are kept."""

    def __init__(
        self,
        class_logits: torch.Tensor,
        class_costs: torch.Tensor,
        edge_costs: torch.Tensor,
        *,
        distances: Sequence[int],
        is_thing: Sequence[bool],
        input_size: tuple[int, int],
        output_size: tuple[int, int],
        truth: CopsTarget | None = None,
    ) -> None:
        """Args:
        class_logits: (K, h, w), padding included, as the next two.
        class_costs: (K, h, w).
        edge_costs: (2 D, h, w).
        distances: D, in cells.
        is_thing: K flags.
        input_size: of the network's input without padding, in pixels.
        output_size: (H, W).
        truth: for the semantic oracle only.
        """
        self.class_logits = class_logits
        self.class_costs = class_costs.detach().float().cpu()
        self.edge_costs = edge_costs.detach().float().cpu()
        self.distances = tuple(distances)
        self.is_thing = tuple(is_thing)
        self.input_size = input_size
        self.output_size = output_size
        self.truth = truth
        self._solved: dict[tuple[str, int, float, bool], tuple[GridGraph, Any, Result]] = {}

    def solve(self, options: InferenceOptions) -> tuple[GridGraph, Any, Result]:
        """The grid that is solved, its costs (`RefinedCosts`) and the solution."""
        key = (options.method, options.stride, options.edge_offset, options.semantic_oracle)
        if key in self._solved:
            return self._solved[key]
        class_costs, edge_costs = self.class_costs, self.edge_costs + options.edge_offset
        if options.semantic_oracle:
            if self.truth is None:
                raise ValueError(
                    "the semantic oracle needs the truth of the image, which only an evaluation "
                    "on a data set has: set MODEL.COPS.INFERENCE.SEMANTIC_ORACLE False"
                )
            truth = self.truth.padded((class_costs.shape[-2], class_costs.shape[-1]))
            class_costs = oracle_class_costs(class_costs, edge_costs, truth.sem_seg.cpu())
        costs = refine_costs(
            class_costs, edge_costs, self.distances, self.input_size, options.stride
        )
        graph = grid_graph(*costs.class_costs.shape[-2:], costs.distances)
        result = solve_amwc(
            graph.node_costs_from_maps(costs.class_costs.numpy()),
            graph.edges,
            graph.edge_costs_from_maps(costs.edge_costs.numpy()),
            np.asarray(self.is_thing),
            method=options.method,
        )
        self._solved[key] = graph, costs, result
        return self._solved[key]

    def panoptic(self, options: InferenceOptions) -> Panoptic:
        """The panoptic map at the size of the result."""
        graph, costs, result = self.solve(options)
        classes, clusters = self._labels(graph, result)
        scores = instance_scores(
            classes, clusters, -costs.class_costs.numpy(), -costs.edge_costs.numpy(), graph
        )
        return segments_from_labels(
            classes,
            clusters,
            self.is_thing,
            self.input_size,
            self.output_size,
            stride=options.stride,
            scores=scores,
            thing_area_limit=options.thing_area_limit,
            stuff_area_limit=options.stuff_area_limit,
        )

    def outputs(self, options: InferenceOptions) -> dict[str, Any]:
        """Everything that the meta-architecture returns of an image but the variants."""
        graph, _, result = self.solve(options)
        _, clusters = self._labels(graph, result)
        # Average precision ranks instances by their scores, so even small ones may take part.
        untrimmed = self.panoptic(options.changed({"thing_area_limit": 0}))
        height, width = (-(-length // STRIDE) for length in self.input_size)
        return {
            "sem_seg": semantic_probabilities(self.class_logits, self.input_size, self.output_size),
            "panoptic_seg": self.panoptic(options),
            "instances": instances_from_segments(untrimmed, self.is_thing),
            "cut_edges": cut_edge_map(clusters),
            "affinity_map": cut_probability_map(-self.edge_costs[:, :height, :width]),
        }

    @staticmethod
    def _labels(graph: GridGraph, result: Result) -> tuple[np.ndarray, np.ndarray]:
        size = (graph.height, graph.width)
        return result.node_classes.reshape(size), result.node_clusters.reshape(size)
