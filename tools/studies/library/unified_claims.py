"""Sections of the benchmark that hold two ways to compute the same against one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from panoptic_common.modeling.resampling import resample
from panoptic_tools.studies.library.measure import (
    median_range,
    multiply_adds,
    peak_memory,
    times_in_turn,
)
from panoptic_tools.studies.library.tables import GIB, Table
from panoptic_tools.studies.library.unified_bench import Bench, Size
from panoptic_tools.studies.library.workload import MASK_SIDE, grid_of
from unified_panoptic.modeling.inference import STRIDE, argmax_at_output
from unified_panoptic.modeling.instance_affinity import apply_affinity


def compare(
    bench: Bench, runs: Sequence[Callable[[], torch.Tensor]]
) -> tuple[list[list[float]], list[int]]:
    """Return the seconds of several runs, a list of repetitions for each, and their peak bytes."""
    seconds = times_in_turn(runs, bench.options.repeat, bench.stopwatch)
    return seconds, [peak_memory(run, bench.device) for run in runs]


def section_affinity(bench: Bench) -> Table:
    """Hold phi_0 (phi_1^T Psi) against (phi_0 phi_1^T) Psi, at the largest grid allowed."""
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
        seconds, memory = compare(bench, runs)
        counted = [multiply_adds(run) for run in runs]
    rows = affinity_by_hand(full, bench.channels, num_maps)
    rows += affinity_by_hand(cells, bench.channels, num_maps)
    for index, name in enumerate(("implemented, measured", "explicit, measured")):
        row = {"what": name, "cells": cells[0] * cells[1], "multiply-adds": counted[index]}
        rows.append({**row, "seconds": median_range(seconds[index]), "peak bytes": memory[index]})
    ratio = median_range([b / a for a, b in zip(*seconds, strict=True)])
    return [
        *rows,
        {"what": "explicit / implemented: multiply-adds", "ratio": counted[1] / counted[0]},
        {"what": "explicit / implemented: time", "ratio": ratio},
        {"what": "explicit / implemented: memory", "ratio": memory[1] / memory[0]},
        {"what": "greatest difference / greatest value", "ratio": error},
    ]


def affinity_by_hand(cells: Size, channels: int, num_maps: int) -> Table:
    """Work out both forms: n cells, C channels and S maps take 2 n C S or n^2 (C + S)."""
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
    """Hold `argmax_at_output` against the formula on whole maps."""
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
        seconds, memory = compare(bench, (in_strips, at_once))
    rows: Table = [
        {"what": name, "seconds": median_range(seconds[index]), "peak bytes": memory[index]}
        for index, name in enumerate(("in strips, inside the boxes", "all at once"))
    ]
    ratio = median_range([b / a for a, b in zip(*seconds, strict=True)])
    rows.append({"what": "all at once / in strips", "ratio": ratio})
    return [*rows, {"what": "pixels that differ", "ratio": differing}]
