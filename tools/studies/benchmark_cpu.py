#!/usr/bin/env python3
"""Compare ways to run a system's network on a CPU, in turn and in one process.

    python tools/studies/benchmark_cpu.py
    python tools/studies/benchmark_cpu.py --config-file configs/cops/cityscapes/full.yaml

Ways:
    operator       single precision, deformable convolutions by torchvision's operator
    float32        single precision
    channels_last  the same with weights and features in channels-last order
    bfloat16       automatic mixed precision
    both           channels-last order and mixed precision
    compiled       channels-last order, backbone and heads through torch.compile

Weights are random. The Unified system runs whole, with 100 forced detections; COPS up to its costs,
as its solver would have to solve noise. Times are processor time. The last column compares results
with those of the first way. For the Unified system it counts equal pixels of the panoptic map. For
COPS it gives the greatest difference of costs, divided by their greatest magnitude.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import panoptic_common.compat  # sets OMP_WAIT_POLICY before torch reads it

import torch
from torch import nn
from torchvision.ops import deform_conv2d

from panoptic_tools.arguments import make_parser, require_at_least, require_pairs
from panoptic_tools.studies.library.forced_runs import forced_detections
from panoptic_tools.studies.library.measure import CLOCKS, Stopwatch, times_in_turn
from panoptic_tools.studies.library.options import read_config
from panoptic_tools.studies.library.paths import ROOT
from panoptic_tools.studies.library.replacing import replaced
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.studies.library.unified_bench import build_bench, class_table
from unified_panoptic.modeling.deformable import deformable_by_rows

WAYS = ("operator", "float32", "channels_last", "bfloat16", "both", "compiled")
Run = Callable[[], Any]


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--config-file", default=str(ROOT / "configs/unified/coco/R50.yaml"), metavar="FILE")
    add("--size", type=int, nargs=2, default=[512, 1024], metavar=("H", "W"))
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS[:-1]), help="default: all uncompiled")
    add("--classes", type=int, default=133, metavar="K", help="default: 133")
    add("--things", type=int, default=80, metavar="N", help="things among them (default: 80)")
    add("--detections", type=int, default=100, metavar="D", help="default: 100")
    add("--repeat", type=int, default=3, metavar="N", help="runs that count (default: 3)")
    add("--threads", type=int, default=1, metavar="N", help="default: 1")
    add("opts", nargs="*", metavar="KEY VALUE", help="config options, after all else")
    options = parser.parse_intermixed_args(words)
    require_pairs(parser, options.opts)
    require_at_least(parser, options, 1, "detections", "things", "repeat", "threads")
    require_at_least(parser, options, 32, "size")
    if options.things >= options.classes:
        parser.error(f"--things {options.things} must be less than --classes {options.classes}")
    options.size, options.device, options.clock = tuple(options.size), "cpu", "cpu"
    read_config(parser, options.config_file, options.opts, table=class_table(options))
    return options


def by_operator(
    x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Convolve by torchvision, in the place of `deformable_by_rows`."""
    return deform_conv2d(x, offset, weight, bias, padding=1)


def prepared(model: nn.Module, way: str) -> nn.Module:
    """Return a model in the form that a way wants, by a copy where it is changed."""
    if way not in ("channels_last", "both", "compiled"):
        return model
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    if way == "compiled":
        for name in ("backbone", "sem_seg_head", "affinity_head"):
            if getattr(model, name, None) is not None:
                getattr(model, name).compile()
    return model


def context_of(way: str) -> AbstractContextManager:
    """Return the context in which a way runs."""
    if way == "operator":
        return replaced(deformable_by_rows, by_operator)
    if way in ("bfloat16", "both"):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def run_of(bench: Any, way: str, results: dict[str, torch.Tensor]) -> Run:
    """Prepare a run that leaves its result in `results`."""
    model = prepared(bench.model, way)
    if hasattr(model, "roi_heads"):
        work = bench.workload()
        inputs = [{"image": work.image}]

        def predict() -> torch.Tensor:
            with forced_detections(model, work):
                found: torch.Tensor = model(inputs)[0]["panoptic_seg"][0]
                return found
    else:
        image = torch.randn(1, 3, *bench.options.size, generator=torch.Generator().manual_seed(0))

        def predict() -> torch.Tensor:
            maps = model.predict_maps(image)
            return torch.cat([maps.class_costs, maps.edge_costs], dim=1)

    def run() -> None:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(context_of(way))
            results[way] = predict()

    return run


def agreement(found: torch.Tensor, expected: torch.Tensor) -> str:
    """Say how a result compares with that of the first way."""
    if not found.is_floating_point():
        return f"{float((found == expected).float().mean()):.3%} of the pixels"
    return f"{float((found - expected).abs().max() / expected.abs().max()):.1e}"


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print a table; return the exit status."""
    options = parse_arguments(words)
    torch.set_num_threads(options.threads)
    bench = build_bench(options)
    results: dict[str, torch.Tensor] = {}
    runs = [run_of(bench, way, results) for way in options.ways]
    times = times_in_turn(
        runs, options.repeat, lambda: Stopwatch(bench.device, CLOCKS[options.clock])
    )
    first = statistics.median(times[0])
    rows = [
        [
            way,
            f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
            f"{first / statistics.median(seconds):.2f}",
            agreement(results[way], results[options.ways[0]]),
        ]
        for way, seconds in zip(options.ways, times, strict=True)
    ]
    print(markdown_table(["way", "seconds", "times as fast", "result"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
