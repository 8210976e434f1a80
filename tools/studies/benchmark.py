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

Weights are random; D detections are forced upon the mask head and the panoptic submodule, and
RPN.POST_NMS_TOPK_TEST proposals upon the box head. A time is a median with the least and the
greatest value in brackets. The memory of a part is the rise of the tensors' total, scratch space
included, above its level when the part began. Multiply-adds are those of convolutions and matrix
products.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from panoptic_common.config import load_config
from panoptic_common.modeling.resampling import resample
from panoptic_tools.studies.library.measure import (
    GIB,
    WHOLE,
    MultiplyAdds,
    Span,
    Stopwatch,
    Table,
    format_table,
    growth_exponent,
    memory_meter,
    multiply_adds,
    peak_memory,
    repeated_times,
    spread,
    times_in_turn,
)
from panoptic_tools.studies.library.probes import (
    PARTS,
    SEMANTIC_MAP,
    Workload,
    count_parameters,
    forced_detections,
    grid_of,
    instrumented,
    make_workload,
    panoptic_alone,
    settle_frozen_norms,
    training_sample,
)
from unified_panoptic import build_target_function
from unified_panoptic.modeling.inference import STRIDE, argmax_at_output
from unified_panoptic.modeling.instance_affinity import apply_affinity

ROOT = Path(__file__).resolve().parents[2]

TARGET = 0.10  # of the whole forward pass, for the panoptic submodule
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MASK_SIDE = 28  # of raw masks, where no mask head makes them
Size = tuple[int, int]


