"""tools/prepare_cityscapes.py by Cityscapes' own converter, and its word on missing files."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import make_cityscapes
from programs import run_program
from project import ROOT

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.engine.training_run import with_packages
from panoptic_tools import prepare_cityscapes


def test_cityscapes_is_prepared_by_its_own_converter(tmp_path: Path) -> None:
    if importlib.util.find_spec("cityscapesscripts") is None:
        pytest.skip("the package cityscapesscripts, an extra, is not installed")
    (tmp_path / "raw").mkdir()
    (tmp_path / "ours").mkdir()
    tree = make_cityscapes(tmp_path / "raw", splits=("val",), panoptic=False)
    ours = make_cityscapes(tmp_path / "ours", splits=("val",))
    command = ["tools/prepare_cityscapes.py", str(tree), "--splits", "val"]
    done = run_program(*command)
    assert done.returncode == 0, done.stderr
    truth = tree / "gtFine" / "cityscapes_panoptic_val"
    images = str(tree / "leftImg8bit" / "val")
    assert check_dataset(PanopticPaths(images, f"{truth}.json", str(truth))).problems == []
    # The trees of the tests are what the converter makes: the same ids, segments and pixels.
    made, expected = (
        json.loads((folder / "gtFine" / "cityscapes_panoptic_val.json").read_text())
        for folder in (tree, ours)
    )
    for category in made["categories"]:
        del category["supercategory"]
    assert made == expected
    for png in sorted(truth.iterdir()):
        other = ours / "gtFine" / "cityscapes_panoptic_val" / png.name
        np.testing.assert_array_equal(read_id_map(png), read_id_map(other))
    names = {path.name for path in (tree / "gtFine").iterdir()}
    assert names == {"cityscapes_panoptic_val", "cityscapes_panoptic_val.json", "val"}
    # A second run keeps the result; a half-finished one, without its JSON, is made anew.
    assert "kept" in run_program(*command).stdout
    Path(f"{truth}.json").unlink()
    next(truth.iterdir()).unlink()
    assert run_program(*command).returncode == 0
    assert json.loads(Path(f"{truth}.json").read_text())["images"] == expected["images"]
    assert len(list(truth.iterdir())) == 4


def test_preparing_explains_what_is_missing(tmp_path: Path) -> None:
    hiding = tmp_path / "site" / "cityscapesscripts"  # hides an installed one
    hiding.mkdir(parents=True)
    (hiding / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path / "site"), with_packages(ROOT)["PYTHONPATH"]])
    done = run_program("tools/prepare_cityscapes.py", str(tmp_path), PYTHONPATH=path)
    assert done.returncode == 1
    assert "pip install --no-deps cityscapesscripts" in done.stderr
    assert "Traceback" not in done.stderr


def test_preparing_names_the_first_missing_truth(tmp_path: Path) -> None:
    tree = make_cityscapes(tmp_path, splits=("val",), panoptic=False)
    assert prepare_cityscapes.count_truth(tree, "val") == 4
    gone = sorted((tree / "gtFine" / "val").glob("*/*_instanceIds.png"))[1]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name):
        prepare_cityscapes.count_truth(tree, "val")
    with pytest.raises(FileNotFoundError, match="leftImg8bit/train"):
        prepare_cityscapes.count_truth(tree, "train")
