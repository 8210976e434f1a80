"""Images without truth: a trained model writes what a test server takes (Tables 4 and 5)."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from dataset_factory import make_coco_panoptic
from tiny_system import forget_tiny, set_option, tiny_options

from panoptic_tools import train_net


@pytest.fixture(autouse=True)
def one_system_more(monkeypatch: pytest.MonkeyPatch):
    """The table of systems knows the tiny one, too."""
    monkeypatch.setitem(train_net.SYSTEMS, "TinyPanoptic", "tiny_system")
    yield
    forget_tiny()


def test_images_without_truth_give_an_archive_and_train_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_coco_panoptic(tmp_path, num_images=4)
    register = ["--register", "tiny", paths.images, paths.panoptic_json, paths.panoptic_png]
    words = [*register, *tiny_options(tmp_path)]
    assert train_net.main(words) == 0
    content = json.loads(Path(paths.panoptic_json).read_text())
    info = tmp_path / "info.json"
    info.write_text(json.dumps({"images": content["images"][1:]}))
    alone = ["--register-images", "alone", paths.images, str(info), paths.panoptic_json, *words]
    alone = set_option(alone, "DATASETS.TEST", "('alone',)")
    evaluate = set_option(alone, "MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth"))
    assert train_net.main(["--eval-only", *evaluate]) == 0
    with zipfile.ZipFile(tmp_path / "out/inference/alone/TinyPanoptic.zip") as packed:
        annotations = json.loads(packed.read("TinyPanoptic.json"))["annotations"]
        assert [annotation["image_id"] for annotation in annotations] == [101, 102, 103]
        assert len(packed.namelist()) == 4
    capsys.readouterr()
    assert train_net.main(set_option(alone, "DATASETS.TRAIN", "('alone',)")) == 2
    assert "DATASETS.TRAIN names 'alone', which has no truth" in capsys.readouterr().err
