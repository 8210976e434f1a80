"""Surrogate and true quality of the training batches, as trainings through the solver went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from panoptic_common.engine.training_run import METRICS, read_metrics


def read_curves(
    folders: Mapping[str, Sequence[Path]],
) -> dict[str, list[dict[str, float]]]:
    """Return surrogate and true PQ of the training batches as the runs went (paper's Fig. 4, 5).

    Both are medians over 20 iterations, which is how Detectron2 logs.

    Args:
        folders: of the runs of each config, one per seed, to take the mean of. A config that
            trains no surrogate is left out.

    Returns:
        For each config, a dict per logged iteration: "iteration", "surrogate", "true" in percent.
    """
    curves = {}
    for config, runs in folders.items():
        points: dict[int, list[tuple[float, float]]] = {}
        for folder in runs:
            for line in read_metrics(folder / METRICS):
                if "quality/surrogate" in line:
                    pair = (100 * line["quality/surrogate"], 100 * line["quality/true"])
                    points.setdefault(int(line["iteration"]) + 1, []).append(pair)
        if points:
            curves[config] = [
                {
                    "iteration": iteration,
                    "surrogate": sum(pair[0] for pair in pairs) / len(pairs),
                    "true": sum(pair[1] for pair in pairs) / len(pairs),
                }
                for iteration, pairs in sorted(points.items())
            ]
    return curves
