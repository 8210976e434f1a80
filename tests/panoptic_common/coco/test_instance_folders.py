"""Entries of folders of microscope images that are no files, or have names that no JSON holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from panoptic_common.coco.instance_folders import find_samples


def touch(root: Path, *names: str) -> None:
    """Make files, and a dead link of each name that ends with a "!"."""
    for name in names:
        path = root / name.rstrip("!")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("!"):
            path.symlink_to("nowhere")
        else:
            path.touch()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("m1.png!", "m1.png: no image file (a link of this name leads nowhere), left out"),
        ("m1.xyz", "m1.xyz: no image file, left out"),
        ("m1.png/m.png", "m1.png: no image file (a folder has this name), left out"),
    ],
)
def test_a_mask_that_is_none_is_a_problem_of_its_image(tmp_path, name, why) -> None:
    touch(tmp_path, "s/images/a.png", "s/masks/m0.png", f"s/masks/{name}")
    touch(tmp_path, "s/masks/Thumbs.db", "s/masks/._m0.png")
    found = find_samples(tmp_path)
    (sample,) = found.samples
    assert found.problems == [] and [mask.name for mask in sample.masks] == ["m0.png"]
    assert sample.problems == (f"{tmp_path}/s/masks/{why}",)


def test_dead_links_are_named_in_every_layout(tmp_path) -> None:
    touch(tmp_path / "pairs", "images/a.png", "masks/a.png", "images/b.png!", "masks/b.tif!")
    touch(tmp_path / "suffixes", "a.png", "a_masks.png", "b.png!", "b_masks.npy!")
    touch(tmp_path / "folders", "a/images/a.png", "a/masks/m.png", "b!")
    for layout, names in (
        ("pairs", ("masks/b.tif", "images/b.png")),
        ("suffixes", ("b.png", "b_masks.npy")),
        ("folders", ("b",)),
    ):
        found = find_samples(tmp_path / layout)
        assert found.layout == layout and [sample.name for sample in found.samples] == ["a"]
        assert len(found.problems) == len(names)
        for problem, name in zip(found.problems, names, strict=True):
            assert problem.startswith(f"{tmp_path / layout / name}: is ")
            assert "leads nowhere" in problem


def test_names_that_are_no_utf8_are_named_in_escapes(tmp_path) -> None:
    bad = os.fsdecode(b"caf\xe9")
    touch(tmp_path / "pairs", "images/a.png", "masks/a.png", f"images/{bad}.png")
    touch(tmp_path / "pairs", f"masks/{bad}.png")
    touch(tmp_path / "suffixes", "a.png", "a_masks.png", f"{bad}.png", f"{bad}_masks.png")
    touch(tmp_path / "folders", "a/images/a.png", "a/masks/m.png")
    touch(tmp_path / "folders", f"{bad}/images/a.png", f"{bad}/masks/m.png")
    for layout, count in (("pairs", 2), ("suffixes", 2), ("folders", 1)):
        found = find_samples(tmp_path / layout)
        assert [sample.name for sample in found.samples] == ["a"]
        assert len(found.problems) == count
        for problem in found.problems:
            assert r"caf\xe9" in problem and "its name is no UTF-8, rename it" in problem
