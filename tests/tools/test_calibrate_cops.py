"""tools/calibrate_cops.py: a checkpoint goes in, one with balanced edge costs comes out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_factory import TinyModel, checkpointer_of
from cops_factory import tiny_config, tiny_model
from two_things import TABLE, register_two_things

from cops.modeling.calibration import Balance
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.inference.predictor import Predictor
from panoptic_tools import calibrate_cops

SETS = {"DATASETS.TRAIN": ("tiny_nuclei",), "DATASETS.TEST": ("tiny_held",)}


@pytest.fixture
def words(tmp_path: Path) -> Iterator[list[str]]:
    yield from register_two_things(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network whose edges all lean towards cutting."""
    model = tiny_model(SETS)
    with torch.no_grad():
        model.cost_scale.edge_offset.fill_(2.0)
    cfg = tiny_config(SETS)
    PanopticCheckpointer(model, str(tmp_path), cfg=cfg, class_table=TABLE).save(
        "model", iteration=4
    )
    return tmp_path / "model.pth"


def test_the_balance_that_is_taken_is_in_the_new_file(
    words: list[str],
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An untrained network has a PQ of 0 under every balance; the search has tests of its own.
    best = Balance(1.4, 0.75, 0.5, -0.7)
    monkeypatch.setattr(
        calibrate_cops, "find_balance", lambda quality: (best, {best: quality(best)})
    )
    assert calibrate_cops.main([str(checkpoint), *words]) == 0
    printed = capsys.readouterr().out
    assert "on 2 training images" in printed
    taken = next(line for line in printed.splitlines() if "<- taken" in line).split()
    assert [float(word) for word in taken[:4]] == [1.4, 0.75, 0.5, -0.7]
    distances = tiny_config(SETS).MODEL.COPS.DISTANCES
    factors, constants = best.by_distance(distances)
    before = torch.load(checkpoint, weights_only=True)
    after = torch.load(checkpoint.with_name("model_calibrated.pth"), weights_only=True)
    for key in ("class_table", "iteration", "seed"):
        assert after[key] == before[key]
    assert Predictor.from_checkpoint(str(checkpoint.with_name("model_calibrated.pth")))
    for name, value in before["model"].items():
        expected = value
        if name == "cost_scale.edge_scale":
            expected = value * factors
        elif name == "cost_scale.edge_offset":
            expected = value * factors - constants
        torch.testing.assert_close(after["model"][name], expected, msg=name)


def test_a_checkpoint_is_calibrated_for_another_solver(
    words: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "other.pth"
    opts = ["--opts", "MODEL.COPS.SOLVER.METHOD"]
    assert calibrate_cops.main([str(checkpoint), *words, "--out", str(out), *opts, "auto"]) == 0
    assert "METHOD: auto" in torch.load(out, weights_only=True)["config"]
    assert "METHOD: auto" not in torch.load(checkpoint, weights_only=True)["config"]
    with pytest.raises(SystemExit):
        calibrate_cops.main([str(checkpoint), *words, *opts])
    assert "pairs of key and value" in capsys.readouterr().err
    assert calibrate_cops.main([str(checkpoint), *words, *opts, "greed"]) == 2
    assert "greed" in capsys.readouterr().err


def test_what_cannot_be_used_is_said_in_a_sentence(
    words: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    checkpointer_of(TinyModel(), other).save("model", iteration=4)
    cases = {
        (str(checkpoint), *words, "--dataset", "tiny_held"): "tested on",
        (str(checkpoint), *words, "--max-pixels", "100"): "no image of at most 100 pixels",
        (str(checkpoint), *words, "--dataset", "tiny_nucle"): "did you mean 'tiny_nuclei'",
        (str(other / "model.pth"),): "NUMBERING",
    }
    for arguments, sentence in cases.items():
        assert calibrate_cops.main(list(arguments)) == 2
        found = capsys.readouterr().err
        assert sentence in found and "Traceback" not in found
    assert not list(tmp_path.glob("*_calibrated.pth"))


def test_a_data_set_of_other_classes_is_refused(
    words: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(truth.read_text().replace("class 1", "cell"))
    assert calibrate_cops.main([str(checkpoint), *words]) == 2
    found = capsys.readouterr().err.splitlines()[-1]
    assert "class 1 is 'cell' (thing) there, 'class 1' (thing) here" in found
    assert found.startswith("calibrate_cops.py: ") and "model.pth" in found


@pytest.mark.parametrize(
    ("word", "sentence"), [(("--images", "0"), "at least 1"), (("--out", "x.pkl"), ".pth")]
)
def test_wrong_options_are_refused(
    checkpoint: Path, word: tuple[str, str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        calibrate_cops.parse_args([str(checkpoint), *word])
    assert caught.value.code == 2 and sentence in capsys.readouterr().err


def test_a_missing_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        calibrate_cops.main([str(tmp_path / "absent.pth")])
    assert caught.value.code == 2 and "absent.pth" in capsys.readouterr().err
