#!/usr/bin/env python3
"""Time, peak memory, multiply-adds and parameters of the Unified system's submodules.

    python tools/studies/benchmark.py
    python tools/studies/benchmark.py --section forward affinity --threads 2 --json benchmark.json
    python tools/studies/benchmark.py --config-file configs/unified/coco/R101.yaml --device cuda
    python tools/studies/benchmark.py --size 400 650 MODEL.UNIFIED.DECODER.DEFORMABLE False

Sections:
    counts    parameters and multiply-adds of every submodule
    forward   time, share and peak memory of every submodule in a forward pass
    affinity  the instance affinity as implemented against the explicit pairwise matrix
    argmax    the panoptic map formed in strips, inside the boxes, against all at once
    growth    the panoptic submodule against the numbers of pixels and of detections
    training  time and peak memory of a training step

Classes are as many as the config's data set has. Weights are random; D detections are forced upon
the mask head and the panoptic submodule, and RPN.POST_NMS_TOPK_TEST proposals upon the box head. A
time is a median with the least and the greatest value in brackets. The memory of a part is the rise
of the tensors' total, scratch space included, above its level when the part began. Multiply-adds
are those of convolutions and matrix products.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from panoptic_common.compat.devices import require_device

import torch

from panoptic_common.files import write_json
from panoptic_tools.arguments import (
    Parser,
    checked,
    make_parser,
    output_file,
    require_pairs,
)
from panoptic_tools.studies.library.measure import CLOCKS
from panoptic_tools.studies.library.options import read_config
from panoptic_tools.studies.library.paths import ROOT
from panoptic_tools.studies.library.tables import Table, format_table
from panoptic_tools.studies.library.unified_bench import (
    Bench,
    build_bench,
    class_counts,
    class_table,
)
from panoptic_tools.studies.library.unified_claims import section_affinity, section_argmax
from panoptic_tools.studies.library.unified_sections import (
    section_counts,
    section_forward,
    section_growth,
    section_training,
)
from panoptic_tools.value_types import finite

SECTIONS: dict[str, Callable[[Bench], Table]] = {
    "counts": section_counts,
    "forward": section_forward,
    "affinity": section_affinity,
    "argmax": section_argmax,
    "growth": section_growth,
    "training": section_training,
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; complain about what makes no sense."""
    parser = make_parser(__doc__, whole=True)
    add, coco = parser.add_argument, str(ROOT / "configs/unified/coco/R50.yaml")
    add("--config-file", default=coco, metavar="FILE", help="default: COCO, R-50-FPN")
    add("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    size = {"nargs": 2, "type": int, "metavar": ("H", "W")}
    add("--size", default=(800, 1300), help="of the input, pixels (default: 800 1300)", **size)
    add("--train-size", help="of a training image (default: as --size)", **size)
    add("--detections", type=int, default=100, metavar="D", help="default: 100")
    add("--classes", type=int, metavar="K", help="stuff and things (default: the config's)")
    add("--things", type=int, metavar="N", help="things among them (default: the config's)")
    add("--repeat", type=int, default=5, metavar="N", help="runs that count (default: 5)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    busy = "cpu: processor time of all threads, which other programs disturb less (default: wall)"
    add("--clock", choices=CLOCKS, default="wall", help=busy)
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    limit = "largest explicit pairwise matrix, in GiB; the grid shrinks until it fits (default: 1)"
    add("--pairwise-gib", type=finite, default=1.0, metavar="GIB", help=limit)
    add("--json", type=output_file, metavar="FILE", help="also write all numbers to FILE")
    add("opts", nargs="*", metavar="KEY VALUE", help="config options, after all else")
    options = parser.parse_intermixed_args(arguments)
    check_options(parser, options)
    return options


def check_options(parser: Parser, options: argparse.Namespace) -> None:
    """End the program with a sentence if its options do not fit together; complete them.

    Args:
        parser: of the program.
        options: what it has read; sizes and class counts that are not given are filled in.
    """
    require_pairs(parser, options.opts)
    options.size = tuple(options.size)
    options.train_size = tuple(options.train_size or options.size)
    if min(options.size + options.train_size) < 32:
        parser.error("--size and --train-size must be at least 32 pixels")
    if (options.classes is None) != (options.things is None):
        parser.error("--classes and --things belong together")
    if options.classes is None:
        counts = checked(parser, lambda: class_counts(options.config_file, options.opts))
        options.classes, options.things = counts
    for name in ("detections", "things", "repeat", "threads", "pairwise_gib"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    if options.things >= options.classes:
        parser.error(f"--things {options.things} must be less than --classes {options.classes}")
    try:
        require_device(options.device)
    except ValueError as error:
        parser.error(f"--{error}")
    if options.device != "cpu" and options.clock == "cpu":
        parser.error("--clock cpu does not see the work of a GPU")
    read_config(parser, options.config_file, options.opts, table=class_table(options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections asked for, print their tables; return the exit status."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    on_gpu = options.device.startswith("cuda")
    bench = build_bench(options)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(bench.device) if on_gpu else platform.machine(),
        "threads": options.threads,
        "clock": options.clock,
        "torch": torch.__version__,
        "config": Path(options.config_file).name,
        "options": options.opts,
        "size": options.size,
        "train size": options.train_size,
        "detections": options.detections,
        "stuff classes": bench.num_stuff,
        "repeat": options.repeat,
    }
    print("; ".join(f"{key} {value}" for key, value in report.items()))
    report["sections"] = {}
    for name in options.section:
        rows = SECTIONS[name](bench)
        report["sections"][name] = rows
        print(f"\n## {name}\n\n{format_table(rows)}", flush=True)
    if options.json:
        write_json(options.json, report, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
