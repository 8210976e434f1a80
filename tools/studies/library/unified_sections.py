"""Sections of the benchmark that measure the Unified system's parts."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.utils.events import EventStorage

from panoptic_tools.studies.library.forced_runs import panoptic_alone
from panoptic_tools.studies.library.measure import (
    WHOLE,
    Meter,
    MultiplyAdds,
    Span,
    growth_exponent,
    median_range,
    memory_meter,
    repeated_times,
)
from panoptic_tools.studies.library.probes import PARTS, SEMANTIC_MAP, count_parameters
from panoptic_tools.studies.library.tables import Table
from panoptic_tools.studies.library.unified_bench import Bench
from panoptic_tools.studies.library.workload import (
    MASK_SIDE,
    Workload,
    grid_of,
    training_sample,
)
from unified_panoptic import build_target_function

TARGET = 0.10  # of the whole forward pass, for the panoptic submodule


def section_counts(bench: Bench) -> Table:
    """Count parameters and multiply-adds."""
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
    """Run one forward pass."""
    return bench.model([{"image": work.image}])[0]


def section_forward(bench: Bench) -> Table:
    """Measure time, share and peak memory of each part, and compare with the target."""
    work = bench.workload()

    def run(meter: Meter) -> dict[str, float]:
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
        rows.append({"part": title, "share": median_range(shares), "target share": TARGET})
    return rows


def part_rows(readings: list[dict[str, float]], memory: dict[str, float]) -> Table:
    """Return a row for each part that occurs, then the whole."""
    return [
        {
            "part": part,
            "seconds": median_range([reading[part] for reading in readings]),
            "share": median_range([reading[part] / reading[WHOLE] for reading in readings]),
            "peak bytes": memory[part],
        }
        for part in (*PARTS, "backward", WHOLE)
        if part in readings[0]
    ]


def section_growth(bench: Bench) -> Table:
    """Measure the panoptic submodule alone, and fit a power law to its costs."""
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
    """Measure the panoptic submodule, from V, Q and detections to the panoptic map."""
    semantic = bench.random_semantic(work.size)
    query = bench.random(bench.channels, *grid_of(work.size))
    alone = panoptic_alone(bench.model, semantic, query, work.detections(MASK_SIDE))

    def run(meter: Meter) -> float:
        with meter:
            alone(meter.span)
        return meter.results["panoptic"]

    readings = repeated_times(run, bench.stopwatch, bench.options.repeat)
    return {
        "what": what,
        "pixels": work.size[0] * work.size[1],
        "channels": len(work.found) + bench.num_stuff,
        "seconds": median_range([reading["panoptic"] for reading in readings]),
        "peak bytes": run(memory_meter(bench.device)),
        "multiply-adds": run(MultiplyAdds()),
    }


def section_training(bench: Bench) -> Table:
    """Measure a training step of one image: forward by parts, backward."""
    work, model = bench.workload(bench.options.train_size), bench.model
    make_targets = build_target_function(bench.cfg)
    sample = training_sample(work, bench.cfg.MODEL.PANOPTIC.IS_THING, make_targets)

    def step(span: Span) -> None:
        model.zero_grad(set_to_none=True)
        total = sum(model([sample]).values())
        with span("backward"):
            total.backward()

    def run(meter: Meter) -> dict[str, float]:
        return bench.measured(work, meter, lambda: step(meter.span))

    model.train()
    try:
        with EventStorage():
            memory = run(memory_meter(bench.device))
            return part_rows(repeated_times(run, bench.stopwatch, bench.options.repeat), memory)
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()
