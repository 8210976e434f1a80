"""tools/prepare_nuclei.py: every layout, hostile folders, and the shared data made again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.segment_ids import present_ids, read_id_map
from panoptic_tools import prepare_nuclei

SIZE = (24, 32)


def _image(path: Path, seed: int = 0, dtype: type = np.uint8, top: int = 256) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, top, SIZE).astype(dtype)
    Image.fromarray(values).save(path)


def _labels() -> np.ndarray:
    labels = np.zeros(SIZE, np.uint16)
    labels[2:8, 2:8] = 5
    labels[2:8, 8:12] = 900  # touches its neighbour
    labels[15:20, 20:30] = 2
    return labels


def _masks(folder: Path, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for label in np.unique(labels)[1:]:
        Image.fromarray(((labels == label) * 255).astype(np.uint8)).save(folder / f"{label:05}.png")


def _map(out: Path, name: str, split: str = "train") -> np.ndarray:
    return read_id_map(out / f"panoptic_{split}" / f"{name}.png")


def _check(out: Path, split: str = "train") -> None:
    """What is written must be what training accepts."""
    paths = PanopticPaths(
        str(out / split), str(out / f"panoptic_{split}.json"), str(out / f"panoptic_{split}")
    )
    assert check_dataset(paths).problems == []


def _make_layout(root: Path, layout: str) -> None:
    labels = _labels()
    if layout == "folders":
        _image(root / "cell" / "images" / "whatever.png")
        _masks(root / "cell" / "masks", labels)
    elif layout == "pairs":
        _image(root / "images" / "cell.tif")
        (root / "masks").mkdir()
        Image.fromarray(labels).save(root / "masks" / "cell.tif")
    elif layout == "suffixes":
        _image(root / "cell.jpg")
        Image.fromarray(labels).save(root / "cell_cp_masks.png")
    else:
        _image(root / "images" / "cell.png")
        (root / "labels").mkdir()
        np.save(root / "labels" / "cell-labels.npy", labels)


@pytest.mark.parametrize("layout", ["folders", "pairs", "suffixes", "arrays"])
def test_all_layouts_give_the_same_map(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _make_layout(tmp_path / "raw", layout)
    out = tmp_path / "out"
    assert prepare_nuclei.main([str(tmp_path / "raw"), "--out", str(out)]) == 0
    # Background is 1; labels 2, 5, 900 by rank: 2, 3, 4.
    expected = np.ones(SIZE, np.int32)
    for segment_id, label in enumerate((2, 5, 900), start=2):
        expected[_labels() == label] = segment_id
    np.testing.assert_array_equal(_map(out, "cell"), expected)
    _check(out)
    printed = capsys.readouterr().out
    assert "1 images with 3 instances; 0 pixels" in printed and "0 problems" in printed


def test_hostile_masks_are_reported_and_nothing_gets_lost_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good image, overlap, empty mask: in. Broken, other size, hidden: the image stays out."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    labels = _labels()
    for name in ("good", "broken", "size", "hidden", "noimage", "badimage"):
        if name != "noimage":
            _image(raw / name / "images" / "i.png")
        _masks(raw / name / "masks", labels)
    overlap = labels == 5
    overlap[2:8, 1] = True  # 6 new pixels; the 36 of label 5, whose file comes first, are taken
    Image.fromarray((overlap * 255).astype(np.uint8)).save(raw / "good/masks/00006.png")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(raw / "good/masks/00007.png")
    (raw / "good/masks/._00002.png").write_bytes(b"a Mac's shadow file")
    (raw / "broken/masks/00002.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    Image.fromarray(np.ones((5, 5), np.uint8)).save(raw / "size/masks/00005.png")
    shutil.copy(raw / "hidden/masks/00005.png", raw / "hidden/masks/99999.png")
    (raw / "badimage/images/i.png").write_bytes(b"no image")
    (raw / "stray.txt").write_text("x")
    assert prepare_nuclei.main([str(raw), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    data = json.loads((out / "panoptic_train.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["good.png"]
    assert len(data["annotations"][0]["segments_info"]) == 1 + 4
    assert (_map(out, "good")[2:8, 1] != 1).all()
    assert "00006.png: 36 pixels belong to earlier masks" in printed
    assert "00007.png: the mask is empty" in printed
    for sentence in (
        "broken/masks/00002.png: damaged",
        "size/masks/00005.png has 5 x 5",
        "hidden/masks/99999.png: earlier masks cover all of it",
        "noimage/images holds 0 images where one belongs",
        "badimage/images/i.png: damaged",
    ):
        assert sentence in printed
    assert printed.count(": left out") == 4
    _check(out)
    # With the masks that can be used: only the image that cannot be read stays out.
    words = [str(raw), "--out", str(out), "--keep-incomplete"]
    assert prepare_nuclei.main(words) == 2
    assert "--force makes it anew" in capsys.readouterr().err
    assert prepare_nuclei.main([*words, "--force"]) == 1
    names = {
        path.stem: len(present_ids(read_id_map(path)))
        for path in sorted((out / "panoptic_train").iterdir())
    }
    assert names == {"good": 5, "broken": 3, "size": 3, "hidden": 4}
    _check(out)


def test_pairs_without_a_partner_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    _make_layout(raw, "pairs")
    _image(raw / "images" / "alone.png")
    Image.fromarray(_labels()).save(raw / "masks" / "orphan.tif")
    assert prepare_nuclei.main([str(raw), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "alone.png has no label image" in printed and "orphan.tif has no image" in printed


def test_a_mask_that_is_a_dead_link_is_like_a_damaged_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its nucleus would be taught to be background."""
    for name in ("good", "dead"):
        _image(tmp_path / "raw" / name / "images/i.png")
        _masks(tmp_path / "raw" / name / "masks", _labels())
    (tmp_path / "raw/dead/masks/00009.png").symlink_to("nowhere")
    words = [str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert prepare_nuclei.main(words) == 1
    printed = capsys.readouterr().out
    assert "00009.png: no image file (a link of this name leads nowhere)" in printed
    assert "dead/images/i.png: left out" in printed and "1 images with 3 instances" in printed
    assert prepare_nuclei.main([*words, "--force", "--keep-incomplete"]) == 1
    assert "2 images with 6 instances" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["pairs", "suffixes", "folders"])
