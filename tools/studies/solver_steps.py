#!/usr/bin/env python3
r"""Which way the gradient through the solver leads, and how far it can be followed.

    python tools/studies/solver_steps.py --config-file configs/cops/nuclei/full.yaml -- \
        MODEL.WEIGHTS cops/zoo/cops-nuclei.safetensors

Takes batches of training images and makes one step of Adam from the mean gradient of all of them,
with several rates. Measures true panoptic quality on these batches, and on as many others. The same
for the pre-training losses, and for a random direction as long as the first.

A gradient that is right raises quality at small rates on the images it was taken from. One that
also says something about other images raises it there. --edge-offsets begins at networks whose edge
costs are all moved by a constant, which calibration would take back. --agreement asks less: whether
the gradients of the two sets of images point the same way.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.files import write_json
from panoptic_tools.arguments import (
    checked,
    make_parser,
    output_file,
    refuse,
    require_at_least,
    require_pairs,
)
from panoptic_tools.studies.library.steps import (
    LOSSES,
    RANDOM,
    Standing,
    adam_step,
    agreement,
    edges_moved,
    random_step,
    standing,
    stepped,
)
from panoptic_tools.studies.library.surrogate_training import (
    loaded_model,
    surrogate_config,
    training_batches,
)
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.value_types import finite

RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01)
IMAGES = {"own": "its images", "others": "other images"}  # those of the gradient


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the config is `cfg` of the result."""
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="a config that trains the surrogate")
    parser.add_argument("--batches", type=int, default=16, help="to step from (default 16)")
    text = "of the steps; none: measure the network as it is"
    parser.add_argument("--rates", type=finite, nargs="*", default=RATES, help=text)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the images")
    parser.add_argument(
        "--edge-offsets",
        type=finite,
        nargs="+",
        default=[0.0],
        metavar="X",
        help="added to all edge costs of the network before (default 0)",
    )
    text = "also measure the cosine between the gradients of the two sets"
    parser.add_argument("--agreement", action="store_true", help=text)
    parser.add_argument("--json", type=output_file, help="also write all figures here")
    parser.add_argument("opts", nargs="*", help="config keys and values, after --")
    parsed = parser.parse_args(arguments)
    require_at_least(parser, parsed, 2, "batches")
    require_pairs(parser, parsed.opts)
    parsed.cfg = checked(parser, lambda: surrogate_config(parsed.config_file, parsed.opts))
    return parsed


def follow(
    model: Any,
    own: Sequence[list[dict]],
    others: Sequence[list[dict]],
    rates: Sequence[float],
    seed: int,
) -> list[dict[str, Any]]:
    """Step along each direction with each rate.

    Args:
        model: in training mode; unchanged.
        own: batches that the gradients are of.
        others: batches that they are not of.
        rates: of the steps.
        seed: of what losses draw, and of the random direction.

    Returns:
        A dict per direction and rate: "direction", "rate", and as "own" and "others" the change
        of each figure of a `Standing` by its name.
    """
    steps = {}
    if rates:
        steps = {name: adam_step(model, own, loss, seed) for name, loss in LOSSES.items()}
        steps[RANDOM] = random_step(next(iter(steps.values())), seed)
    sets = {"own": own, "others": others}
    before = {name: standing(model, batches) for name, batches in sets.items()}
    figures = []
    for direction, step in steps.items():
        for rate in rates:
            with stepped(model, step, rate):
                after = {name: standing(model, batches) for name, batches in sets.items()}
            changes = {name: before[name].change(after[name])._asdict() for name in sets}
            figures.append({"direction": direction, "rate": rate, **changes})
    start = {name: s._asdict() for name, s in before.items()}
    return [{"direction": "start", "rate": 0.0, **start}, *figures]


def agreements(
    model: Any, own: Sequence[list[dict]], others: Sequence[list[dict]], seed: int
) -> list[dict[str, Any]]:
    """Return a dict per loss: "direction", and as "cosine" the `agreement` of the two sets."""
    return [
        {"direction": name, "cosine": agreement(model, own, others, loss, seed)}
        for name, loss in LOSSES.items()
    ]


def as_markdown(figures: Sequence[dict[str, Any]], measure: str) -> str:
    """Return a table of the changes of one measure: rows are directions, columns rates.

    Args:
        figures: of `follow`, of all seeds.
        measure: a field of `Standing`.

    Returns:
        The mean over the seeds, and the least and the greatest if there are several.
    """

    def cell(direction: str, where: str, rate: float) -> str:
        values = [
            f[where][measure]
            for f in figures
            if (f["direction"], f.get("rate")) == (direction, rate)
        ]
        mean = f"{statistics.fmean(values):+.2f}"
        return mean if len(values) == 1 else f"{mean} ({min(values):+.2f} to {max(values):+.2f})"

    rates = sorted({f["rate"] for f in figures if f["direction"] != "start" and "rate" in f})
    rows = [
        [f"{direction}, {images}", *(cell(direction, where, rate) for rate in rates)]
        for direction in (*LOSSES, RANDOM)
        for where, images in IMAGES.items()
    ]
    return markdown_table([f"change of {measure}", *(f"{rate:g}" for rate in rates)], rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(arguments)
    cfg = options.cfg
    try:
        model = loaded_model(cfg)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        return refuse(__file__, error)
    everything = []
    for offset in options.edge_offsets:
        figures = []
        for seed in options.seeds:
            cfg.SEED = seed
            loader = training_batches(cfg)
            own, others = ([next(loader) for _ in range(options.batches)] for _ in range(2))
            with edges_moved(model, offset):
                found = follow(model, own, others, options.rates, seed)
                if options.agreement:
                    found += agreements(model, own, others, seed)
            figures += [{"edge_offset": offset, "seed": seed, **figure} for figure in found]
        everything += figures
        print(describe(figures, offset, options.batches))
    if options.json:
        write_json(options.json, everything, indent=1)
    return 0


def describe(figures: Sequence[dict[str, Any]], offset: float, batches: int) -> str:
    """Return the section of one offset."""
    seeds = " ".join(str(seed) for seed in sorted({figure["seed"] for figure in figures}))
    lines = [f"Edge costs {offset:+g}; {batches} batches, seeds {seeds}; at the start"]
    for where, images in IMAGES.items():
        start = [figure[where] for figure in figures if figure["direction"] == "start"]
        means = {name: statistics.fmean(s[name] for s in start) for name in Standing._fields}
        lines.append(f"{images}: " + ", ".join(f"{k} {mean:.2f}" for k, mean in means.items()))
    for name in LOSSES:
        cosines = [f["cosine"] for f in figures if f["direction"] == name and "cosine" in f]
        if cosines:
            values = ", ".join(f"{cosine:.2f}" for cosine in cosines)
            lines.append(f"cosine of the gradients of the two sets, {name}: {values}")
    moved = any(figure.get("rate") for figure in figures)
    tables = [as_markdown(figures, name) for name in Standing._fields] if moved else []
    return "\n".join([*lines, "", *tables])


if __name__ == "__main__":
    sys.exit(main())
