"""tools/evaluate_panoptic.py and tools/studies/benchmark_quality.py on the files of an evaluation."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import pytest
from evaluation_outputs import perfect_output, run, shifted_output
from project import ROOT

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_common.evaluation.panoptic import PanopticEvaluator


def load_tool(name: str):
    path = ROOT / "tools" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # a NamedTuple that travels to workers is found by this name
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tool_scores_the_files_of_an_evaluation(
    tiny_dataset, coco_paths, tmp_path, capsys, workers
):
    results = run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, shifted_output)[
        "panoptic_seg"
    ]
    tool = load_tool("evaluate_panoptic")
    arguments = [
        "--truth",
        coco_paths.panoptic_json,
        "--predictions",
        str(tmp_path / "predictions.json"),
    ]
    output = str(tmp_path / "figures.json")
    options = ["--workers", workers, "--boundary-ratio", "0.02", "--output", output]
    assert tool.main(arguments + options) == 0
    figures = json.loads(Path(output).read_text())
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        assert figures["PQ"][group]["SQ"] == pytest.approx(results["SQ" + suffix])
        boundary = figures["boundary PQ (ratio 0.02)"][group]["PQ"]
        assert boundary == pytest.approx(results["PQ_boundary" + suffix])
    assert figures["PQ"]["class car"]["PQ"] == pytest.approx(results["PQ-car"])
    assert "class car" in capsys.readouterr().out

    content = json.loads((tmp_path / "predictions.json").read_text())
    removed = content["annotations"].pop()
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    assert tool.main(arguments) == 1
    assert f"no prediction for image {removed['image_id']}" in capsys.readouterr().err


def test_tool_names_the_wrong_image(tiny_dataset, coco_paths, tmp_path, capsys):
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    write_id_map(tmp_path / "predictions" / "000000000101.png", np.full((48, 64), 9, np.int32))
    arguments = [
        "--truth",
        coco_paths.panoptic_json,
        "--predictions",
        str(tmp_path / "predictions.json"),
    ]
    assert load_tool("evaluate_panoptic").main([*arguments, "--workers", "1"]) == 1
    assert "image 101: the predicted map holds the segment ids [9]" in capsys.readouterr().err
    assert load_tool("evaluate_panoptic").main(["--truth", "no.json", *arguments[2:]]) == 1
    assert "no.json" in capsys.readouterr().err


def test_benchmark_runs_and_compares(capsys):
    tool = load_tool("studies/benchmark_quality")
    assert tool.main(["--sizes", "40x50", "--images", "2", "--repeats", "1"]) == 0
    assert "40x50" in capsys.readouterr().out
