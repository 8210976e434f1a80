#!/usr/bin/env python3
"""What a warm start, or another solver, does to the gradient through the solver (Algorithm 1).

    python tools/studies/compare_backward.py --config-file configs/cops/scenes/full_multilevel.yaml \
        MODEL.WEIGHTS output/cops/scenes/pretrain/model_final.pth

Takes batches of training images, solves them, and differentiates the PQ surrogate. Then, for each
lambda, the perturbed problem is solved in several ways, and each way's gradient is compared with
that of the multilevel solver from scratch: cosine and ratio of L2 norms, of class and edge costs
together. The forward solution and the surrogate's gradient are the same for all ways.

The row "other lambdas" compares two draws of lambda, both from scratch: what chance does anyhow.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import torch
from detectron2.config import CfgNode

from cops import build_target_function
from cops.layers.amwc import AmwcLayer
from cops.layers.lifting import algorithm_1
from cops.layers.perturbation import average_changes
from cops.layers.solved_batch import build_problems
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.config import load_config
from panoptic_common.engine.trainer import PanopticTrainer
from panoptic_tools.studies.library.seed_tables import markdown_rows

ROOT = Path(__file__).resolve().parents[2]

SCRATCH = {"method": "multilevel"}
# Row: how the perturbed problem is solved.
WAYS: dict[str, dict[str, Any]] = {
    "multilevel, warm start": {"method": "multilevel", "warm_start": True},
    "greedy": {"method": "greedy"},
    "other lambdas": SCRATCH,
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config-file", required=True, help="a config that trains the surrogate")
    parser.add_argument("--batches", type=int, default=10, help="training batches (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of images and lambdas (default 0)")
    parser.add_argument("--json", type=Path, help="also write the figures of each image here")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    parsed = parser.parse_args(arguments)
    if parsed.batches < 1:
        parser.error("--batches must be at least 1")
    if len(parsed.opts) % 2:
        parser.error("opts are pairs of key and value")
    return parsed


def read_config(arguments: argparse.Namespace) -> CfgNode:
    """The complete config.

    Raises:
        ValueError: it does not train the surrogate.
    """
    cfg = load_config(arguments.config_file, arguments.opts)
    cfg.SEED = arguments.seed
    cfg.DATALOADER.NUM_WORKERS = 0
    if cfg.MODEL.COPS.TRAINING != "surrogate":
        raise ValueError(
            f'MODEL.COPS.TRAINING is {cfg.MODEL.COPS.TRAINING!r}: give a config with "surrogate"'
        )
    # The reference is what "multilevel" gives from scratch.
    cfg.MODEL.COPS.SOLVER.METHOD = "multilevel"
    cfg.MODEL.COPS.BACKWARD.WARM_START = False
    return cfg


class Trainer(PanopticTrainer):
    """Gives the training images of a config."""

    @classmethod
    def build_target_function(cls, cfg: CfgNode) -> Any:
        return build_target_function(cfg)


def compare_batch(model: Any, batch: list[dict], seed: int) -> list[dict[str, Any]]:
    """The figures of every image and way of one batch.

    Args:
        model: in training mode, with an `AmwcLayer`.
        batch: as `model` takes it.
        seed: of the lambdas.

    Returns:
        Dicts with "way", "cosine", "norm_ratio" (nan where both, or the reference, are zero),
        "reacted" (share of lambdas) and "seconds" of one solve. The
        reference itself is compared with nothing.
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
        known_edges = problem.graph.edge_costs_from_maps((truth.edge_weights > 0).numpy())
        given = (
            problem,
            label.solution,
            label.classes.numpy(),
            mask_gradient.flatten(1).numpy().T.copy(),
            (truth.segment_map >= 0).flatten().numpy(),
            known_edges,
        )
        reference: np.ndarray | None = None
        for way, keywords in {"from scratch": SCRATCH, **WAYS}.items():
            chosen = others if way == "other lambdas" else lambdas
            react = algorithm_1(*given, **keywords)
            start = time.perf_counter()
            changes = [react(float(value)) for value in chosen]
            seconds = (time.perf_counter() - start) / len(chosen)
            found = average_changes(label.solution, changes, chosen, problem.node_costs.shape[1])
            gradient = np.concatenate([found.node_costs.ravel(), found.edge_costs])
            figure = {"way": way, "reacted": float(found.reacted.mean()), "seconds": seconds}
            if reference is None:
                reference = gradient
            else:
                figure |= compare(gradient, reference)
            figures.append(figure)
    return figures


def compare(gradient: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Cosine and ratio of norms; nan where one of them is not defined."""
    ours, theirs = (float(np.linalg.norm(x.astype(np.float64))) for x in (gradient, reference))
    inner = float(gradient.astype(np.float64) @ reference.astype(np.float64))
    return {
        "cosine": inner / (ours * theirs) if ours and theirs else float("nan"),
        "norm_ratio": ours / theirs if theirs else float("nan"),
    }


def as_markdown(figures: Sequence[dict[str, Any]]) -> str:
    """Medians and quartiles over the images."""

    def quartiles(way: str, key: str) -> str:
        values = [f.get(key, math.nan) for f in figures if f["way"] == way]
        values = [value for value in values if not math.isnan(value)]
        if len(values) < 2:
            return "-"
        low, middle, high = statistics.quantiles(values, n=4)
        return f"{middle:.3f} ({low:.3f} to {high:.3f})"

    rows = []
    for way in dict.fromkeys(figure["way"] for figure in figures):
        own = [figure for figure in figures if figure["way"] == way]
        rows.append(
            [
                way,
                quartiles(way, "cosine"),
                quartiles(way, "norm_ratio"),
                f"{100 * statistics.mean(f['reacted'] for f in own):.0f} %",
                f"{1e3 * statistics.median(f['seconds'] for f in own):.1f}",
            ]
        )
    headings = ["", "cosine", "ratio of norms", "reacted", "ms a solve"]
    return "\n".join(markdown_rows(headings, rows)) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        cfg = read_config(options)
        model = Trainer.build_model(cfg)
        PanopticCheckpointer(model, cfg=cfg).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    except (ValueError, OSError, KeyError) as error:
        print(f"compare_backward: {error}", file=sys.stderr)
        return 1
    model.train()
    figures = []
    loader = iter(Trainer.build_train_loader(cfg))
    for index in range(options.batches):
        figures += compare_batch(model, next(loader), options.seed + index)
    print(f"{len(figures) // (len(WAYS) + 1)} images: median (quartiles)\n")
    print(as_markdown(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
