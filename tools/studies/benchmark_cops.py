#!/usr/bin/env python3
"""Where the time of a training step through the solver goes: network, AMWC, MWC (Table 3).

    python tools/studies/benchmark_cops.py
    python tools/studies/benchmark_cops.py --batch 4 --size 512 1024 --threads 1 2 --methods greedy
    python tools/studies/benchmark_cops.py --json output/benchmark_cops.json

The network is that of a config, with random weights, frozen as in fine-tuning. Random weights would
hand the solver a problem unlike any that training meets, so its maps are replaced by planted ones
(`cops.solver.planted`) of a truth that is planted too; gradients still go back through the network.
Each step counts as one sample; compiling comes first and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from cops.grid_graph import grid_graph
from cops.modeling.meta_arch import COPS, STRIDE, Maps
from cops.solver import METHODS, solve_amwc
from cops.solver.planted import planted_problem
from cops.targets import make_cops_targets
from panoptic_common.config import load_config
from panoptic_tools.studies.library.seed_tables import markdown_rows

ROOT = Path(__file__).resolve().parents[2]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--config-file", default=str(ROOT / "configs/cops/cityscapes/full.yaml"))
    add("--batch", type=int, default=4, help="images a step (default 4)")
    add("--size", type=int, nargs=2, default=[512, 1024], metavar=("H", "W"), help="of an image")
    add("--classes", type=int, default=19, help="K, the upper half of them things (default 19)")
    add("--noise", type=float, default=3.0, help="of the planted costs (default 3)")
    add("--methods", nargs="+", choices=METHODS, default=["greedy"])
    add("--threads", type=int, nargs="+", default=[1, 2], help="of solver and network")
    add("--repeat", type=int, default=3, help="steps; the median counts (default 3)")
    add("--json", type=Path, help="also write the table here")
    parsed = parser.parse_args(arguments)
    if min(parsed.batch, parsed.repeat, *parsed.threads) < 1 or parsed.classes < 2:
        parser.error("--batch, --repeat and --threads must be at least 1, --classes 2")
    if any(side % STRIDE or side < 32 for side in parsed.size):
        parser.error(f"--size must be multiples of {STRIDE} of 32 or more")
    return parsed


def build(arguments: argparse.Namespace, method: str, threads: int) -> COPS:
    """The model of the config in training mode."""
    flags = things_of(arguments.classes)
    table = [{"name": f"class {k}", "isthing": int(flag)} for k, flag in enumerate(flags)]
    cfg = load_config(arguments.config_file, table=table)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.COPS.SOLVER.METHOD = method
    cfg.MODEL.COPS.SOLVER.THREADS = threads
    for norm in (cfg.MODEL.RESNETS, cfg.MODEL.COPS.SEMANTIC, cfg.MODEL.COPS.AFFINITY):
        norm.NORM = "BN"  # SyncBN needs several processes
    torch.manual_seed(0)
    return build_model(cfg).train()


def things_of(num_classes: int) -> list[bool]:
    """Which classes `planted_problem` makes partitionable."""
    return [k >= num_classes // 2 for k in range(num_classes)]


def plant(
    arguments: argparse.Namespace, distances: Sequence[int]
) -> tuple[list[dict[str, Any]], torch.Tensor, torch.Tensor]:
    """A batch of images of noise with planted truths, and class and edge costs for them.

    Returns:
        Inputs of the model, (N, K, h, w) and (N, 2 D, h, w).
    """
    height, width = (side // STRIDE for side in arguments.size)
    graph = grid_graph(height, width, tuple(distances))
    flags = things_of(arguments.classes)
    batch, class_costs, edge_costs = [], [], []
    for seed in range(arguments.batch):
        settings = (seed, height, width, arguments.classes, graph.distances)
        truth = solve_amwc(*planted_problem(*settings, noise=0.0))
        problem = planted_problem(*settings, noise=arguments.noise)
        if not np.array_equal(problem.edges, graph.edges):
            raise AssertionError("the planted grid and cops.grid_graph order edges differently")
        id_map = truth.node_clusters.reshape(height, width) + 1
        classes = np.zeros(id_map.max() + 1, dtype=np.int64)
        classes[truth.node_clusters + 1] = truth.node_classes
        segments = [
            {"id": i, "category_id": int(classes[i]), "iscrowd": 0} for i in range(1, len(classes))
        ]
        enlarged = id_map.repeat(STRIDE, axis=0).repeat(STRIDE, axis=1).astype(np.int32)
        image = torch.from_numpy(
            np.random.default_rng(seed).integers(0, 256, (3, *arguments.size)).astype(np.uint8)
        )
        batch.append({"image": image, **make_cops_targets(enlarged, segments, flags, distances)})
        class_costs.append(torch.from_numpy(graph.maps_from_nodes(problem.node_costs)))
        edge_costs.append(torch.from_numpy(graph.maps_from_edges(problem.edge_costs)))
    return batch, torch.stack(class_costs), torch.stack(edge_costs)


def measure(arguments: argparse.Namespace, method: str, threads: int) -> dict[str, Any]:
    """Median seconds of one configuration."""
    torch.set_num_threads(threads)
    model = build(arguments, method, threads)
    batch, class_costs, edge_costs = plant(arguments, model.distances)
    predict = model.predict_maps

    def planted(images: torch.Tensor) -> Maps:
        maps = predict(images)
        return maps._replace(
            class_costs=class_costs + 0.0 * maps.class_costs,
            edge_costs=edge_costs + 0.0 * maps.edge_costs,
        )

    model.predict_maps = planted  # type: ignore[method-assign]
    samples = []
    for step in range(arguments.repeat + 1):
        start = time.perf_counter()
        with EventStorage():
            loss = sum(model(batch).values())
            loss.backward()
        total = time.perf_counter() - start
        amwc = model.amwc.statistics.forward_seconds
        mwc = model.amwc.statistics.backward_seconds
        if step:  # the first one compiles
            samples.append((total, amwc, mwc, total - amwc - mwc))
    medians = [statistics.median(column) for column in zip(*samples, strict=True)]
    names = ("overall", "AMWC", "MWC", "network and loss")
    figures = {name: round(value, 3) for name, value in zip(names, medians, strict=True)}
    return {"method": method, "threads": threads, **figures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(arguments)
    print(
        f"{Path(options.config_file).name}: batch {options.batch} of {options.size[0]} x "
        f"{options.size[1]}, K = {options.classes}, noise {options.noise}, {os.cpu_count()} cores, "
        f"median of {options.repeat} steps, seconds",
        flush=True,
    )
    rows: list[dict[str, Any]] = []
    for method in options.methods:
        for threads in options.threads:
            rows.append(measure(options, method, threads))
            header, line, row = markdown_rows(list(rows[-1]), [[*map(str, rows[-1].values())]])
            print("\n".join([row] if rows[1:] else [header, line, row]), flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
