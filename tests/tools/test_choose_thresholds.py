"""tools/choose_thresholds.py: what it prints and writes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_factory import TinyModel, checkpointer_of
from cops_factory import tiny_config, tiny_model
from two_things import TABLE, id_map_of_two_things, register_two_things, segments_of_two_things

from cops import thresholds
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.inference.predictor import Predictor
from panoptic_tools import choose_thresholds

LIMIT = "MODEL.COPS.INFERENCE.THING_AREA_LIMIT"
# The two things have 384 pixels each, so that the config's limit leaves none.
SETS = {"DATASETS.TRAIN": ("tiny_train",), "DATASETS.TEST": ("tiny_held",), LIMIT: 400}
DATA = ["--dataset", "tiny_nuclei"]


@pytest.fixture
def words(tmp_path: Path) -> Iterator[list[str]]:
    for words in register_two_things(tmp_path):
        yield [*words, *DATA]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model, cfg = tiny_model(SETS), tiny_config(SETS)
    PanopticCheckpointer(model, str(tmp_path), cfg=cfg, class_table=TABLE).save(
        "model", iteration=4
    )
    return tmp_path / "model.pth"


@pytest.fixture
def knows_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network finds nothing: its maps become the truth without small things."""

    def map_maker(predictor: Predictor, image: np.ndarray) -> Callable[[Any], Any]:
        ids = torch.from_numpy(id_map_of_two_things())

        def make(cfg: Any) -> tuple[torch.Tensor, list[dict[str, Any]]]:
            limit = cfg.MODEL.COPS.INFERENCE.THING_AREA_LIMIT
            kept = [
                segment
                for segment in segments_of_two_things()
                if segment["category_id"] != 1 or int((ids == segment["id"]).sum()) >= limit
            ]
            return torch.where(torch.isin(ids, torch.tensor([s["id"] for s in kept])), ids, 0), kept

        return make

    monkeypatch.setattr(thresholds, "map_maker", map_maker)


def test_the_values_that_are_taken_are_printed_and_in_the_new_file(
    words: list[str],
    checkpoint: Path,
    tmp_path: Path,
    knows_the_truth: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "tuned.pth"
    assert choose_thresholds.main([str(checkpoint), *words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "on 2 images" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert [LIMIT, "0", "100.00", "100.00", "100.00", "<-", "taken"] in rows
    assert ["400", "66.67", "0.00", "100.00", "config's"] in rows
    assert sum("<-" in row for row in rows) == 2
    assert "PQ by the config's values 66.67, by those taken 100.00." in printed
    assert "judged on the other: 100.00." in printed
    chosen = printed.splitlines()[-2].split()
    assert chosen[:2] == [LIMIT, "0"] and chosen[2].endswith("STUFF_AREA_LIMIT")
    before, after = (torch.load(path, weights_only=True) for path in (checkpoint, out))
    assert "THING_AREA_LIMIT: 0" in after["config"] and "THING_AREA_LIMIT: 400" in before["config"]
    for key in ("class_table", "iteration", "seed"):
        assert after[key] == before[key]
    for name, value in before["model"].items():
        torch.testing.assert_close(after["model"][name], value, rtol=0, atol=0, msg=name)
    assert Predictor.from_checkpoint(str(out))


def test_values_of_ones_own_are_tried_instead(
    words: list[str],
    checkpoint: Path,
    tmp_path: Path,
    knows_the_truth: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [str(checkpoint), *words, "--try", LIMIT, "1e9", "300", "350"]
    assert choose_thresholds.main([*line[:-3], "350", "390"]) == 0
    assert f"{LIMIT} 350" in capsys.readouterr().out.splitlines()
    assert choose_thresholds.main(line) == 2
    found = capsys.readouterr().err
    assert "THING_AREA_LIMIT" in found and "whole number" in found and "Traceback" not in found


def test_a_value_at_the_end_of_those_tried_is_told(
    words: list[str], checkpoint: Path, knows_the_truth: None, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "is the last value that was tried"
    for values, value in (("395 390 384", "384"), ("384 385 0", ""), ("0 200", "")):
        assert (
            choose_thresholds.main([str(checkpoint), *words, "--try", LIMIT, *values.split()]) == 0
        )
        found = [line for line in capsys.readouterr().out.splitlines() if sentence in line]
        assert [line.split()[1] for line in found] == ([value] if value else [])


@pytest.mark.parametrize(
    ("value", "tried", "told"),
    [
        (0.8, [0.2, 0.5, 0.8], True),
        (0.2, [0.2, 0.5, 0.8], True),
        (0.5, [0.2, 0.5, 0.8], False),
        (0, [0, 64, 256], False),  # nothing lies beyond it
        (256, [0, 64, 256], True),
        (0, [0], False),
        ("void", ["stuff", "void"], False),
    ],
)
def test_what_the_end_is(value: Any, tried: list[Any], told: bool) -> None:
    assert choose_thresholds.at_the_end(value, tried) is told


def test_keys_outside_of_inference_build_the_model_anew(
    words: list[str], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "MODEL.COPS.SOLVER.METHOD"
    assert choose_thresholds.main([str(checkpoint), *words, "--try", key, "greedy", "auto"]) == 0
    printed = capsys.readouterr().out
    own = tiny_config().MODEL.COPS.SOLVER.METHOD
    assert f"{key} {own}" in printed.splitlines()  # untrained, all methods find nothing
    assert "of 2 choices" in printed or "of 3 choices" in printed


def test_what_cannot_be_used_is_said_in_a_sentence(
    words: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    checkpointer_of(TinyModel(), other).save("model", iteration=4)
    file, register = str(checkpoint), words[:-2]
    cases = {
        (file, *register, "--dataset", "tiny_held"): "tested on",
        (file, *register, "--dataset", "tiny_nucle"): "did you mean 'tiny_nuclei'",
        (file, *words, "--max-pixels", "100"): "no image of at most 100 pixels",
        (file, *words, "--try", "MODEL.COPS.INFERENCE.THING_AREA", "1"): "THING_AREA",
        (file, *words, "--try", "MODEL.COPS.INFERENCE.STRIDE", "3"): "STRIDE",
        (file, *words, "--try", "MODEL.COPS.DISTANCES", "(1, 4)"): "no numbers or words",
    }
    for arguments, sentence in cases.items():
        assert choose_thresholds.main(list(arguments)) == 2, arguments
        found = capsys.readouterr().err
        assert sentence in found and "Traceback" not in found, found


def test_a_data_set_of_other_classes_is_refused(
    words: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(truth.read_text().replace("class 1", "cell"))
    assert choose_thresholds.main([str(checkpoint), *words]) == 2
    found = capsys.readouterr().err.splitlines()[-1]
    assert "class 1 is 'cell' (thing) there, 'class 1' (thing) here" in found
    assert found.startswith("choose_thresholds.py: ") and "model.pth" in found


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--images 4", "required: --dataset"),
        ("--dataset tiny_nuclei --images 1", "at least 2"),
        ("--dataset tiny_nuclei --out x.pkl", ".pth"),
        ("--dataset tiny_nuclei --try MODEL.COPS.INFERENCE.STRIDE", "name values of it"),
        ("--dataset tiny_nuclei --try LIMIT 3 --try LIMIT 4", "LIMIT twice"),
        ("--dataset tiny_nuclei --opts MODEL.DEVICE", "pairs of key and value"),
    ],
)
def test_wrong_options_are_refused(
    checkpoint: Path, line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        choose_thresholds.parse_args([str(checkpoint), *line.split()])
    assert caught.value.code == 2 and sentence in capsys.readouterr().err
