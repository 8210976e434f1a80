"""tools/browse_dataset.py: sheets and table of a data set of one's own, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_factory import make_coco_panoptic
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from project import ROOT

from panoptic_tools import browse_dataset

CONFIG = str(ROOT / "configs/unified/scenes/D2.yaml")


@pytest.fixture
def words(tmp_path):
    paths = make_coco_panoptic(tmp_path, num_images=3)
    yield [
        *("seen", "--register", "seen", paths.images, paths.panoptic_json, paths.panoptic_png),
        *("--output", str(tmp_path / "look")),
    ]
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "seen" in catalog:
            catalog.pop("seen")


def test_sheets_and_table(words, tmp_path, capsys):
    config = ["--config-file", CONFIG, "INPUT.MIN_SIZE_TRAIN", "(48,)"]
    assert browse_dataset.main([*words, *config]) == 0
    sheet = Image.open(tmp_path / "look/seen_1.png")
    assert sheet.size[0] == 6 * 326 + 6  # six columns of 320 pixels, 6 between
    told = capsys.readouterr().out
    assert "3 images of 1 sizes: 3 of 64 x 48" in told and "seen_1.png" in told
    assert any(line.split()[:4] == ["car", "thing", "3", "6"] for line in told.splitlines())


def test_without_a_config_the_defaults_are_shown(words, tmp_path):
    size = ["INPUT.MIN_SIZE_TRAIN", "(64,)"]
    assert browse_dataset.main([*words, "--images", "1", "--draws", "0", *size]) == 0
    assert Image.open(tmp_path / "look/seen_1.png").size[0] == 2 * 326 + 6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--images", "0"], "--images must be at least 1"),
        (["INPUT.FORMAT"], "pairs of key and value"),
        (["INPUT.FORM", "BGR"], "INPUT.FORM"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, capsys, tmp_path, change, sentence):
    try:
        status = browse_dataset.main([*words, *change])
    except SystemExit as end:
        status = end.code
    assert status == 2 and sentence in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "look").exists()


def test_an_unknown_data_set_is_told_how_to_be_known(words, capsys):
    assert browse_dataset.main(["sen", *words[1:]]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'seen'" in said and "--register sen IMAGES JSON PNGS" in said


def test_a_damaged_file_is_named(words, tmp_path, capsys):
    data = json.loads((tmp_path / "panoptic_tiny.json").read_text())
    image = Path(tmp_path / "tiny" / data["images"][1]["file_name"])
    image.write_bytes(image.read_bytes()[:-200])
    assert browse_dataset.main([*words, "INPUT.MIN_SIZE_TRAIN", "(48,)"]) == 1
    assert image.name in capsys.readouterr().err
