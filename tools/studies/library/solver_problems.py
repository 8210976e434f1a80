"""The problems of `tools/studies/benchmark_solver.py`: planted ones, and real costs from files.

Real costs are what the inference of a trained network hands to the solver; `dump_network` writes
them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cops.solver import check_problem
from cops.solver.files import read_problem
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem

CITYSCAPES = (1, 4, 16, 32, 64, 128)
COCO = (1, 4, 16, 32, 64)


class Size(NamedTuple):
    """A grid, its classes and distances, and how many things are drawn."""

    height: int
    width: int
    num_classes: int
    distances: tuple[int, ...]
    num_things: int = 40


GAP_SIZES = {f"{n}x{n}": Size(n, n, 6, (1, 3), n // 2) for n in (8, 10, 12, 16, 24)}
SIZES = GAP_SIZES | {
    "16x24": Size(16, 24, 5, (1, 4)),  # a second's trial of the program itself
    "64x128": Size(64, 128, 19, CITYSCAPES),
    "160x160": Size(160, 160, 133, COCO),
    "256x512": Size(256, 512, 19, CITYSCAPES),
    "512x1024": Size(512, 1024, 19, CITYSCAPES),
    "1024x2048": Size(1024, 2048, 19, CITYSCAPES),
}
SIZES_BY_DEFAULT = ["64x128", "160x160", "256x512"]
GAP_SIZES_BY_DEFAULT = ["8x8", "10x10", "12x12", "16x16"]


def all_problems(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Problem]]:
    """Yield problems and what describes them, made one at a time: large ones take some 100 MB."""
    for path in options.load:
        yield (
            {"problem": path.stem, "noise": None, "variant": "file", "seed": None},
            load_problem(path),
        )
    for name in options.sizes if not options.load else []:
        *size, num_things = SIZES[name]
        for variant in options.variants:
            for noise in options.noise:
                for seed in options.seeds:
                    problem = planted_problem(seed, *size, noise, variant, num_things)
                    yield dict(problem=name, noise=noise, variant=variant, seed=seed), problem


def load_problem(path: Path) -> Problem:
    """Read the problem in a file of one of the forms of `cops.solver.files`.

    Raises:
        ValueError: the file or the problem is malformed.
    """
    return check_problem(*read_problem(path).amwc())


def dump_images(model: Any, batches: Iterable[list[dict]], folder: Path, num: int) -> list[Path]:
    """Save the problems that a COPS model's inference makes of images.

    Args:
        model: in evaluation mode.
        batches: of a test loader, one image each.
        folder: for a file per image, named after the image's.
        num: how many images.

    Returns:
        The files.
    """
    import torch

    from cops.modeling.inference import SolvedImage

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for (inputs,) in batches:
        with torch.no_grad():
            images = model.preprocess([inputs])
            maps = model.predict_maps(images.tensor)
        image = SolvedImage(
            maps.class_logits[0],
            maps.class_costs[0],
            maps.edge_costs[0],
            distances=model.distances,
            is_thing=model.is_thing,
            input_size=images.image_sizes[0],
            output_size=images.image_sizes[0],
            truth=inputs.get("cops_target"),
        )
        # The grid and the costs that belong to the solution: what the solver was given.
        graph, costs, _ = image.solve(model.options)
        path = folder / f"{Path(inputs['file_name']).stem}.npz"
        np.savez(
            path,
            node_costs=graph.node_costs_from_maps(costs.class_costs.numpy()),
            edges=graph.edges,
            edge_costs=graph.edge_costs_from_maps(costs.edge_costs.numpy()),
            partitionable=np.asarray(model.is_thing),
        )
        written.append(path)
        if len(written) == num:
            break
    return written


def network_config(options: argparse.Namespace) -> Any:
    """Load the complete config of the network whose costs are wanted; register its data sets."""
    from panoptic_common.config import load_config
    from panoptic_common.engine.scaling import use_cpu_without_cuda

    # Who dumps need not have the training set.
    cfg = load_config(options.config_file, options.opts, only_test=True)
    cfg.MODEL.WEIGHTS = options.weights or cfg.MODEL.WEIGHTS
    use_cpu_without_cuda(cfg)
    return cfg


def dump_network(options: argparse.Namespace) -> list[Path]:
    """Build the network of the config, load its weights, and dump its first test images.

    Raises:
        ValueError, OSError: something cannot be used; says what.
    """
    cfg = network_config(options)

    from detectron2.modeling import build_model

    from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
    from panoptic_common.checkpoint.files import CheckpointError
    from panoptic_common.data.catalog import class_table
    from panoptic_common.engine.trainer import PanopticTrainer

    if not cfg.MODEL.WEIGHTS:
        raise ValueError("costs of an untrained network say little: give its --weights")
    name = cfg.DATASETS.TEST[0]
    model = build_model(cfg).eval()
    checkpointer = PanopticCheckpointer(model, cfg=cfg, class_table=class_table(name))
    try:
        checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[], purpose="evaluate")
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    loader = PanopticTrainer.build_test_loader(cfg, name)
    return dump_images(model, loader, options.dump, options.num)