def test_masks_of_black_and_white_are_noted(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three cells in two pieces, as two touch; one cell in one piece is as it should be."""
    for name, labels in (("a", _labels() > 0), ("b", _labels() > 0), ("c", _labels() == 5)):
        mask = (labels * 255).astype(np.uint8)
        image, label = {
            "pairs": (f"images/{name}.png", f"masks/{name}.png"),
            "suffixes": (f"{name}.png", f"{name}_masks.png"),
            "folders": (f"{name}/images/i.png", f"{name}/masks/m.png"),
        }[layout]
        _image(tmp_path / "raw" / image)
        (tmp_path / "raw" / label).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "raw" / label)
    assert prepare_nuclei.main([str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "note: 2 images have one label in several pieces, such as " in printed
    assert "3 images with 3 instances" in printed


def test_names_that_are_no_utf8_leave_their_image_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _make_layout(tmp_path / "raw", "pairs")
    for path in (tmp_path / "raw/images/cell.tif", tmp_path / "raw/masks/cell.tif"):
        shutil.copy(path, path.with_name(os.fsdecode(b"caf\xe9.tif")))
    assert prepare_nuclei.main([str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert r"images/caf\xe9.tif: its name is no UTF-8, rename it" in printed
    assert "1 images with 3 instances" in printed and "2 problems" in printed


def test_a_deep_image_is_stretched_to_8_bits(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    _make_layout(raw, "pairs")
    _image(raw / "images" / "cell.tif", dtype=np.uint16, top=4096)  # a camera of 12 bits
    assert prepare_nuclei.main([str(raw), "--out", str(out)]) == 0
    written = np.asarray(Image.open(out / "train" / "cell.png"))
    deep = np.asarray(Image.open(raw / "images" / "cell.tif")).astype(float)
    expected = (deep - deep.min()) * 255 / (deep.max() - deep.min())
    assert written.dtype == np.uint8 and np.abs(written - expected).max() <= 0.5
    _check(out)


def test_an_image_without_a_nucleus_and_one_without_background(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name, value in (("empty", 0), ("full", 3)):
        _image(raw / f"{name}.png")
        Image.fromarray(np.full(SIZE, value, np.uint16)).save(raw / f"{name}_masks.tif")
    assert prepare_nuclei.main([str(raw), "--out", str(out)]) == 0
    assert (_map(out, "empty") == 1).all() and (_map(out, "full") == 2).all()
    _check(out)


def test_the_split_depends_on_names_alone(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(12):
        _image(raw / f"c{number}.png", number)
        Image.fromarray(_labels()).save(raw / f"c{number}_masks.png")
    words = [str(raw), "--val-share", "0.4", "--out"]
    assert prepare_nuclei.main([*words, str(tmp_path / "a")]) == 0
    chosen = {path.stem for path in (tmp_path / "a" / "val").iterdir()}
    assert 0 < len(chosen) < 12
    for number in range(0, 12, 2):  # half of the images: the others stay where they were
        for path in raw.glob(f"c{number}[_.]*"):
            path.unlink()
    assert prepare_nuclei.main([*words, str(tmp_path / "b")]) == 0
    left = {path.stem for path in (tmp_path / "b" / "val").iterdir()}
    assert left == {name for name in chosen if int(name[1:]) % 2}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--val-share", "1"], "give a share"),
        (["--thing", "background"], "not background"),
        (["--thing", " "], "nothing but spaces"),
        (["--thing", "a\tb"], "cannot be printed"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        prepare_nuclei.main([str(tmp_path), "--out", str(tmp_path / "out"), *words])
    assert caught.value.code == 2 and sentence in capsys.readouterr().err


def test_a_folder_without_masks_and_foreign_output_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        prepare_nuclei.main([str(tmp_path / "none"), "--out", str(out)])
    assert caught.value.code == 2
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "raw").mkdir()
    assert prepare_nuclei.main([str(tmp_path / "raw"), "--out", str(out)]) == 2
    assert "expected is one of" in capsys.readouterr().err
    _make_layout(tmp_path / "raw", "suffixes")
    (out / "train").mkdir(parents=True)
    (out / "train" / "mine.txt").write_text("keep me")
    assert prepare_nuclei.main([str(tmp_path / "raw"), "--out", str(out), "--force"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (out / "train" / "mine.txt").read_text() == "keep me"


def test_shared_nuclei_turned_into_masks_give_the_same_maps(
    shared_nuclei: Path, tmp_path: Path
) -> None:
    data = json.loads((shared_nuclei / "panoptic_val.json").read_text())
    for annotation in data["annotations"][:8]:
        name = Path(annotation["file_name"]).stem
        truth = read_id_map(shared_nuclei / "panoptic_val" / annotation["file_name"])
        folder = tmp_path / "raw" / name
        (folder / "images").mkdir(parents=True)
        shutil.copy(shared_nuclei / "val" / f"{name}.png", folder / "images")
        _masks(folder / "masks", np.where(truth == 1, 0, truth))
    out = tmp_path / "out"
    assert prepare_nuclei.main([str(tmp_path / "raw"), "--out", str(out)]) == 0
    made = json.loads((out / "panoptic_train.json").read_text())
    expected = {a["file_name"]: a["segments_info"] for a in data["annotations"]}
    assert len(made["annotations"]) == 8
    for annotation in made["annotations"]:
        name = annotation["file_name"]
        assert annotation["segments_info"] == expected[name]
        np.testing.assert_array_equal(
            read_id_map(out / "panoptic_train" / name),
            read_id_map(shared_nuclei / "panoptic_val" / name),
        )
