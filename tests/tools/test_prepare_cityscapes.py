"""tools/prepare_cityscapes.py by Cityscapes' own converter, and its word on missing files."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import make_cityscapes
from PIL import Image
from programs import run_program
from project import ROOT

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import load_panoptic, register_builtin
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
    assert len(prepare_cityscapes.find_truth(tree, "val")) == 4
    gone = sorted((tree / "gtFine" / "val").glob("*/*_instanceIds.png"))[1]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name):
        prepare_cityscapes.find_truth(tree, "val")
    with pytest.raises(FileNotFoundError, match="leftImg8bit/train"):
        prepare_cityscapes.find_truth(tree, "train")


@pytest.mark.parametrize("how", ["gone", "dead link", "whole city"])
def test_truth_without_image_is_named_before_the_work(tmp_path, capsys, monkeypatch, how) -> None:
    """The converter would take it, whatever ids it has, and the check would refuse the result."""
    tree = make_cityscapes(tmp_path, splits=("val",), panoptic=False)
    images = sorted((tree / "leftImg8bit" / "val").glob("*/*.png"))
    truths = sorted((tree / "gtFine" / "val").glob("*/*_instanceIds.png"))
    gone = images[2:] if how == "whole city" else images[2:3]
    for image in gone:
        image.unlink()
    if how == "dead link":
        gone[0].symlink_to("nowhere")
    (truths[0].parent / f"._{truths[0].name}").write_bytes(b"a Mac's shadow file")
    monkeypatch.setattr(prepare_cityscapes, "load_converter", lambda: pytest.fail)
    assert prepare_cityscapes.main([str(tree), "--splits", "val"]) == 1
    said = capsys.readouterr().err
    first = f"{len(gone)} of 4 instanceIds images have no image, the first is {truths[2]}"
    assert first in said and "unpack all of leftImg8bit" in said
    assert sorted(path.name for path in (tree / "gtFine").iterdir()) == ["val"]


def test_names_that_are_no_utf8_are_named(tmp_path, capsys, monkeypatch) -> None:
    """The JSON would hold a name that no program reads."""
    tree = make_cityscapes(tmp_path, splits=("val",), panoptic=False)
    for path in sorted(tree.glob("*/val/lindau/lindau_000000*")):
        path.rename(path.with_name(path.name.replace("lindau", os.fsdecode(b"lind\xe4u"))))
    monkeypatch.setattr(prepare_cityscapes, "load_converter", lambda: pytest.fail)
    assert prepare_cityscapes.main([str(tree), "--splits", "val"]) == 1
    assert r"lind\xe4u_000000_000019_leftImg8bit.png: its name is no" in capsys.readouterr().err
    (tree / "leftImg8bit" / "val").rename(tree / "leftImg8bit" / "test")
    assert prepare_cityscapes.main([str(tree), "--splits", "test"]) == 1
    assert r"lind\xe4u_000000_000019_leftImg8bit.png: its name is no" in capsys.readouterr().err


def _to_train_ids(ids: np.ndarray) -> np.ndarray:
    """Road 7 is 0, building 11 is 2, sky 23 is 10, person 24 is 11, car 26 is 13, the rest 255."""
    table = {7: 0, 11: 2, 23: 10, 24: 11, 26: 13}
    return np.vectorize(
        lambda i: table.get(i, 255) if i < 1000 else 1000 * table[i // 1000] + i % 1000
    )(ids)


# What is done to the ids of each file, and what is said of the first.
OTHER_KINDS = {
    "8 bits": (
        lambda ids: np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8),
        "an instanceIds image has 16 bits of grey, not 8 bits of grey. The pixels of",
    ),
    "colours": (
        lambda ids: np.stack([ids % 256, ids // 256, 0 * ids], axis=2).astype(np.uint8),
        "an instanceIds image has 16 bits of grey, not colours (RGB)",
    ),
    "labelIds": (
        lambda ids: np.where(ids >= 1000, ids // 1000, ids),
        "no thing has a number, in the whole split: this is a labelIds image",
    ),
    "train ids": (_to_train_ids, "is none of Cityscapes'; train ids, it seems"),
    # Case F18: 0 road, 2 building, 10 sky. As label ids all three are void.
    "train ids of stuff": (
        lambda ids: np.where(ids == 23, 10, np.where(ids == 11, 2, 0)),
        "these are train ids, it seems, as no file of the split has an id above 18",
    ),
    "unknown": (lambda ids: np.where(ids == 23, 77, ids), "the id 77 is none of Cityscapes'. The"),
    "size": (lambda ids: ids[1:], "has 63 x 128 (height x width), expected are 64 x 128"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_ids_of_another_kind_are_named_before_the_work(tmp_path, capsys, monkeypatch, kind) -> None:
    change, sentence = OTHER_KINDS[kind]
    tree = make_cityscapes(tmp_path, splits=("val",), panoptic=False)
    files = sorted((tree / "gtFine" / "val").glob("*/*_instanceIds.png"))
    prepare_cityscapes.require_instance_ids(prepare_cityscapes.find_truth(tree, "val"))  # sound
    for path in files:
        changed = change(np.asarray(Image.open(path)).astype(np.int64))
        wide = changed.dtype != np.uint8
        Image.fromarray(changed.astype(np.uint16) if wide else changed).save(path)
    monkeypatch.setattr(prepare_cityscapes, "load_converter", lambda: pytest.fail)
    assert prepare_cityscapes.main([str(tree), "--splits", "val"]) == 1
    said = capsys.readouterr().err
    assert sentence in said and str(files[0]) in said and said.count("\n") == 1
    assert sorted(path.name for path in (tree / "gtFine").iterdir()) == ["val"]


def test_a_split_without_things_is_no_labelids_image(tmp_path) -> None:
    """Road and sky alone are rare, but right."""
    tree = make_cityscapes(tmp_path, splits=("val",), panoptic=False)
    pairs = prepare_cityscapes.find_truth(tree, "val")
    for _, path in pairs:
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.where(ids == 23, 23, 7).astype(np.uint16)).save(path)
    prepare_cityscapes.require_instance_ids(pairs)


def test_test_images_are_listed_without_the_converter(tmp_path, monkeypatch, capsys) -> None:
    """The truth of the test split is not public, so there is nothing to convert."""
    tree = make_cityscapes(tmp_path, splits=("val",), panoptic=False)
    (tree / "leftImg8bit" / "val").rename(tree / "leftImg8bit" / "test")
    (tree / "gtFine" / "val").rename(tmp_path / "unused")
    monkeypatch.setattr(prepare_cityscapes, "load_converter", lambda: pytest.fail("not needed"))
    assert prepare_cityscapes.main([str(tree), "--splits", "test"]) == 0
    register_builtin(tmp_path)
    records = load_panoptic("cityscapes_test")
    assert [record["image_id"] for record in records] == [
        f"{city}_{number:06d}_000019" for city in ("frankfurt", "lindau") for number in (0, 1)
    ]
    assert all((record["height"], record["width"]) == (64, 128) for record in records)
    assert prepare_cityscapes.main([str(tree), "--splits", "test"]) == 0
    assert "kept" in capsys.readouterr().out
    assert prepare_cityscapes.main([str(tmp_path), "--splits", "test"]) == 1
    assert "no images below" in capsys.readouterr().err
