#!/usr/bin/env python3
"""Gradient descent on the solver's costs alone: does the surrogate's gradient lead to true PQ?

    python tools/studies/descend_costs.py
    python tools/studies/descend_costs.py --seeds 0 1 2 --linear-share 0 --weight 10

There is no network. Each image is a synthetic scene; its costs are made from the truth and then
spoiled: noise, a shift, things that are merged with a neighbour, things that are missing. Adam
moves the costs along the gradient that comes back through the solver (Abbas and Swoboda, NeurIPS
2021, Algorithm 1). The surrogate (Eq. 6) and true PQ on the grid are printed beside each other.

True PQ should reach 100 for an image unless a true segment lies below its class's rejection area,
or is in pieces that no edge joins. That is no single segment to the solver. What stops an image is
told at the end. These are true segments that are missed, with their area, the limit, and whether
any prediction overlaps them. The others are predictions too many, and pairs that match but not
perfectly.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import panoptic_common.compat

import numpy as np
import torch
from torch import Tensor

from cops.layers.amwc import AmwcLayer
from cops.layers.perturbation import SolverSettings
from cops.losses.panoptic_quality import FORMS, PanopticQualityLoss
from cops.solver import METHODS
from cops.targets import CopsTarget
from panoptic_tools.arguments import make_parser, require_at_least
from panoptic_tools.studies.library.measure import seconds_of
from panoptic_tools.studies.library.missing_quality import explain, in_one_piece, true_quality
from panoptic_tools.studies.library.poor_costs import IS_THING, make_truth, poor_costs
from panoptic_tools.value_types import finite


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", type=int, default=8, help="per batch")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 192), help="height and width")
    parser.add_argument("--distances", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--learning-rate", type=finite, default=0.3)
    parser.add_argument("--weight", type=finite, default=1000.0, help="w")
    parser.add_argument("--samples", type=int, default=1, help="lambdas per step")
    parser.add_argument("--lambda-range", type=finite, nargs=2, default=(1000.0, 5000.0))
    parser.add_argument("--form", choices=FORMS, default="authors")
    parser.add_argument("--linear-share", type=finite, default=0.4)
    parser.add_argument("--thing-limit", type=finite, default=3.0, help="rejection area in cells")
    parser.add_argument("--stuff-limit", type=finite, default=8.0)
    parser.add_argument("--method", choices=METHODS, default="greedy")
    parser.add_argument("--warm-start", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=10, help="steps between lines")
    parsed = parser.parse_args(arguments)
    require_at_least(parser, parsed, 1, "images", "distances", "samples", "threads", "every")
    require_at_least(parser, parsed, 0, "steps")
    require_at_least(parser, parsed, 32, "size")
    return parsed


class Ending(NamedTuple):
    """What has become of one image.

    Attributes:
        quality: true PQ in percent.
        large: no true segment is below its limit.
        possible: large, and all true segments are in one piece besides.
    """

    quality: float
    large: bool
    possible: bool


def make_batch(
    seed: int, args: argparse.Namespace, generator: torch.Generator
) -> tuple[list[CopsTarget], list[Tensor]]:
    """Return the truths of a batch, and class and edge costs that require gradients.

    Args:
        seed: of the scenes.
        args: of the command line.
        generator: of what spoils the costs.
    """
    truths, costs = [], []
    for image in range(args.images):
        truths.append(make_truth(1000 * seed + image, args.size, args.distances))
        costs.append(poor_costs(truths[-1], args.distances, generator))
    return truths, [torch.stack(c).requires_grad_() for c in zip(*costs, strict=True)]


def make_layer(args: argparse.Namespace) -> AmwcLayer:
    """Return the solver as a layer."""
    return AmwcLayer(
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


def make_surrogate(args: argparse.Namespace) -> PanopticQualityLoss:
    """Return the surrogate of PQ."""
    limits = [args.thing_limit if thing else args.stuff_limit for thing in IS_THING]
    return PanopticQualityLoss(
        limits, weight=args.weight, form=args.form, linear_share=args.linear_share
    )


def descend(seed: int, args: argparse.Namespace) -> tuple[list[Ending], Counter]:
    """Move the costs of one batch along the surrogate's gradient.

    Args:
        seed: of the batch.
        args: of the command line.

    Returns:
        The ending of each image, and how often each kind of error is left.
    """
    generator = torch.Generator().manual_seed(seed)
    truths, costs = make_batch(seed, args, generator)
    layer, surrogate = make_layer(args), make_surrogate(args)
    limits = surrogate.area_limits
    optimizer = torch.optim.Adam(costs, lr=args.learning_rate)
    for step in range(args.steps + 1):
        predictions = layer(*costs, truths, generator)
        loss, _ = surrogate(predictions, truths)
        optimizer.zero_grad()
        loss.backward()
        if step % args.every == 0 or step == args.steps:
            smooth = 100 * (1 - float(loss.detach()) / args.weight)
            print(
                f"seed {seed} step {step:4d}  surrogate {smooth:6.2f}"
                f"  true PQ {true_quality(predictions, truths, limits):6.2f}"
                f"  unreacted {layer.statistics.summary()['unreacted']:.2f}",
                flush=True,
            )
        if step < args.steps:
            optimizer.step()
    endings, errors = [], Counter()
    for prediction, truth in zip(predictions, truths, strict=True):
        areas = torch.bincount(truth.segment_map.flatten() + 1)[1:]
        large = bool((areas >= limits[truth.classes]).all())
        whole = bool(in_one_piece(truth, args.distances).all())
        quality = true_quality([prediction], [truth], limits)
        endings.append(Ending(quality, large, large and whole))
        errors += explain(prediction, truth, limits, args.distances)
    return endings, errors


def report(endings: Sequence[Ending], errors: Counter) -> str:
    """Return the summary over all images."""
    groups = {
        "all images": [e.quality for e in endings],
        "no truth below its limit": [e.quality for e in endings if e.large],
        "... and none in pieces": [e.quality for e in endings if e.possible],
    }
    lines = []
    for name, group in groups.items():
        values = np.array(group)
        if len(values):
            lines.append(
                f"{name}: {len(values)} images, mean PQ {values.mean():.2f}, least "
                f"{values.min():.2f}, {(values > 99.99).mean():.0%} at 100, "
                f"{(values >= 99).mean():.0%} at 99 or more"
            )
    lines += [f"  {count:4d}  {kind}" for kind, count in errors.most_common()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all seeds and sum up; return the exit status."""
    args = parse_arguments(arguments)
    torch.set_num_threads(1)
    endings: list[Ending] = []
    errors: Counter = Counter()

    def run() -> None:
        for seed in args.seeds:
            batch_endings, batch_errors = descend(seed, args)
            endings.extend(batch_endings)
            errors.update(batch_errors)

    seconds = seconds_of(run)
    print(f"\n{len(args.seeds)} batches of {args.images}, {seconds:.0f} s")
    print(report(endings, errors))
    return 0


if __name__ == "__main__":
    sys.exit(main())
