"""From the costs of one image to its outputs: solve, then post-process.

Abbas, Swoboda, NeurIPS 2021, 4.2 "Resolution", A.6 to A.8.

Shapes: K classes; D distances; h, w cells of the network's grid, stride 4 or 2; H, W pixels of
the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from cops.grid_graph import GridGraph, grid_graph
from cops.modeling.postprocess import (
    Panoptic,
    cut_edge_map,
    cut_probability_map,
    instances_from_segments,
    oracle_class_costs,
    segments_from_labels,
    semantic_probabilities,
)
from cops.modeling.refine import RefinedCosts, refine_costs
from cops.runtime.instance_scores import instance_scores
from cops.solver import METHODS, Result, solve_amwc
from cops.targets import GRID_STRIDE, CopsTarget, build_target_function

STRIDE = GRID_STRIDE  # of the network's grid in the paper
MOST_SOLUTIONS = 24  # of one image that are kept: 10 MB each at 1024 x 2048 pixels


@dataclass(frozen=True)
class InferenceOptions:
    """How a panoptic map is made.

    Attributes:
        method: of `cops.solver.solve_amwc`, one of its METHODS.
        stride: of the grid that is solved: 4, 2 or 1 (A.7).
        thing_area_limit: things below this area, in pixels of the result, become void (4.1).
        stuff_area_limit: stuff likewise.
        edge_offset: added to every edge cost; above 0 joins more.
        semantic_oracle: replace the class costs by the truth (Table 9).
        trim_instances: things below their limit are no detections either.
        max_instances: only so many things of an image, the surest, become detections.
    """

    method: str = "greedy"
    stride: int = 4
    thing_area_limit: int = 200
    stuff_area_limit: int = 2048
    edge_offset: float = 0.0
    semantic_oracle: bool = False
    trim_instances: bool = False
    max_instances: int = 100

    def __post_init__(self) -> None:
        if self.stride not in (1, 2, 4):
            raise ValueError(f"stride is {self.stride}: use 4, 2 or 1")
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}: use one of {METHODS}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceOptions:
        """Read MODEL.COPS.INFERENCE, its SOLVER.METHOD, and TEST.DETECTIONS_PER_IMAGE."""
        node = cfg.MODEL.COPS
        return cls(
            method=node.SOLVER.METHOD,
            stride=node.INFERENCE.STRIDE,
            thing_area_limit=node.INFERENCE.THING_AREA_LIMIT,
            stuff_area_limit=node.INFERENCE.STUFF_AREA_LIMIT,
            edge_offset=node.INFERENCE.EDGE_OFFSET,
            semantic_oracle=node.INFERENCE.SEMANTIC_ORACLE,
            trim_instances=node.INFERENCE.TRIM_INSTANCES,
            max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    def changed(self, changes: Mapping[str, Any]) -> InferenceOptions:
        """Return the same options but for some."""
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
    """Build the target function for test images, if the semantic oracle wants their truth.

    Args:
        cfg: a config completed from the class table.

    Returns:
        That of `build_target_function`, or None.
    """
    chosen = [VARIANTS.get(name, {}) for name in cfg.TEST.PANOPTIC_VARIANTS]
    oracle = cfg.MODEL.COPS.INFERENCE.SEMANTIC_ORACLE
    if not oracle and not any("semantic_oracle" in changes for changes in chosen):
        return None
    return build_target_function(cfg)


class SolvedImage:
    """One image's costs, and what different options make of them; solutions are kept.

    Args:
        class_logits: (K, h, w), padding included, as the next two.
        class_costs: (K, h, w).
        edge_costs: (2 D, h, w).
        distances: D, in cells.
        is_thing: K flags.
        input_size: of the network's input without padding, in pixels.
        output_size: (H, W).
        grid_stride: of the network's grid.
        truth: for the semantic oracle only.
        num_threads: of one solve; None: as many as torch uses.
    """

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
        grid_stride: int = STRIDE,
        truth: CopsTarget | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.class_logits = class_logits
        self.class_costs = class_costs.detach().float().cpu()
        self.edge_costs = edge_costs.detach().float().cpu()
        self.distances = tuple(distances)
        self.is_thing = tuple(is_thing)
        self.input_size = input_size
        self.output_size = output_size
        self.grid_stride = grid_stride
        self.truth = truth
        self.num_threads = num_threads
        self._solved: dict[
            tuple[str, int, float, bool], tuple[GridGraph, RefinedCosts, Result]
        ] = {}

    def solve(self, options: InferenceOptions) -> tuple[GridGraph, RefinedCosts, Result]:
        """Solve once per kind of problem; returns the grid, its costs and the solution.

        Raises:
            ValueError: the semantic oracle is asked for, but there is no truth.
        """
        key = (options.method, options.stride, options.edge_offset, options.semantic_oracle)
        if key in self._solved:
            return self._solved[key]
        class_costs, edge_costs = self.class_costs, self.edge_costs + options.edge_offset
        if options.semantic_oracle:
            if self.truth is None:
                raise ValueError(
                    "semantic_oracle needs the truth of the image, which only an evaluation on a "
                    "data set has: switch it off"
                )
            truth = self.truth.padded((class_costs.shape[-2], class_costs.shape[-1]))
            class_costs = oracle_class_costs(class_costs, edge_costs, truth.sem_seg.cpu())
        costs = refine_costs(
            class_costs,
            edge_costs,
            self.distances,
            self.input_size,
            options.stride,
            self.grid_stride,
        )
        graph = grid_graph(*costs.class_costs.shape[-2:], costs.distances)
        result = solve_amwc(
            graph.node_costs_from_maps(costs.class_costs.numpy()),
            graph.edges,
            graph.edge_costs_from_maps(costs.edge_costs.numpy()),
            np.asarray(self.is_thing),
            method=options.method,
            num_threads=self.num_threads or torch.get_num_threads(),
        )
        if len(self._solved) >= MOST_SOLUTIONS:
            del self._solved[next(iter(self._solved))]  # the oldest
        self._solved[key] = graph, costs, result
        return self._solved[key]

    def panoptic(self, options: InferenceOptions) -> Panoptic:
        """Make the panoptic map at the size of the result."""
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
        """Make all that the meta-architecture returns of an image but the variants."""
        graph, _, result = self.solve(options)
        _, clusters = self._labels(graph, result)
        # Average precision ranks instances by their scores, so even small ones may take part.
        limit = options.thing_area_limit if options.trim_instances else 0
        detected = self.panoptic(options.changed({"thing_area_limit": limit}))
        height, width = (-(-length // self.grid_stride) for length in self.input_size)
        costs = self.edge_costs[:, :height, :width] + options.edge_offset
        return {
            "sem_seg": semantic_probabilities(
                self.class_logits, self.input_size, self.output_size, stride=self.grid_stride
            ),
            "panoptic_seg": self.panoptic(options),
            "instances": instances_from_segments(detected, self.is_thing, options.max_instances),
            "cut_edges": cut_edge_map(clusters),
            "affinity_map": cut_probability_map(-costs),
        }

    @staticmethod
    def _labels(graph: GridGraph, result: Result) -> tuple[np.ndarray, np.ndarray]:
        size = (graph.height, graph.width)
        return result.node_classes.reshape(size), result.node_clusters.reshape(size)
