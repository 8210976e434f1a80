"""tools/studies/semantic_branch.py: branches against the heads that they stand for, and the map."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from panoptic_common.config import fill_classes, read_config
from panoptic_tools.studies import semantic_branch
from panoptic_tools.studies.library.semantic_branches import (
    BRANCHES,
    CONFIG,
    LEVELS,
    SemanticBranch,
    stuff_map,
)

TINY = [
    *("DATASETS.SCENES.HEIGHT", "64", "DATASETS.SCENES.WIDTH", "96"),
    *("DATASETS.SCENES.NUM_TRAIN", "4", "DATASETS.SCENES.NUM_TEST", "2"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
]


def build(name: str) -> SemanticBranch:
    torch.manual_seed(0)
    cfg = read_config(CONFIG, TINY)
    fill_classes(cfg, [{"name": str(k), "isthing": k >= 3} for k in range(5)])
    return SemanticBranch(cfg, BRANCHES[name], 5)


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_learns_and_differs_where_it_says(name):
    model = build(name)
    batch = [
        {"image": torch.randint(0, 255, (3, 64, 96)), "sem_seg": torch.full((64, 96), value)}
        for value in (0, 255)
    ]
    loss = model.loss(batch)
    loss.backward()
    assert all(p.grad is not None for p in model.head.parameters())
    deviation = model.head.predictor.weight.std().item()
    # 5 classes: sqrt(2 / 5) is 0.63.
    large = name == "shared, larger predictor" or (
        BRANCHES[name].decoder == "per_level" and "small" not in name
    )
    assert deviation == pytest.approx(0.63 if large else 0.01, rel=0.2)
    gated = any("squeeze_excitation" in key for key, _ in model.named_parameters())
    assert gated == (name != "PanopticFPN's")


def test_own_subnets_are_the_shared_one_if_their_weights_agree():
    shared, own = build("shared"), build("own subnet per level")
    for subnet in own.head.decoder.subnets:
        subnet.load_state_dict(shared.head.decoder.subnet.state_dict())
    features = {
        name: torch.randn(1, 64, 64 // stride, 96 // stride)
        for name, stride in zip(LEVELS, (4, 8, 16, 32), strict=True)
    }
    torch.testing.assert_close(own.head.decoder(features), shared.head.decoder(features))


def test_the_map_of_stuff_by_hand():
    """Class 0 has two pixels, class 1 one, which is too few; 2 stands for things."""
    id_map, segments = stuff_map(np.array([[0, 0, 1, 2]]), 2, 2)
    assert id_map.tolist() == [[1, 1, 0, 0]]
    assert segments == [{"id": 1, "category_id": 0, "isthing": False, "area": 2}]


def test_rows_are_trained_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    out = tmp_path / "out"
    words = ["--names", "shared", "--iterations", "1", "--output", str(out), "--", *TINY]
    assert semantic_branch.main(words) == 0
    figures = json.loads((out / "shared_seed0.json").read_text())["figures"]
    assert figures["processor_seconds"] > 0 and 0 <= figures["mIoU_st"] <= 100
    monkeypatch.setattr(semantic_branch, "train_branch", None)  # would be an error
    assert semantic_branch.main(words) == 0
    assert f"{figures['parameters']:,}" in capsys.readouterr().out
    words[words.index("1")] = "2"
    assert semantic_branch.main(words) == 1
    assert "has other settings: name another folder" in capsys.readouterr().err
