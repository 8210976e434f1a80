"""tools/browse_dataset.py: sheets and table of a data set of one's own, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_factory import make_coco_panoptic
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from project import ROOT

from panoptic_common.data.catalog import register_images
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


def test_a_damaged_png_is_named_where_areas_are_counted(words, tmp_path, capsys):
    """Without areas in the JSON the table reads all PNGs."""
    path = tmp_path / "panoptic_tiny.json"
    data = json.loads(path.read_text())
    for annotation in data["annotations"]:
        for segment in annotation["segments_info"]:
            segment.pop("area", None)
    path.write_text(json.dumps(data))
    png = tmp_path / "panoptic_tiny" / data["annotations"][1]["file_name"]
    png.write_bytes(png.read_bytes()[:-20])
    assert browse_dataset.main(words) == 1
    error = capsys.readouterr().err
    assert f"{png}: damaged PNG file" in error and "Traceback" not in error


def test_a_set_without_truth_is_refused(words, tmp_path, capsys):
    """Registered by another program of the same process, as built-in test sets are."""
    images = words[3]
    listed = json.loads(Path(words[4]).read_text())
    (tmp_path / "images.json").write_text(json.dumps({"images": listed["images"]}))
    register_images("seen", images, str(tmp_path / "images.json"), words[4])
    options = ["--output", str(tmp_path / "look")]
    assert browse_dataset.main(["seen", *options]) == 2
    said = capsys.readouterr().err
    assert "seen has images only, and no annotations to show" in said and said.count("\n") == 1
    assert not (tmp_path / "look").exists()


def test_the_data_set_is_not_overwritten(words, tmp_path, capsys):
    data = json.loads((tmp_path / "panoptic_tiny.json").read_text())
    image = tmp_path / "tiny" / data["images"][0]["file_name"]
    data["images"][0]["file_name"] = "seen_1.png"
    image = image.rename(image.with_name("seen_1.png"))
    (tmp_path / "panoptic_tiny.json").write_text(json.dumps(data))
    before = image.read_bytes()
    assert browse_dataset.main([*words[:-1], words[3]]) == 2
    assert "would replace what seen reads" in capsys.readouterr().err
    assert image.read_bytes() == before
