"""All evaluators of a data set together: in Detectron2's loop, and in two processes."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

from panoptic_common.compat.launch import launch

import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from evaluation_outputs import (
    make_cfg,
    perfect_output,
    register,
    run,
    shifted_output,
)

from panoptic_common.data.catalog import class_table, load_panoptic
from panoptic_common.evaluation.build import build_evaluator
from panoptic_common.evaluation.instances import InstanceEvaluator
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_common.evaluation.semantic import SemanticEvaluator
from panoptic_common.evaluation.truth import PanopticTruth


def test_the_models_output_is_not_changed(tiny_dataset, tmp_path):
    table, record = class_table(tiny_dataset), load_panoptic(tiny_dataset)[0]
    output = shifted_output(record, table)
    before = copy.deepcopy(output)
    for evaluator in (
        PanopticEvaluator(tiny_dataset, tmp_path / "out"),
        SemanticEvaluator(tiny_dataset),
        InstanceEvaluator(tiny_dataset),
    ):
        evaluator.process([record], [output])
    torch.testing.assert_close(output["panoptic_seg"][0], before["panoptic_seg"][0])
    assert output["panoptic_seg"][1] == before["panoptic_seg"][1]
    torch.testing.assert_close(output["sem_seg"], before["sem_seg"])
    torch.testing.assert_close(output["instances"].pred_masks, before["instances"].pred_masks)
    assert record == load_panoptic(tiny_dataset)[0]


def test_build_evaluator_in_detectron2s_loop(tiny_dataset, tmp_path):
    table = class_table(tiny_dataset)
    records = {record["image_id"]: record for record in load_panoptic(tiny_dataset)}

    def model(inputs):
        outputs = []
        for image in inputs:
            output = perfect_output(records[image["image_id"]], table)
            output["panoptic_variants"] = {"heuristic": output["panoptic_seg"]}
            outputs.append(output)
        return outputs

    cfg = make_cfg(tmp_path, ("heuristic",), visualize=2)
    loader = [[record] for record in records.values()]
    for _ in range(2):  # as during training: the second evaluation replaces the files
        evaluator = build_evaluator(cfg, tiny_dataset)
        results = inference_on_dataset(model, loader, evaluator)
    assert list(results) == ["panoptic_seg", "panoptic_seg_heuristic", "sem_seg", "bbox", "segm"]
    assert results["panoptic_seg"]["PQ"] == results["panoptic_seg_heuristic"]["PQ"] == 100
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert (tmp_path / "run" / "inference" / "predictions.json").is_file()
    images = sorted(p.name for p in (tmp_path / "run" / "images").iterdir())
    assert images == ["000_000000000100.png", "001_000000000101.png"]


def test_boundary_pq_is_reported_with_its_ratio_if_the_config_asks(tiny_dataset, tmp_path, caplog):
    table = class_table(tiny_dataset)
    loader = [[record] for record in load_panoptic(tiny_dataset)]

    def model(inputs):
        return [shifted_output(record, table) for record in inputs]

    found = {}
    for ratio in (0.0, 0.01, 1.0):
        cfg = make_cfg(tmp_path)
        cfg.TEST.BOUNDARY_RATIO = ratio
        caplog.clear()
        with caplog.at_level(logging.INFO):
            results = inference_on_dataset(model, loader, build_evaluator(cfg, tiny_dataset))
        found[ratio] = results["panoptic_seg"]
        assert (f"PQ boundary ({ratio:g})" in caplog.text) == (ratio > 0)
    assert not [name for name in found[0.0] if "boundary" in name]
    for suffix in ("", "_th", "_st"):
        # A band as wide as the image is the mask itself; a thin one sees a shift of two pixels.
        for figure in ("PQ", "SQ", "RQ"):
            wide = found[1.0][f"{figure}_boundary{suffix}"]
            assert wide == pytest.approx(found[0.0][figure + suffix])
        assert found[0.01][f"PQ_boundary{suffix}"] < found[0.0][f"PQ{suffix}"]
    cfg.TEST.BOUNDARY_RATIO = -0.02
    with pytest.raises(ValueError, match="BOUNDARY_RATIO is -0.02"):
        build_evaluator(cfg, tiny_dataset)


def evaluate_share(paths, out: str) -> None:
    """Runs in each of two processes: every other image; process 0 stores the results."""
    name = register("evaluation_tiny", paths)
    records = load_panoptic(name)[comm.get_rank() :: comm.get_world_size()]
    truth = PanopticTruth(name)
    results = {}
    for evaluator in (
        PanopticEvaluator(name, out, truth=truth),
        SemanticEvaluator(name, truth=truth),
        InstanceEvaluator(name, truth=truth),
    ):
        part = run(evaluator, name, shifted_output, records)
        assert comm.is_main_process() or part == {}
        results |= part
    try:  # a missing image is an error in every process, so that none waits for the others
        run(SemanticEvaluator(name, truth=truth), name, shifted_output, records[:1])
    except ValueError as error:
        results[f"error{comm.get_rank()}"] = str(error)
    Path(out, f"results{comm.get_rank()}.json").write_text(json.dumps(results))


def test_two_processes_give_the_figures_of_one(tiny_dataset, coco_paths, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
    launch(evaluate_share, 1, args=(coco_paths, str(alone)))
    launch(evaluate_share, 2, num_processes=2, args=(coco_paths, str(both)))
    expected = json.loads((alone / "results0.json").read_text())
    found = json.loads((both / "results0.json").read_text())
    for key in ("panoptic_seg", "sem_seg", "bbox", "segm"):
        assert found[key] == pytest.approx(expected[key], abs=1e-10, nan_ok=True), key
    other = json.loads((both / "results1.json").read_text())
    assert "no prediction for 1 of the 3" in found["error0"] == other["error1"]
    merged, single = ((d / "predictions.json").read_text() for d in (both, alone))
    assert merged == single
    assert sorted(p.name for p in (both / "predictions").iterdir()) == [
        f"{100 + n:012d}.png" for n in range(3)
    ]
    assert not list(both.glob("*process*"))
