"""Settings that name a result of the evaluation, compared with what it gives, before a training."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from panoptic_common.evaluation.build import result_tasks

_MEASURING = ("build_evaluator", "test")


def require_best_metric(cfg: CfgNode, trainer: type, measured_by: type) -> None:
    """Raise ValueError if TEST.BEST_METRIC is of no kind that the evaluation gives.

    Args:
        cfg: complete.
        trainer: the class that trains.
        measured_by: the class whose evaluation is known; nothing is said of one with its own.
    """
    metric = cfg.TEST.BEST_METRIC
    if not metric or not _inherits(trainer, measured_by):
        return
    known = _known(cfg)
    if not any(metric.startswith(f"{name}/") for name in known):
        raise ValueError(
            f"TEST.BEST_METRIC {metric!r} is not among the results: give one of {known}, and a "
            'figure of it behind a slash, such as "panoptic_seg/PQ"'
        )


def require_expected_results(cfg: CfgNode, trainer: type, measured_by: type) -> None:
    """Raise ValueError if TEST.EXPECTED_RESULTS names a task that the evaluation has not.

    Args:
        cfg: complete.
        trainer: the class that evaluates.
        measured_by: as for `require_best_metric`.
    """
    expected = cfg.TEST.EXPECTED_RESULTS
    if not expected or not _inherits(trainer, measured_by):
        return
    if len(set(cfg.DATASETS.TEST)) != 1:
        raise ValueError(
            "TEST.EXPECTED_RESULTS is compared with one data set, but DATASETS.TEST is "
            f"{cfg.DATASETS.TEST}: name one there, or leave the results empty"
        )
    known = _known(cfg)
    for task, *_ in expected:
        if task not in known:
            raise ValueError(
                f"TEST.EXPECTED_RESULTS names the task {task!r}, which is not among the results: "
                f"give one of {known}"
            )


def _inherits(trainer: type, measured_by: type) -> bool:
    """Tell whether a class evaluates as another one does."""
    return all(_home(trainer, name) is _home(measured_by, name) for name in _MEASURING)


def _home(kind: type, name: str) -> Any:
    return next((above for above in kind.__mro__ if name in vars(above)), None)


def _known(cfg: CfgNode) -> list[str]:
    """List how the names of results begin: by the task, of several data sets by their names too."""
    names = list(dict.fromkeys(cfg.DATASETS.TEST))
    if len(names) == 1:
        return result_tasks(cfg, names[0])
    return [f"{name}/{task}" for name in names for task in result_tasks(cfg, name)]
