"""What lies beside model_final.pth: a card with figures, and weights that need nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import final_state, train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.checkpoint.files import read_checkpoint_metadata, read_weights_file
from panoptic_common.engine.final_files import licence_of


def test_card_and_safetensors_of_a_run(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TinyTrainer,
        "test",
        classmethod(lambda *_: {"panoptic_seg": {"PQ": 61.25, "PQ_x": float("nan")}}),
    )
    monkeypatch.setattr("sys.argv", ["/somewhere/train_net.py", "--config-file", "a b.yaml"])
    path = next(tiny_root.rglob("panoptic_tiny.json"))
    content = json.loads(path.read_text())
    content["licenses"] = [{"id": 1, "name": "CC BY 4.0"}, {"id": 2, "name": "CC0"}]
    path.write_text(json.dumps(content))
    cfg = tiny_config(tiny_root, "SOLVER.CHECKPOINT_SAFETENSORS", True)
    train(cfg)
    card = (tiny_root / "out/model_final.md").read_text()
    for line in (
        "| panoptic_seg/PQ | 61.25 |",
        "| licence | of the images, as the annotation files say: CC BY 4.0, CC0 |",
        "| trained by | `train_net.py --config-file 'a b.yaml'` |",
        "| iterations, seed | 12, 5 |",
        "| data | tiny |",
        "| 3 | bus | thing |",
        "| 4 | sky | stuff |",
    ):
        assert line in card.splitlines()
    assert "PQ_x" not in card and f"torch {torch.__version__.partition('+')[0]}" in card
    path = tiny_root / "out/model_final.safetensors"
    assert read_checkpoint_metadata(path).iteration == 11
    weights = read_weights_file(path)["model"]
    assert all(torch.equal(weights[k], v) for k, v in final_state(cfg)["model"].items())


def test_a_run_that_is_not_evaluated_has_a_card(tiny_root: Path) -> None:
    train(tiny_config(tiny_root, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 2))
    card = (tiny_root / "out/model_final.md").read_text()
    assert "Not evaluated." in card and "not stated: the annotation files name none" in card
    assert not (tiny_root / "out/model_final.safetensors").exists()


@pytest.mark.parametrize(
    ("licenses", "encoding", "expected"),
    [
        (
            [{"id": 1, "name": "CC0"}],
            "utf-8-sig",
            "of the images, as the annotation files say: CC0",
        ),
        ([{"id": 1, "name": "CC0"}], "utf-16", "of the images, as the annotation files say: CC0"),
        (7, "utf-8", "not stated: the annotation files name none"),
        ({"name": "CC0"}, "utf-8", "not stated: the annotation files name none"),
    ],
)
def test_licences_are_read_as_the_data_set_is(
    tiny_root: Path, licenses: object, encoding: str, expected: str
) -> None:
    """A byte order mark must not hide them, nor nonsense end a training that is over."""
    path = next(tiny_root.rglob("panoptic_tiny.json"))
    content = {**json.loads(path.read_text()), "licenses": licenses}
    path.write_text(json.dumps(content), encoding=encoding)
    tiny_config(tiny_root)  # registers the data set
    assert licence_of(["tiny"]) == expected


def test_a_new_run_puts_the_card_of_an_earlier_one_aside(tiny_root: Path) -> None:
    cfg = tiny_config(tiny_root, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 2)
    train(cfg)
    train(cfg, until=1)
    assert (tiny_root / "out/earlier.1/model_final.md").is_file()
    assert not (tiny_root / "out/model_final.md").exists()


def test_a_run_that_is_ended_early_has_them_too(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PQ 50, 40, 45: two evaluations without a new best, after iteration 2 of 12."""
    values = iter((50.0, 40.0, 45.0))
    monkeypatch.setattr(
        TinyTrainer, "test", classmethod(lambda *_: {"panoptic_seg": {"PQ": next(values)}})
    )
    words = {"TEST.EVAL_PERIOD": 1, "SOLVER.CHECKPOINT_PERIOD": 1, "TEST.EARLY_STOP": 2}
    options = [word for pair in words.items() for word in pair]
    cfg = tiny_config(
        *(tiny_root, "TEST.BEST_METRIC", "panoptic_seg/PQ", *options),
        *("SOLVER.CHECKPOINT_SAFETENSORS", True),
    )
    train(cfg)
    assert read_checkpoint_metadata(tiny_root / "out/model_final.safetensors").iteration == 2
    card = (tiny_root / "out/model_final.md").read_text()
    assert "| panoptic_seg/PQ | 45.00 |" in card or "| panoptic_seg/PQ | 45 |" in card
