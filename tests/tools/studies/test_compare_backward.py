"""tools/studies/compare_backward.py: gradients of other ways to solve, beside the reference."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from cops_factory import make_image, tiny_model
from project import ROOT

from panoptic_tools.studies import compare_backward
from panoptic_tools.studies.library import gradients


def test_cosine_and_ratio():
    reference = np.array([3.0, 0.0, -4.0], dtype=np.float32)
    figures = gradients.compare(-2 * reference, reference)
    assert figures == {"cosine": pytest.approx(-1), "norm_ratio": pytest.approx(2)}
    nothing = gradients.compare(0 * reference, reference)
    assert math.isnan(nothing["cosine"]) and nothing["norm_ratio"] == 0
    assert all(map(math.isnan, gradients.compare(reference, 0 * reference).values()))


def test_the_same_way_has_the_same_gradient_and_another_has_not(monkeypatch):
    ways = {"again": gradients.SCRATCH, "warm": gradients.WAYS["multilevel, warm start"]}
    monkeypatch.setattr(gradients, "WAYS", ways)
    changes = {
        "MODEL.COPS.TRAINING": "surrogate",
        "MODEL.COPS.SOLVER.METHOD": "multilevel",
        "MODEL.COPS.BACKWARD.LAMBDA_RANGE": (1000.0, 5000.0),
    }
    model = tiny_model(changes).train()
    # Costs of random weights hardly differ, so that every perturbation would change everything.
    with torch.no_grad():
        for parameter in model.cost_scale.parameters():
            parameter.mul_(20.0)
    figures = gradients.compare_batch(model, [make_image(seed) for seed in range(3)], seed=5)
    by_way = {way: [f for f in figures if f["way"] == way] for way in ("from scratch", *ways)}
    assert all(len(own) == 3 for own in by_way.values())
    assert all("cosine" not in figure for figure in by_way["from scratch"])
    assert any(figure["reacted"] for figure in by_way["from scratch"])
    for figure, again in zip(by_way["from scratch"], by_way["again"], strict=True):
        assert again["reacted"] == figure["reacted"]
        if figure["reacted"]:
            assert again["cosine"] == pytest.approx(1) and again["norm_ratio"] == pytest.approx(1)
    assert any(not math.isclose(figure["norm_ratio"], 1) for figure in by_way["warm"])


def test_program(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    small = ["DATASETS.SCENES.NUM_TRAIN", "4", "DATASETS.SCENES.HEIGHT", "64"]
    small += ["DATASETS.SCENES.WIDTH", "96", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    small += ["SOLVER.IMS_PER_BATCH", "2", "MODEL.WEIGHTS", ""]
    config = ROOT / "configs/cops/scenes/full_multilevel.yaml"
    output = tmp_path / "figures.json"
    arguments = ["--config-file", str(config), "--batches", "2", "--json", str(output)]
    assert compare_backward.main([*arguments, *small]) == 0
    assert "4 images: median (quartiles)" in (text := capsys.readouterr().out)
    assert all(way in text for way in ("from scratch", *gradients.WAYS))
    assert len(json.loads(output.read_text())) == 4 * (1 + len(gradients.WAYS))

    wrong = ["--config-file", str(ROOT / "configs/cops/scenes/pretrain.yaml")]
    with pytest.raises(SystemExit) as error:
        compare_backward.main(wrong)
    assert error.value.code == 2
    assert 'give a config with "surrogate"' in capsys.readouterr().err
