"""tools/pack_model.py: a small file with its card, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from project import ROOT
from tiny_system import UNIFIED_OPTIONS

from panoptic_common import load
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import read_checkpoint_metadata, read_weights_file
from panoptic_common.coco.image_reading import read_image
from panoptic_common.config import load_config, stored_config
from panoptic_common.inference.predictor import Prediction, Predictor
from panoptic_common.scenes.storage import CLASSES, SceneConfig, make_scene
from panoptic_tools import pack_model

NO_STUFF = ("MODEL.UNIFIED.INFERENCE.STUFF_AREA_LIMIT", "1000000")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A checkpoint of a tiny Unified network with its optimizer, and an image."""
    folder = tmp_path_factory.mktemp("made")
    options = [*UNIFIED_OPTIONS, "OUTPUT_DIR", str(folder), "INPUT.MIN_SIZE_TEST", "64"]
    options += ["MODEL.UNIFIED.INFERENCE.STUFF_AREA_LIMIT", "0"]
    cfg = load_config(ROOT / "configs/unified/scenes/D2.yaml", options, table=CLASSES)
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    PanopticCheckpointer(
        model, str(folder), cfg=cfg, class_table=CLASSES, optimizer=optimizer
    ).save("model", iteration=4)
    scene = make_scene(3, SceneConfig(height=65, width=99)).image
    cv2.imwrite(str(folder / "scene.png"), scene[:, :, ::-1])
    return str(folder / "model.pth"), str(folder / "scene.png")


def words(made: tuple[str, str], out: Path, *more: str) -> list[str]:
    checkpoint, image = made
    return [checkpoint, "--name", "tiny", "--out", str(out), "--images", image, *more]


def test_the_file_alone_is_a_model(made, tmp_path: Path, capsys) -> None:
    more = ["--storage", "bytes", "--tolerance", "0.5"]
    more += ["--card", "title=Tiny | scenes", "licence=CC0", "results=PQ 3.0", "data=scenes"]
    more += ["--opts", "DATASETS.TRAIN", "('mine',)"]
    assert pack_model.main(words(made, tmp_path / "zoo", *more)) == 0
    path = tmp_path / "zoo/tiny.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.md", "tiny.safetensors"]
    cfg = stored_config(read_checkpoint_metadata(path).config)
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, list(cfg.DATASETS.TRAIN)) == ("output", "", ["mine"])
    assert str(Path(made[0]).parent).encode() not in path.read_bytes()
    assert not any("num_batches" in name for name in read_weights_file(path)["model"])
    assert load(path)(made[1]).panoptic.shape == (65, 99)
    card = path.with_suffix(".md").read_text()
    assert card.startswith("# Tiny | scenes\n") and "| licence | CC0 |" in card
    assert "panoptic-demo --model tiny" in card and "PQ 3.0" in card and "% of the pixels" in card
    assert "Images compared with the checkpoint: 1;" in card


def test_the_checkpoint_is_compared_with_the_settings_of_the_file(made, tmp_path: Path) -> None:
    """Or what a setting changes would count as a change by the fewer bits."""
    ours, theirs = (
        Predictor.from_checkpoint(made[0], opts=opts)(read_image(Path(made[1]))).id_map
        for opts in ((), NO_STUFF)
    )
    assert (ours != theirs).mean() > 0.5
    path = tmp_path / "tiny.safetensors"
    assert pack_model.main(words(made, tmp_path, "--opts", *NO_STUFF)) == 0
    assert "at most 0.000 %" in path.with_suffix(".md").read_text()


def test_a_file_that_is_too_large_is_not_written(made, tmp_path: Path, capsys) -> None:
    out = tmp_path / "zoo"
    assert pack_model.main(words(made, out, "--max-size", "0.01")) == 2
    told = capsys.readouterr().err
    assert "makes a file of" in told and "more than 0.01: try --storage bytes" in told
    assert not out.exists()


def test_a_model_that_changes_its_results_is_not_written(
    made, tmp_path: Path, capsys, monkeypatch
) -> None:
    """Packed weights that are all 0 give one class everywhere."""
    write = pack_model.write_weights

    def spoil(path, contents, storage) -> None:
        zeros = {name: torch.zeros_like(value) for name, value in contents["model"].items()}
        write(path, {**contents, "model": zeros}, storage)

    monkeypatch.setattr(pack_model, "write_weights", spoil)
    assert pack_model.main(words(made, tmp_path / "zoo")) == 2
    assert "of an image's pixels, more than 0.5 %" in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--card", "colour=red"], "'colour=red' is not KEY=TEXT with one of"),
        (["--card", "licence"], "'licence' is not KEY=TEXT"),
        (["--opts", "DATASETS.TRAIN"], "pairs of key and value"),
        (["--storage", "int4"], "invalid choice: 'int4'"),
        (["--tolerance", "nan"], "'nan' is not a number"),
        (["--max-size", "inf"], "'inf' is not a number"),
        (["--max-size", "-1"], "-1 is too small: give 0 or more"),
        (["--name", ""], "'' is no plain name"),
        (["--name", "a/b"], "'a/b' is no plain name"),
        (["--name", "../escaped"], "'../escaped' is no plain name"),
    ],
)
def test_words_that_cannot_be_used(made, tmp_path: Path, capsys, more, sentence) -> None:
    with pytest.raises(SystemExit) as ended:
        pack_model.main(words(made, tmp_path / "zoo", *more))
    assert ended.value.code == 2 and sentence in capsys.readouterr().err


def test_a_file_of_others_is_refused(made, tmp_path: Path, capsys) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "theirs.pth")
    assert pack_model.main(words((str(tmp_path / "theirs.pth"), made[1]), tmp_path / "zoo")) == 2
    assert "theirs.pth is not a checkpoint of this project" in capsys.readouterr().err


def prediction(ids: list[list[int]], classes: dict[int, int]) -> Prediction:
    nothing = np.zeros(0)
    segments = [{"id": k, "category_id": c, "isthing": True} for k, c in classes.items()]
    id_map = np.array(ids, np.int32)
    return Prediction(id_map, id_map, segments, nothing, nothing, nothing)


def test_share_of_changed_pixels() -> None:
    """Eight pixels. Numbers do not matter; a lost pixel, another class and a split do.

    First: segment 1 of 4 pixels, 2 of 3, and a void one. Second: the same renumbered but for one
    pixel of segment 1, which went to void: 1 / 8. Third: segment 2 is of another class: 3 / 8 more.
    """
    first = prediction([[1, 1, 2, 2], [1, 1, 2, 0]], {1: 0, 2: 1})
    assert pack_model.changed_share(first, first, 3) == 0
    second = prediction([[7, 7, 5, 5], [7, 0, 5, 0]], {7: 0, 5: 1})
    assert pack_model.changed_share(first, second, 3) == pytest.approx(1 / 8)
    third = prediction([[7, 7, 5, 5], [7, 0, 5, 0]], {7: 0, 5: 2})
    assert pack_model.changed_share(first, third, 3) == pytest.approx(4 / 8)
