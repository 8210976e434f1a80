"""What is refused before a data set is written: its classes, and what it would replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from panoptic_common.coco.instance_samples import categories
from panoptic_common.coco.splits import open_output

CLASSES = categories("cell")


@pytest.mark.parametrize("name", ["background", " ", "", "a\tb"])
def test_classes_that_training_would_refuse_are_not_written(tmp_path, name) -> None:
    with pytest.raises(ValueError, match="the classes: category 2"):
        open_output(tmp_path / "out", ["train"], categories(name), [], force=True)
    assert not (tmp_path / "out").exists()


def made(root: Path) -> Path:
    """A data set of ours with one image and one PNG."""
    for name in ("train/a.png", "panoptic_train/a.png", "panoptic_train.json"):
        (root / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "out" / name).touch()
    return root / "out"


def _through_a_link(root: Path) -> list[Path]:
    (root / "photos").symlink_to("out/train")
    return [root / "photos"]


def _links_one_by_one(root: Path) -> list[Path]:
    (root / "photos").mkdir()
    (root / "photos/a.png").symlink_to("../out/train/a.png")
    return [root / "photos", root / "photos/a.png"]


def _split_is_a_link(root: Path) -> list[Path]:
    (root / "photos").mkdir()
    (root / "out/train/a.png").unlink()
    (root / "out/train").rmdir()
    (root / "out/train").symlink_to("../photos")
    return [root / "photos"]


INSIDE: dict[str, Callable[[Path], list[Path]]] = {
    "the same": lambda root: [root / "out/train"],
    "a file": lambda root: [root / "photos", root / "out/train/a.png"],
    "a folder in it": lambda root: [root / "out/train/no/such"],
    "dots": lambda root: [root / "out/panoptic_train/../train"],
    "semantic PNGs": lambda root: [root / "out/panoptic_train"],
    "the JSON": lambda root: [root / "out/panoptic_train.json"],
    "a link to it": _through_a_link,
    "links in another folder": _links_one_by_one,
    "the split is a link": _split_is_a_link,
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("way", INSIDE)
def test_what_is_read_is_never_replaced(tmp_path, way, force) -> None:
    out = made(tmp_path)
    inputs = INSIDE[way](tmp_path)
    with pytest.raises(FileExistsError, match="choose another --out") as caught:
        open_output(out, ["train"], CLASSES, inputs, force=force)
    assert "--force" not in str(caught.value)


def test_inputs_beside_the_splits_may_stay(tmp_path) -> None:
    out = made(tmp_path)
    (out / "raw").mkdir()
    inputs = [out, out / "raw", out / "train/../raw", tmp_path, out / "val"]
    open_output(out, ["train"], CLASSES, inputs, force=True)
    with pytest.raises(FileExistsError, match="--force makes it anew"):
        open_output(out, ["train"], CLASSES, inputs, force=False)


@pytest.mark.parametrize("name", ["train", "panoptic_train", "panoptic_train.json"])
@pytest.mark.parametrize("kind", ["dead link", "other kind"])
def test_what_no_split_of_ours_is_stays(tmp_path, name, kind) -> None:
    """Before, it was found after the work, when it could not be replaced."""
    path = made(tmp_path) / name
    folder = path.is_dir()
    path.rename(tmp_path / "away")
    if kind == "dead link":
        path.symlink_to("nowhere")
    elif folder:
        path.touch()
    else:
        path.mkdir()
    with pytest.raises(FileExistsError, match="not as a split of this program"):
        open_output(path.parent, ["train"], CLASSES, [], force=True)


def test_a_json_alone_is_not_replaced_without_a_word(tmp_path) -> None:
    """Somebody may have written it by hand, with images elsewhere."""
    (tmp_path / "panoptic_train.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"panoptic_train.json exists already; --force"):
        open_output(tmp_path, ["train"], CLASSES, [], force=False)
