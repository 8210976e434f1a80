"""tools/studies/solver_line.py: slopes by the gradient beside measured ones."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from cops_factory import make_image, tiny_model
from project import ROOT

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_tools.studies import solver_line
from panoptic_tools.studies.library import steps


def test_slopes_are_those_of_a_smooth_function(monkeypatch):
    """The loss 7 (1 - q) of q = w . x has the slope 100 x . line, whatever its weight 7."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.solver_training = SimpleNamespace(loss=SimpleNamespace(weight=7.0))
    monkeypatch.setattr(steps, "solver_loss", lambda m, x: 7 * (1 - (m.weight * x).sum()))
    batches = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0])]
    slopes = steps.said_slopes(model, batches, [torch.tensor([[0.1, 0.3]])], seed=0)
    assert slopes == pytest.approx([100 * 0.1, 100 * (0.05 + 0.6)])


def test_slopes_through_the_solver_are_finite_and_leave_the_model():
    model = tiny_model({"MODEL.COPS.TRAINING": "surrogate"}).train()
    before = [p.detach().clone() for p in steps.trained(model)]
    line = [torch.full_like(p, 0.01) for p in before]
    batches = [[make_image(seed, things=2)] for seed in range(2)]
    slopes = steps.said_slopes(model, batches, line, seed=0)
    assert len(slopes) == 2 and all(abs(slope) < float("inf") for slope in slopes)
    assert slopes == steps.said_slopes(model, batches, line, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, steps.trained(model), strict=True))


def test_program(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    small = ["DATASETS.SCENES.NUM_TRAIN", "4", "DATASETS.SCENES.HEIGHT", "64"]
    small += ["DATASETS.SCENES.WIDTH", "96", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    small += ["SOLVER.IMS_PER_BATCH", "2", "MODEL.WEIGHTS", ""]
    config = str(ROOT / "configs/cops/scenes/full.yaml")
    cfg = solver_line.surrogate_config(config, small)
    model = solver_line.loaded_model(cfg)
    with torch.no_grad():
        for parameter in steps.trained(model):
            parameter += 0.001
    PanopticCheckpointer(model, str(tmp_path), cfg=cfg).save("end")
    words = ["--config-file", config, "--end", str(tmp_path / "end.pth"), "--batches", "2"]
    words += ["--points", "0", "1", "--json", str(tmp_path / "line.json"), "--", *small]
    assert solver_line.main(words) == 0
    assert "| slope by the gradient" in capsys.readouterr().out
    rows = json.loads((tmp_path / "line.json").read_text())
    assert [row["point"] for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--batches", "1"], "--batches"), (["--end", "absent.pth"], "absent.pth")],
)
def test_what_cannot_be_is_refused(words, message, capsys):
    config = ["--config-file", str(ROOT / "configs/cops/scenes/full.yaml")]
    with pytest.raises(SystemExit) as error:
        solver_line.main([*config, "--end", str(ROOT / "README.md"), *words])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_refused(capsys):
    config = ["--config-file", str(ROOT / "configs/cops/scenes/full.yaml")]
    end = ["--end", str(ROOT / "README.md"), "--", "MODEL.WEIGHTS", ""]
    assert solver_line.main([*config, *end]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("solver_line.py: cannot read the checkpoint") and "README.md" in said
