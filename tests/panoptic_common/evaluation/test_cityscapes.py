"""The evaluators on a tree in the format of Cityscapes."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from dataset_factory import make_cityscapes
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from evaluation_outputs import make_cfg, nothing_output, perfect_output, register, run

from panoptic_common.data.catalog import class_table, load_panoptic
from panoptic_common.evaluation.build import build_evaluator
from panoptic_common.evaluation.instances import InstanceEvaluator
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_common.evaluation.truth import PanopticTruth


@pytest.fixture
def cityscapes(tmp_path):
    root = make_cityscapes(tmp_path, splits=("val",))
    paths = SimpleNamespace(
        images=str(root / "leftImg8bit" / "val"),
        panoptic_json=str(root / "gtFine" / "cityscapes_panoptic_val.json"),
        panoptic_png=str(root / "gtFine" / "cityscapes_panoptic_val"),
    )
    return register("evaluation_cityscapes", paths, "cityscapes_panoptic")


def test_cityscapes_without_its_scripts_or_truth_says_so(cityscapes, tmp_path, caplog, monkeypatch):
    from panoptic_common.evaluation import cityscapes as module

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    truth = PanopticTruth(cityscapes)
    assert module.cityscapes_evaluators(truth) == []
    assert "cityscapesscripts is not installed" in caplog.text
    monkeypatch.undo()
    caplog.set_level(logging.INFO)
    MetadataCatalog.get(cityscapes).gt_dir = str(tmp_path / "nowhere")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    assert module.cityscapes_evaluators(truth) == []
    assert "there is no folder" in caplog.text


def test_cityscapes_panoptic_and_ap_with_text_image_ids(cityscapes):
    assert (
        run(PanopticEvaluator(cityscapes), cityscapes, perfect_output)["panoptic_seg"]["PQ"] == 100
    )
    results = run(InstanceEvaluator(cityscapes), cityscapes, perfect_output)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_cityscapes_own_measures(cityscapes, tmp_path):
    pytest.importorskip("cityscapesscripts")
    had_in1d = hasattr(np, "in1d")
    results = inference_on_dataset(
        lambda inputs: [perfect_output(image, class_table(cityscapes)) for image in inputs],
        [[record] for record in load_panoptic(cityscapes)],
        build_evaluator(make_cfg(tmp_path), cityscapes),
    )
    assert results["cityscapes_instances"]["AP"] == pytest.approx(100)
    assert results["cityscapes_sem_seg"]["IoU"] == pytest.approx(100)
    assert hasattr(np, "in1d") == had_in1d  # what was lent is taken back
    results = inference_on_dataset(
        lambda inputs: [nothing_output(image, class_table(cityscapes)) for image in inputs],
        [[record] for record in load_panoptic(cityscapes)],
        build_evaluator(make_cfg(tmp_path), cityscapes),
    )
    assert results["cityscapes_instances"]["AP"] == 0
    assert results["cityscapes_sem_seg"]["IoU"] < 20


def test_a_missing_gt_fine_image_is_named(cityscapes):
    pytest.importorskip("cityscapesscripts")
    from panoptic_common.evaluation.cityscapes import cityscapes_evaluators, ground_truth_folder

    path = next(ground_truth_folder(cityscapes).rglob("*_labelIds.png"))
    path.unlink()
    evaluator = cityscapes_evaluators(PanopticTruth(cityscapes))[1]
    with pytest.raises(FileNotFoundError, match=path.name):
        run(evaluator, cityscapes, perfect_output)
