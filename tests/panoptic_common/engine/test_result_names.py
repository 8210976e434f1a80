"""Settings that name results: known before a training, unless a trainer measures by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.engine import result_names
from panoptic_common.engine.result_names import require_best_metric, require_expected_results
from panoptic_common.engine.trainer import PanopticTrainer


class OwnEvaluator(TinyTrainer):
    """Measures something else."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: Any = None) -> Any:
        raise NotImplementedError


class OwnTest(TinyTrainer):
    """Likewise."""

    @classmethod
    def test(cls, cfg: CfgNode, model: Any, evaluators: Any = None) -> Any:
        raise NotImplementedError


def config(root: Path, **test: Any) -> CfgNode:
    cfg = tiny_config(root)
    cfg.defrost()
    for key, value in test.items():
        cfg.TEST[key] = value
    return cfg


@pytest.mark.parametrize("metric", ["foo", "PQ", "panoptic_seg", "panoptic_seg_x/PQ", "/PQ"])
def test_a_metric_of_no_task_is_refused_before_the_training(tiny_root: Path, metric: str) -> None:
    cfg = config(tiny_root, BEST_METRIC=metric)
    with pytest.raises(ValueError, match=r"TEST\.BEST_METRIC .*: give one of \['panoptic_seg',"):
        require_best_metric(cfg, TinyTrainer, PanopticTrainer)
    with pytest.raises(ValueError, match=r"TEST\.BEST_METRIC"):
        TinyTrainer(cfg)


@pytest.mark.parametrize("trainer", [OwnEvaluator, OwnTest])
def test_nothing_is_said_of_what_others_measure(tiny_root: Path, trainer: type) -> None:
    cfg = config(tiny_root, BEST_METRIC="foo", EXPECTED_RESULTS=[["foo", "bar", 1.0, 0.1]])
    require_best_metric(cfg, trainer, PanopticTrainer)
    require_expected_results(cfg, trainer, PanopticTrainer)


@pytest.mark.parametrize(
    "metric", ["", "panoptic_seg/PQ", "sem_seg/mIoU", "segm/AP", "panoptic_seg_soft/PQ"]
)
def test_metrics_of_the_evaluation_pass(tiny_root: Path, metric: str) -> None:
    cfg = config(tiny_root, BEST_METRIC=metric, PANOPTIC_VARIANTS=("soft",))
    require_best_metric(cfg, TinyTrainer, PanopticTrainer)


def test_of_several_sets_a_metric_names_one(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_names, "result_tasks", lambda cfg, name: ["panoptic_seg"])
    cfg = config(tiny_root, BEST_METRIC="panoptic_seg/PQ")
    cfg.DATASETS.TEST = ("tiny", "other")
    with pytest.raises(ValueError, match=r"of \['tiny/panoptic_seg', 'other/panoptic_seg'\]"):
        require_best_metric(cfg, TinyTrainer, PanopticTrainer)
    cfg.TEST.BEST_METRIC = "other/panoptic_seg/PQ"
    require_best_metric(cfg, TinyTrainer, PanopticTrainer)
    cfg.TEST.EXPECTED_RESULTS = [["panoptic_seg", "PQ", 50.0, 1.0]]
    with pytest.raises(ValueError, match="with one data set, but DATASETS.TEST is"):
        require_expected_results(cfg, TinyTrainer, PanopticTrainer)


def test_an_expected_task_that_is_none_is_refused(tiny_root: Path) -> None:
    cfg = config(tiny_root, EXPECTED_RESULTS=[["panoptic_seg", "PQ", 50.0, 1.0]])
    require_expected_results(cfg, TinyTrainer, PanopticTrainer)
    cfg.TEST.EXPECTED_RESULTS = [["panoptic", "PQ", 50.0, 1.0]]
    with pytest.raises(ValueError, match="EXPECTED_RESULTS names the task 'panoptic'"):
        require_expected_results(cfg, TinyTrainer, PanopticTrainer)
