"""The study of what an iteration costs, on tiny scenes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ROIAlign
from project import ROOT
from torch import nn

from panoptic_common.data.catalog import register_builtin
from panoptic_common.modeling.roi_align import PreciseROIAlign
from panoptic_tools.studies import iteration_cost

TINY = """
_BASE_: "{base}"
DATASETS: {{SCENES: {{HEIGHT: 64, WIDTH: 96, NUM_TRAIN: 4, NUM_TEST: 1}}}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
"""


@pytest.fixture
def configs(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    paths = []
    for name in ("peers/scenes/panoptic_fpn", "unified/scenes/D2", "cops/scenes/pretrain"):
        paths.append(tmp_path / f"{name.split('/')[0]}.yaml")
        paths[-1].write_text(TINY.format(base=ROOT / f"configs/{name}.yaml"))
    yield [str(path) for path in paths]
    monkeypatch.undo()
    register_builtin()


def test_systems_and_peers_are_trained_by_turns(configs, capsys, monkeypatch):
    made = []
    make = iteration_cost.make_training
    monkeypatch.setattr(
        iteration_cost, "make_training", lambda *a, **k: made.append(make(*a, **k)) or made[-1]
    )
    counts = ["--iterations", "1", "--turns", "2", "--warm-up", "1"]
    assert iteration_cost.main([*configs, "--roi-align", "both", *counts]) == 0
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines()[-6:]]
    assert [row[0].strip().split("/")[-1] for row in rows[::2]] == ["peers", "unified", "cops"]
    assert all("Detectron2's ROIAlign" in row[0] for row in rows[1::2])
    assert rows[0][2].strip() == "1.00 (1.00 to 1.00)"
    for training in made:
        assert training.storage.iter == 3 and len(training.times) == 2
    kinds = [
        {type(m) for m in t.trainer.model.modules() if isinstance(m, (ROIAlign, PreciseROIAlign))}
        for t in made
    ]
    assert kinds == [{PreciseROIAlign}, {ROIAlign}] * 2 + [set()] * 2
    # Equal configs start from equal weights and see equal images, so the first losses are alike.
    for ours, theirs in zip(made[::2], made[1::2], strict=True):
        first, second = (t.storage.history("total_loss").values()[0][0] for t in (ours, theirs))
        assert first == pytest.approx(second, rel=1e-3)


def test_an_iterations_time_is_the_mean_of_the_turn(monkeypatch):
    clock = iter([10.0, 13.0])
    monkeypatch.setattr(iteration_cost.time, "process_time", lambda: next(clock))
    steps = []
    trainer = SimpleNamespace(run_step=lambda: steps.append(1))
    training = iteration_cost.Training("a", trainer, iteration_cost.EventStorage())
    training.run(6)
    assert training.times == [0.5] and len(steps) == 6
    assert iteration_cost.spread([3.0, 1.0, 2.0], " s") == "2.00 s (1.00 to 3.00)"


def test_only_our_layers_are_replaced():
    other = nn.Identity()
    pooler = iteration_cost.ROIPooler(7, (1 / 4,), 2, "ROIAlignV2")
    pooler.level_poolers[0] = PreciseROIAlign((7, 7), 1 / 4, 2, False)
    model = nn.Sequential(other, pooler)
    iteration_cost.use_detectron2s(model)
    (layer,) = pooler.level_poolers
    assert type(layer) is ROIAlign and not layer.aligned and model[0] is other
    boxes = torch.tensor([[0.0, 3, 4, 20, 24]])
    features = torch.randn(1, 2, 8, 8)
    torch.testing.assert_close(
        layer(features, boxes), PreciseROIAlign((7, 7), 1 / 4, 2, False)(features, boxes)
    )


def test_what_makes_no_sense_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        iteration_cost.main(["no.yaml", "--turns", "0"])
    assert ended.value.code == 2 and "--turns" in capsys.readouterr().err
