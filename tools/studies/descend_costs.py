#!/usr/bin/env python3
"""Gradient descent on the solver's costs alone: does the surrogate's gradient lead to true PQ?

    python tools/studies/descend_costs.py
    python tools/studies/descend_costs.py --seeds 0 1 2 --linear-share 0 --weight 10 --lambda-range 1 5000

There is no network. Each image is a synthetic scene; its costs are made from the truth and then
spoiled: noise, a shift, things that are merged with a neighbour, things that are missing. Adam
moves the costs along the gradient that comes back through the solver (Abbas and Swoboda, NeurIPS
2021, Algorithm 1), and the surrogate (Eq. 6) and true PQ on the grid are printed beside each other.

True PQ should reach 100 for every image none of whose true segments lies below its class's
rejection area, or is in pieces that no edge joins: that is no single segment to the solver. What
stops an image is told at the end: true segments that are missed (with their
area, the limit, and whether any prediction overlaps them), predictions too many, and pairs that
match but not perfectly.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from cops.grid_graph import grid_graph
from cops.layers.amwc import AmwcLayer
from cops.layers.panoptic_masks import PanopticMasks
from cops.layers.perturbation import SolverSettings
from cops.losses.panoptic_quality import FORMS, PanopticQualityLoss, true_statistics
from cops.targets import CopsTarget, make_cops_targets
from panoptic_common.scenes.storage import CLASSES, SceneConfig, make_scene

ROOT = Path(__file__).resolve().parents[2]

IS_THING = tuple(bool(entry["isthing"]) for entry in CLASSES)
STRIDE = 4


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", type=int, default=8, help="in each batch")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 192), help="height and width")
    parser.add_argument("--distances", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--learning-rate", type=float, default=0.3)
    parser.add_argument("--weight", type=float, default=1000.0, help="w")
    parser.add_argument("--samples", type=int, default=1, help="lambdas a step")
    parser.add_argument("--lambda-range", type=float, nargs=2, default=(1000.0, 5000.0))
    parser.add_argument("--form", choices=FORMS, default="authors")
    parser.add_argument("--linear-share", type=float, default=0.4)
    parser.add_argument("--thing-limit", type=float, default=3.0, help="rejection area in cells")
    parser.add_argument("--stuff-limit", type=float, default=8.0)
    parser.add_argument("--method", default="greedy")
    parser.add_argument("--warm-start", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=10, help="steps between lines")
    return parser.parse_args(arguments)


# ---- poor costs ---------------------------------------------------------------------------------


def make_truth(seed: int, size: Sequence[int], distances: Sequence[int]) -> CopsTarget:
    """The truth of one scene on the grid."""
    scene = make_scene(seed, SceneConfig(height=size[0], width=size[1]))
    contiguous = {entry["id"]: index for index, entry in enumerate(CLASSES)}
    segments = [s | {"category_id": contiguous[s["category_id"]]} for s in scene.segments_info]
    return make_cops_targets(scene.id_map, segments, IS_THING, distances)["cops_target"]


def smooth_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Noise (C, h, w) of unit variance whose patches are about three cells wide."""
    noise = torch.randn(1, *shape, generator=generator)
    noise = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)[0]
    return noise / noise.std()