@dataclass(frozen=True)
class Bench:
    """What every section needs: the model in evaluation mode, and the command line."""

    cfg: CfgNode
    model: torch.nn.Module
    options: argparse.Namespace

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def channels(self) -> int:
        return self.cfg.MODEL.UNIFIED.AFFINITY.CHANNELS

    @property
    def num_stuff(self) -> int:
        return len(self.model.panoptic.stuff_ids)

    def workload(self, size: Size | None = None, num_detections: int | None = None) -> Workload:
        """An image and detections; size and number are the command line's if not given."""
        return make_workload(
            size or self.options.size,
            num_detections=self.options.detections if num_detections is None else num_detections,
            num_proposals=self.cfg.MODEL.RPN.POST_NMS_TOPK_TEST,
            num_things=self.cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            least_score=self.cfg.MODEL.UNIFIED.INFERENCE.SCORE_THRESH,
            seed=0,
            device=self.device,
        )

    def random(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers, the same in every run."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(self.device)

    def random_semantic(self, size: Size) -> torch.Tensor:
        """(K, h, w) random probabilities V."""
        return self.random(self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, *grid_of(size)).softmax(dim=0)

    def stopwatch(self) -> Stopwatch:
        """A new one, with the clock of the command line."""
        return Stopwatch(self.device, CLOCKS[self.options.clock])

    def measured(self, work: Workload, meter, run: Callable[[], object]) -> dict[str, float]:
        """One meter's readings of a run of the model, part by part."""
        with forced_detections(self.model, work), meter, instrumented(self.model, meter.span):
            run()
        return meter.results


def build_bench(options: argparse.Namespace) -> Bench:
    """The model of the command line with random weights, its class counts filled in."""
    table = [{"name": str(i), "isthing": i < options.things} for i in range(options.classes)]
    cfg = load_config(options.config_file, options.opts, table=table)
    cfg.MODEL.DEVICE = options.device
    cfg.MODEL.WEIGHTS = ""
    cfg.TEST.PANOPTIC_VARIANTS = ()  # the main output alone
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    settle_frozen_norms(model)
    return Bench(cfg, model, options)


# ---- sections --------------------------------------------------------------------------------


def section_counts(bench: Bench) -> Table:
    """Parameters and multiply-adds."""
    work = bench.workload()
    counted = bench.measured(work, MultiplyAdds(), lambda: predict(bench, work))
    parameters = count_parameters(bench.model)
    parameters[WHOLE] = sum(p.numel() for p in bench.model.parameters())
    return [
        {"part": part, "parameters": number, "multiply-adds": counted.get(part, 0)}
        for part, number in parameters.items()
    ]


@torch.no_grad()
def predict(bench: Bench, work: Workload) -> dict:
    """One forward pass."""
    return bench.model([{"image": work.image}])[0]


def section_forward(bench: Bench) -> Table:
    """Time, share and peak memory of each part, and the target."""
    work = bench.workload()

    def run(meter) -> dict[str, float]:
        return bench.measured(work, meter, lambda: predict(bench, work))

    memory = run(memory_meter(bench.device))
    readings = repeated_times(run, bench.stopwatch, bench.options.repeat)
    rows = part_rows(readings, memory)
    for title, parts in {
        "target: panoptic": ("panoptic",),
        "panoptic + affinity features": ("panoptic", "affinity features"),
        "panoptic + " + SEMANTIC_MAP: ("panoptic", SEMANTIC_MAP),
    }.items():
        shares = [sum(r.get(part, 0.0) for part in parts) / r[WHOLE] for r in readings]
        rows.append({"part": title, "share": spread(shares), "target share": TARGET})
    return rows


def part_rows(readings: list[dict[str, float]], memory: dict[str, float]) -> Table:
    """A row for each part that occurs, then the whole."""
    return [
        {
            "part": part,
            "seconds": spread([reading[part] for reading in readings]),
            "share": spread([reading[part] / reading[WHOLE] for reading in readings]),
            "peak bytes": memory[part],
        }
        for part in (*PARTS, "backward", WHOLE)
        if part in readings[0]
    ]


def section_affinity(bench: Bench) -> Table:
    """phi_0 (phi_1^T Psi) against (phi_0 phi_1^T) Psi, at the largest grid that is allowed."""
    num_maps = bench.options.detections + bench.num_stuff
    full = grid_of(bench.options.size)
    largest = math.sqrt(bench.options.pairwise_gib * GIB / 4)  # cells
    shrink = min(1.0, math.sqrt(largest / (full[0] * full[1])))
    cells = tuple(max(1, int(side * shrink)) for side in full)
    psi = bench.random(num_maps, *cells)
    phi_0, phi_1 = bench.random(2, bench.channels, *cells)

    def implemented() -> torch.Tensor:
        return apply_affinity(psi, phi_0, phi_1)

    def explicit() -> torch.Tensor:
        pairwise = phi_0.flatten(1).T @ phi_1.flatten(1)
        return (psi.flatten(1) @ pairwise.T).view_as(psi)

    with torch.no_grad():
        expected = explicit()
        error = float((implemented() - expected).abs().max() / expected.abs().max())
        del expected
        runs = (implemented, explicit)
        seconds = times_in_turn(runs, bench.stopwatch, bench.options.repeat)
        memory = [peak_memory(run, bench.device) for run in runs]
        counted = [multiply_adds(run) for run in runs]
    rows = affinity_by_hand(full, bench.channels, num_maps)
    rows += affinity_by_hand(cells, bench.channels, num_maps)
    for index, name in enumerate(("implemented, measured", "explicit, measured")):
        row = {"what": name, "cells": cells[0] * cells[1], "multiply-adds": counted[index]}
        rows.append({**row, "seconds": spread(seconds[index]), "peak bytes": memory[index]})
    ratio = spread([b / a for a, b in zip(*seconds, strict=True)])
    return [
        *rows,
        {"what": "explicit / implemented: multiply-adds", "ratio": counted[1] / counted[0]},
        {"what": "explicit / implemented: time", "ratio": ratio},
        {"what": "explicit / implemented: memory", "ratio": memory[1] / memory[0]},
        {"what": "greatest difference / greatest value", "ratio": error},
    ]


def affinity_by_hand(cells: Size, channels: int, num_maps: int) -> Table:
    """Both forms by hand: n cells, C channels and S maps take 2 n C S or n^2 (C + S)."""
    n = cells[0] * cells[1]
    implemented, explicit = 2 * n * channels * num_maps, n * n * (channels + num_maps)
    rows: Table = [
        {"what": "implemented, by hand", "cells": n, "multiply-adds": implemented},
        {"what": "explicit, by hand", "cells": n, "multiply-adds": explicit},
    ]
    rows[0]["saved share"] = 1 - implemented / explicit
    rows[1]["peak bytes"] = 4 * n * n  # of the matrix alone
    return rows


def section_argmax(bench: Bench) -> Table:
    """`argmax_at_output` against the formula on whole maps."""
    work, submodule = bench.workload(), bench.model.panoptic
    size, found = work.size, work.detections(MASK_SIDE)
    semantic, residual = bench.random_semantic(size), None
    if bench.model.affinity_head is not None:
        residual = 0.05 * bench.random(len(found) + bench.num_stuff, *grid_of(size))
    arguments = (
        resample(semantic, size, size, STRIDE),
        found.pred_boxes.tensor,
        submodule.thing_ids[found.pred_classes],
        found.scores,
        found.pred_masks[:, 0],
    )

    def in_strips() -> torch.Tensor:
        return argmax_at_output(submodule.potential, *arguments, residual, size)

    def at_once() -> torch.Tensor:
        psi = submodule.potential(*arguments)
        enlarged = 0 if residual is None else resample(residual, size, size, STRIDE)
        return (psi + enlarged).argmax(dim=0)

    with torch.no_grad():
        differing = int((in_strips() != at_once()).sum())
        runs = (in_strips, at_once)
        seconds = times_in_turn(runs, bench.stopwatch, bench.options.repeat)
        memory = [peak_memory(run, bench.device) for run in runs]
    rows: Table = [
        {"what": name, "seconds": spread(seconds[index]), "peak bytes": memory[index]}
        for index, name in enumerate(("in strips, inside the boxes", "all at once"))
    ]
    ratio = spread([b / a for a, b in zip(*seconds, strict=True)])
    rows.append({"what": "all at once / in strips", "ratio": ratio})
    return [*rows, {"what": "pixels that differ", "ratio": differing}]


def section_growth(bench: Bench) -> Table:
    """The panoptic submodule alone, and the exponents of a power law through its costs."""
    size, count = bench.options.size, bench.options.detections
    rows: Table = []
    for shrink in (0.25, 0.35, 0.5, 0.71, 1.0):
        smaller = tuple(round(side * shrink) for side in size)
        rows.append(growth_row(bench, "more pixels", bench.workload(smaller)))
    for factor in (0, 0.25, 0.5, 1, 2, 4):
        work = bench.workload(num_detections=round(count * factor))
        rows.append(growth_row(bench, "more detections", work))
    work = bench.workload()
    work.found.pred_boxes.tensor.copy_(torch.tensor([0.0, 0.0, size[1], size[0]]).expand(count, 4))
    largest = growth_row(bench, "boxes as large as the image", work)
    for what, axis in (("more pixels", "pixels"), ("more detections", "channels")):
        chosen = [row for row in rows if row["what"] == what]
        costs = {key: [row[key] for row in chosen] for key in ("peak bytes", "multiply-adds")}
        costs["seconds"] = [row["seconds"]["median"] for row in chosen]
        over = [row[axis] for row in chosen]
        # Without the affinity and without detections nothing is multiplied: no exponent then.
        exponents = {k: growth_exponent(over, cost) for k, cost in costs.items() if min(cost) > 0}
        rows.append({"what": f"exponent over {axis}", **exponents})
    return [*rows, largest]


def growth_row(bench: Bench, what: str, work: Workload) -> dict[str, Any]:
    """The panoptic submodule from V, Q and detections to the panoptic map."""
    semantic = bench.random_semantic(work.size)
    query = bench.random(bench.channels, *grid_of(work.size))
    run = panoptic_alone(bench.model, semantic, query, work.detections(MASK_SIDE))
    return {
        "what": what,
        "pixels": work.size[0] * work.size[1],
        "channels": len(work.found) + bench.num_stuff,
        "seconds": spread(times_in_turn([run], bench.stopwatch, bench.options.repeat)[0]),
        "peak bytes": peak_memory(run, bench.device),
        "multiply-adds": multiply_adds(run),
    }


def section_training(bench: Bench) -> Table:
    """A training step of one image: forward by parts, backward."""
    work, model = bench.workload(bench.options.train_size), bench.model
    make_targets = build_target_function(bench.cfg)
    sample = training_sample(work, bench.cfg.MODEL.PANOPTIC.IS_THING, make_targets)

    def step(span: Span) -> None:
        model.zero_grad(set_to_none=True)
        total = sum(model([sample]).values())
        with span("backward"):
            total.backward()

    def run(meter) -> dict[str, float]:
        return bench.measured(work, meter, lambda: step(meter.span))

    model.train()
    try:
        with EventStorage():
            memory = run(memory_meter(bench.device))
            return part_rows(repeated_times(run, bench.stopwatch, bench.options.repeat), memory)
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


SECTIONS: dict[str, Callable[[Bench], Table]] = {
    "counts": section_counts,
    "forward": section_forward,
    "affinity": section_affinity,
    "argmax": section_argmax,
    "growth": section_growth,
    "training": section_training,
}


# ---- the report ------------------------------------------------------------------------------


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; complain about what makes no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="\n\n".join(__doc__.split("\n\n")[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add, coco = parser.add_argument, str(ROOT / "configs/unified/coco/R50.yaml")
    add("--config-file", default=coco, metavar="FILE", help="default: COCO, R-50-FPN")
    add("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    size = {"nargs": 2, "type": int, "metavar": ("H", "W")}
    add("--size", default=(800, 1300), help="of the input, pixels (default: 800 1300)", **size)
    add("--train-size", help="of a training image (default: as --size)", **size)
    add("--detections", type=int, default=100, metavar="D", help="default: 100")
    add("--classes", type=int, default=133, metavar="K", help="stuff and things (default: 133)")
    add("--things", type=int, default=80, metavar="N", help="things among them (default: 80)")
    add("--repeat", type=int, default=5, metavar="N", help="runs that count (default: 5)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor time of all threads, which "
        "other programs on the machine disturb less (default: wall)")  # fmt: skip
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    add("--pairwise-gib", type=float, default=1.0, metavar="GIB", help="largest explicit pairwise "
        "matrix, in GiB; the grid shrinks until it fits (default: 1)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="also write all numbers to FILE")
    add("opts", nargs="*", metavar="KEY VALUE", help="config options, after all else")
    options = parser.parse_intermixed_args(arguments)
    options.size = tuple(options.size)
    options.train_size = tuple(options.train_size or options.size)
    if min(options.size + options.train_size) < 32:
        parser.error("--size and --train-size must be at least 32 pixels")
    for name in ("detections", "things", "repeat", "threads", "pairwise_gib"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    if options.things >= options.classes:
        parser.error(f"--things {options.things} must be less than --classes {options.classes}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch sees no GPU; use --device cpu")
    if options.device != "cpu" and options.clock == "cpu":
        parser.error("--clock cpu does not see the work of a GPU")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections asked for, print their tables."""
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
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
