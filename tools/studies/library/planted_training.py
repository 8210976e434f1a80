"""A training step of COPS on planted costs and truths, for benchmarks.

Random weights would hand the solver a problem unlike any that training meets.

Shapes: N images; K classes; D distances; H, W pixels; h = H / 4, w = W / 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from cops.grid_graph import grid_graph
from cops.modeling.meta_arch import COPS, STRIDE
from cops.solver import solve_amwc
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem
from cops.targets import make_cops_targets
from panoptic_common.config import load_config


def class_table(num_classes: int) -> list[dict[str, Any]]:
    """Return as many classes, the upper half of them things."""
    flags = things_of(num_classes)
    return [{"name": f"class {k}", "isthing": int(flag)} for k, flag in enumerate(flags)]


def build_trainable(config_file: str, num_classes: int, method: str, threads: int) -> COPS:
    """Build the model of a config with random weights, on the CPU and in training mode.

    Args:
        config_file: trains through the solver.
        num_classes: K.
        method: of the solver.
        threads: of the solver.

    Raises:
        ValueError, FileNotFoundError: something about the config is wrong; says what.
    """
    cfg = load_config(config_file, table=class_table(num_classes))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.COPS.SOLVER.METHOD = method
    cfg.MODEL.COPS.SOLVER.THREADS = threads
    for norm in (cfg.MODEL.RESNETS, cfg.MODEL.COPS.SEMANTIC, cfg.MODEL.COPS.AFFINITY):
        norm.NORM = "BN"  # SyncBN needs several processes
    torch.manual_seed(0)
    return build_model(cfg).train()


def things_of(num_classes: int) -> list[bool]:
    """Return which classes `planted_problem` makes partitionable."""
    return [k >= num_classes // 2 for k in range(num_classes)]


def plant_batch(
    num_images: int,
    size: tuple[int, int],
    num_classes: int,
    distances: Sequence[int],
    noise: float,
) -> tuple[list[dict[str, Any]], torch.Tensor, torch.Tensor]:
    """Draw a batch of images of noise with planted truths, and class and edge costs for them.

    Args:
        num_images: N; their numbers are the seeds.
        size: (H, W), multiples of `STRIDE`.
        num_classes: K.
        distances: D, in cells.
        noise: of the planted costs.

    Returns:
        Inputs of the model, (N, K, h, w) and (N, 2 D, h, w).
    """
    graph = grid_graph(size[0] // STRIDE, size[1] // STRIDE, tuple(distances))
    batch, class_costs, edge_costs = [], [], []
    for seed in range(num_images):
        problem, sample = plant_image(seed, size, num_classes, tuple(distances), noise)
        if not np.array_equal(problem.edges, graph.edges):
            raise AssertionError("the planted grid and cops.grid_graph order edges differently")
        batch.append(sample)
        class_costs.append(torch.from_numpy(graph.maps_from_nodes(problem.node_costs)))
        edge_costs.append(torch.from_numpy(graph.maps_from_edges(problem.edge_costs)))
    return batch, torch.stack(class_costs), torch.stack(edge_costs)


def plant_image(
    seed: int, size: tuple[int, int], num_classes: int, distances: tuple[int, ...], noise: float
) -> tuple[Problem, dict[str, Any]]:
    """Draw one problem with noise, and an image whose truth is its solution without.

    Args:
        seed: of layout and noise.
        size: (H, W).
        num_classes: K.
        distances: D, in cells.
        noise: of the costs.
    """
    height, width = (side // STRIDE for side in size)
    settings = (seed, height, width, num_classes, distances)
    truth = solve_amwc(*planted_problem(*settings, noise=0.0), method="greedy")
    id_map = truth.node_clusters.reshape(height, width) + 1
    classes = np.zeros(id_map.max() + 1, dtype=np.int64)
    classes[truth.node_clusters + 1] = truth.node_classes
    segments = [
        {"id": i, "category_id": int(classes[i]), "iscrowd": 0} for i in range(1, len(classes))
    ]
    enlarged = id_map.repeat(STRIDE, axis=0).repeat(STRIDE, axis=1).astype(np.int32)
    image = np.random.default_rng(seed).integers(0, 256, (3, *size)).astype(np.uint8)
    targets = make_cops_targets(enlarged, segments, things_of(num_classes), distances)
    problem = planted_problem(*settings, noise=noise)
    return problem, {"image": torch.from_numpy(image), **targets}


def training_step(model: nn.Module, batch: list[dict[str, Any]]) -> None:
    """Run one step forward and backward, without an optimizer."""
    with EventStorage():
        loss = sum(model(batch).values())
        loss.backward()


@contextmanager
def given_costs(
    layer: nn.Module, class_costs: torch.Tensor, edge_costs: torch.Tensor
) -> Iterator[None]:
    """While the context lasts, a layer solves other costs than the network's.

    Gradients still go back through the network, and costs that were dropped stay zero.

    Args:
        layer: an `AmwcLayer` or `AmwcLabelsLayer`.
        class_costs: (N, K, h, w).
        edge_costs: (N, 2 D, h, w).
    """

    def instead(_layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        networks, others = arguments[:2], arguments[2:]
        given = zip((class_costs, edge_costs), networks, strict=True)
        return (*(cost * (own != 0) + 0.0 * own for cost, own in given), *others)

    hook = layer.register_forward_pre_hook(instead)
    try:
        yield
    finally:
        hook.remove()
