"""The files of a data set: found by the rules, regular ones only, each for one image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.dataset_files import (
    DatasetFiles,
    ImageFinder,
    list_folder,
    why_missing,
)


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_found_by_name_subfolder_stem_and_cityscapes_rule(tmp_path: Path) -> None:
    city = "aachen_000000_000019_leftImg8bit.png"
    _touch(tmp_path, "a.jpg", "deep/b.jpg", "c.JPG", "x/e.png", f"aachen/{city}", "d.txt")
    finder = ImageFinder(str(tmp_path))

    def find(name: str, png: str = "none.png", image_id: Any = 0) -> str | None:
        found = finder.find({"id": image_id, "file_name": name}, png)
        return None if found is None else str(Path(found).relative_to(tmp_path))

    assert find("a.jpg") == "a.jpg"
    assert find("deep/b.jpg") == "deep/b.jpg"
    assert find("b.jpg") == "deep/b.jpg"
    assert find("c.jpg", png="c.png") == "c.JPG"
    assert find("e.jpg", png="e.png") == "x/e.png"
    assert find("aachen_000000_000019_gtFine_leftImg8bit.png", image_id=city[:20]) == (
        f"aachen/{city}"
    )
    assert find("d.jpg", png="d.png") is None  # a text file is no image
    assert find("gone.jpg") is None


def test_the_exact_name_wins_over_other_files_of_that_stem(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "old/a.jpg", "a.png")
    finder = ImageFinder(str(tmp_path))
    assert finder.find({"id": 1, "file_name": "a.jpg"}, "a.png") == str(tmp_path / "a.jpg")


def test_several_files_of_one_name_are_an_error(tmp_path: Path) -> None:
    _touch(tmp_path, "x/a.jpg", "y/a.jpg")
    with pytest.raises(ValueError, match="image 1: 2 files fit the name 'a.jpg'"):
        ImageFinder(str(tmp_path)).find({"id": 1, "file_name": "a.jpg"}, "a.png")


@pytest.mark.parametrize(
    ("there", "asked", "hint"),
    [
        ("a.PNG", "a.png", "there is a file called 'a.PNG'"),
        ("caf\u00e9.png", "cafe\u0301.png", "a file whose accents are other characters"),
        ("a.png ", "a.png", "there is a file called 'a.png '"),
        ("b/a.png", "b\\a.png", "there is a file called 'a.png'"),
        ("b.png", "a.png", ""),
    ],
)
def test_a_file_that_looks_like_a_missing_one_is_named(
    tmp_path: Path, there: str, asked: str, hint: str
) -> None:
    """Otherwise a message would deny what the user sees in the folder."""
    _touch(tmp_path, there)
    said = why_missing(str(tmp_path / asked))
    assert hint in said and bool(said) == bool(hint)


def test_missing_folder_finds_nothing(tmp_path: Path) -> None:
    finder = ImageFinder(str(tmp_path / "nowhere"))
    assert finder.find({"id": 1, "file_name": "a.jpg"}, "a.png") is None


def test_only_regular_files_count(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "gone.png")
    assert list_folder(str(tmp_path), {}) == {"a.png", "link.png"}
    reasons = [why_missing(str(tmp_path / f"{name}.png")) for name in ("folder", "pipe", "dead")]
    assert [reason.split()[1] for reason in reasons] == ["folder", "pipe", "link"]
    assert why_missing(str(tmp_path / "gone.png")) == ""


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "loop", "file"])
def test_names_that_no_folder_can_have_hold_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    assert list_folder(os.path.join(tmp_path, name), {}) == frozenset()


def test_a_file_of_two_images_is_named_with_both(tmp_path: Path) -> None:
    files = DatasetFiles(PanopticPaths("images", "a.json", "pngs"))
    assert files.sharing_problems(1, "images/a.jpg", "pngs/a.png") == []
    assert files.sharing_problems(1, "images/a.jpg", None) == []  # annotated twice: said elsewhere
    (problem,) = files.sharing_problems(2, "images/b.jpg", "pngs/./a.png")
    assert problem == "image 2: its file pngs/./a.png is that of image 1 too"


def test_an_image_is_not_its_own_truth(tmp_path: Path) -> None:
    """The folder of the PNGs was named as that of the images, by its name or through a link."""
    (tmp_path / "pngs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pngs")
    for name in ("a.png", "b.PNG"):
        (tmp_path / "pngs" / name).touch()
    files = DatasetFiles(PanopticPaths("images", "a.json", "pngs"))
    for image_id, folder in enumerate(("pngs", "link")):
        own = str(tmp_path / folder / "a.png"), str(tmp_path / "pngs" / "a.png")
        problems = files.sharing_problems(image_id, *own)
        assert f"image {image_id}: the image and its panoptic PNG are one file" in problems[-1]
    other = str(tmp_path / "pngs" / "b.PNG"), str(tmp_path / "link" / "c.png")
    (tmp_path / "pngs" / "c.png").touch()
    assert files.sharing_problems(7, *other) == []


def test_a_link_to_itself_hides_no_other_file(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "b.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert list_folder(str(tmp_path), {}) == {"a.png", "b.png"}
    assert why_missing(str(tmp_path / "loop.png")) == " (a link of this name leads nowhere)"


def test_folders_that_link_to_their_parents_are_walked_once(tmp_path: Path) -> None:
    """Without a memory two such links make 2 ** 40 folders, as deep as links may go."""
    _touch(tmp_path, "deep/a.jpg")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(".", target_is_directory=True)
        (tmp_path / "deep" / name).symlink_to("..", target_is_directory=True)
    finder = ImageFinder(str(tmp_path))
    assert finder.find({"id": 1, "file_name": "a.jpg"}, "x.png") == str(tmp_path / "deep/a.jpg")