def poor_costs(
    truth: CopsTarget, distances: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Class costs (K, h, w) and edge costs (2 D, h, w) of an image that is seen badly."""
    segments = truth.segment_map.clone()
    is_thing = [IS_THING[c] for c in truth.classes.tolist()]
    things = [s for s, thing in enumerate(is_thing) if thing]
    stuff = [s for s, thing in enumerate(is_thing) if not thing]
    for segment, fate in zip(things, torch.rand(len(things), generator=generator), strict=True):
        where = truth.segment_map == segment
        same = [s for s in things if truth.classes[s] == truth.classes[segment]]
        if fate < 0.2 and stuff:  # missing: it looks like some stuff
            segments[where] = stuff[0]
        elif fate < 0.4:  # merged with the next thing of its class
            segments[where] = same[(same.index(segment) + 1) % len(same)]
    shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
    segments = segments.roll(shift, (0, 1))

    seen = torch.cat([truth.classes, torch.zeros(1, dtype=torch.int64)])[segments.long()]
    likes = torch.nn.functional.one_hot(seen, len(IS_THING)).permute(2, 0, 1) * (segments >= 0)
    class_costs = -2.0 * likes + 0.8 * smooth_noise(likes.shape, generator)
    graph = grid_graph(*segments.shape, distances)
    ends = segments.flatten()[torch.from_numpy(graph.edges).long()]
    cut = graph.maps_from_edges((ends[:, 0] != ends[:, 1]).float().numpy())
    edge_costs = 1.0 - 2.0 * torch.from_numpy(cut) + 0.8 * smooth_noise(cut.shape, generator)
    return class_costs, edge_costs


# ---- descent ------------------------------------------------------------------------------------


def true_quality(
    predictions: Sequence[PanopticMasks], truths: Sequence[CopsTarget], limits: Tensor
) -> float:
    """True PQ in percent over some images."""
    return 100 * true_statistics(predictions, truths, limits).quality(IS_THING).all.pq


def in_one_piece(truth: CopsTarget, distances: Sequence[int]) -> Tensor:
    """(S,) whether a true thing can be one segment: whether its own edges join all its cells."""
    graph = grid_graph(*truth.segment_map.shape, distances)
    segment_of = truth.segment_map.flatten().numpy()
    ends = graph.edges[segment_of[graph.edges[:, 0]] == segment_of[graph.edges[:, 1]]]
    joined = coo_matrix((np.ones(len(ends)), ends.T), shape=(graph.num_nodes,) * 2)
    _, piece = connected_components(joined, directed=False)
    return torch.tensor(
        [
            not IS_THING[category] or len(np.unique(piece[segment_of == segment])) == 1
            for segment, category in enumerate(truth.classes.tolist())
        ]
    )


def explain(
    prediction: PanopticMasks, truth: CopsTarget, limits: Tensor, distances: Sequence[int]
) -> Counter:
    """What keeps one image from 100, in kinds of errors."""
    kinds: Counter = Counter()
    labels = torch.from_numpy(prediction.solution.node_clusters).long()
    segment_map = truth.segment_map.flatten()
    partner = {int(s): j for j, s in enumerate(prediction.match) if s >= 0}
    whole = in_one_piece(truth, distances)
    for segment, category in enumerate(truth.classes.tolist()):
        where = segment_map == segment
        note = "" if whole[segment] else " (truth in pieces that no edge joins)"
        note = " (truth below its limit)" if where.sum() < limits[category] else note
        mask = partner[segment]
        if mask >= prediction.num_predicted:
            kinds["missed, no overlap" + note] += 1
            continue
        found = (labels == mask) & (segment_map >= 0)
        iou = float((found & where).sum() / (found | where).sum())
        kept = (labels == mask).sum() >= limits[category]
        if not kept:
            kinds["matched, but rejected as small" + note] += 1
        elif iou < 1:
            kinds[("matched below 1/2" if iou <= 0.5 else "matched, not perfect") + note] += 1
    present = set(truth.classes.tolist())
    for mask in range(prediction.num_predicted):
        category, where = int(prediction.classes[mask]), labels == mask
        known = int((where & (segment_map >= 0)).sum())
        if int(prediction.match[mask]) < 0 and 2 * known >= int(where.sum()):
            kind = "too many" if where.sum() >= limits[category] else "too many, but rejected"
            kinds[kind + ("" if category in present else ", of a class not there")] += 1
    return kinds


def descend(
    seed: int, args: argparse.Namespace
) -> tuple[list[float], list[tuple[bool, bool]], Counter]:
    """One batch.

    Returns:
        True PQ of each image at the end; for each whether no true segment is below its limit, and
        whether all are in one piece besides; and how often each kind of error is left.
    """
    generator = torch.Generator().manual_seed(seed)
    truths, costs = [], []
    for image in range(args.images):
        truths.append(make_truth(1000 * seed + image, args.size, args.distances))
        costs.append(poor_costs(truths[-1], args.distances, generator))
    class_costs, edge_costs = (torch.stack(c).requires_grad_() for c in zip(*costs, strict=True))
    layer = AmwcLayer(
        SolverSettings(
            partitionable=IS_THING,
            distances=tuple(args.distances),
            num_samples=args.samples,
            lambda_range=tuple(args.lambda_range),
            method=args.method,
            num_threads=args.threads,
            warm_start=args.warm_start,
        )
    )
    limits = [args.thing_limit if thing else args.stuff_limit for thing in IS_THING]
    surrogate = PanopticQualityLoss(
        limits,
        weight=args.weight,
        form=args.form,
        linear_share=args.linear_share,
    )
    optimizer = torch.optim.Adam([class_costs, edge_costs], lr=args.learning_rate)
    for step in range(args.steps + 1):
        predictions = layer(class_costs, edge_costs, truths, generator)
        loss, _ = surrogate(predictions, truths)
        optimizer.zero_grad()
        loss.backward()
        if step % args.every == 0 or step == args.steps:
            smooth = 100 * (1 - float(loss.detach()) / args.weight)
            print(
                f"seed {seed} step {step:4d}  surrogate {smooth:6.2f}"
                f"  true PQ {true_quality(predictions, truths, surrogate.area_limits):6.2f}"
                f"  unreacted {layer.statistics.summary()['unreacted']:.2f}",
                flush=True,
            )
        if step < args.steps:
            optimizer.step()
    qualities, possible, errors = [], [], Counter()
    for prediction, truth in zip(predictions, truths, strict=True):
        qualities.append(true_quality([prediction], [truth], surrogate.area_limits))
        areas = torch.bincount(truth.segment_map.flatten() + 1)[1:]
        large = bool((areas >= surrogate.area_limits[truth.classes]).all())
        possible.append((large, large and bool(in_one_piece(truth, args.distances).all())))
        errors += explain(prediction, truth, surrogate.area_limits, args.distances)
    return qualities, possible, errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all seeds and sum up."""
    args = parse_args(arguments)
    torch.set_num_threads(1)
    began = time.perf_counter()
    qualities: list[float] = []
    possible: list[tuple[bool, bool]] = []
    errors: Counter = Counter()
    for seed in args.seeds:
        results = descend(seed, args)
        qualities, possible = qualities + results[0], possible + results[1]
        errors += results[2]
    scores, fair = np.array(qualities), np.array(possible)
    groups = {
        "all images": scores,
        "no truth below its limit": scores[fair[:, 0]],
        "... and none in pieces": scores[fair[:, 1]],
    }
    print(f"\n{len(args.seeds)} batches of {args.images}, {time.perf_counter() - began:.0f} s")
    for name, values in groups.items():
        if len(values):
            print(
                f"{name}: {len(values)} images, mean PQ {values.mean():.2f}, least "
                f"{values.min():.2f}, {(values > 99.99).mean():.0%} at 100, "
                f"{(values >= 99).mean():.0%} at 99 or more"
            )
    for kind, count in errors.most_common():
        print(f"  {count:4d}  {kind}")


if __name__ == "__main__":
    main()
