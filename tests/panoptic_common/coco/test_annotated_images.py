"""Sizes, files and classes that files of annotations state, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_common.coco.annotated_images import (
    AnnotatedImage,
    FoundImages,
    make_classes,
    mark_shared_files,
    prepare_image,
    require_usable,
    stated_size,
)


def test_a_size_may_be_written_as_a_whole_float() -> None:
    assert stated_size({"h": 60.0, "w": 80}, "h", "w") == (60, 80)
    assert stated_size({"id": 1}, "h", "w") is None


@pytest.mark.parametrize("value", ["60", None, True, 60.5, 0, -60, [60], float("nan"), 1e400])
def test_a_size_of_another_kind_is_no_size_that_is_not_stated(value) -> None:
    for entry, key in (({"h": value, "w": 80}, "h"), ({"h": 60, "w": value}, "w")):
        with pytest.raises(ValueError, match=f"'{key}' is .*, no positive whole number"):
            stated_size(entry, "h", "w")


def test_half_a_size_is_none() -> None:
    with pytest.raises(ValueError, match="'w' is missing"):
        stated_size({"h": 60}, "h", "w")


def test_two_entries_of_one_file_are_both_faulty_unless_one_owns_it(tmp_path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to("a.png")

    def images() -> list[AnnotatedImage]:
        paths = (tmp_path / "a.png", tmp_path / "x/../b.png", tmp_path / "c.png")
        names = ("a", "b", "c")
        return [AnnotatedImage(n, p, None, source=n) for n, p in zip(names, paths, strict=True)]

    found = images()
    mark_shared_files(found)
    assert [len(image.faults) for image in found] == [1, 1, 0]
    assert found[1].faults == [f"b: its image {tmp_path}/x/../b.png is that of a, too"]
    found = images()
    mark_shared_files(found, lambda image: image.name == "b")
    assert [len(image.faults) for image in found] == [1, 0, 0]
    assert prepare_image(found[0], 1, make_classes(["car"], ())).id_map is None


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["car", " "], "'name' is ' ', nothing but spaces"),
        (["car", ""], "'name' is missing"),
        (["a\tb"], "cannot be printed"),
        ([f"n{number}" for number in range(256)], "256 classes, at most 255"),
    ],
)
def test_classes_that_training_would_refuse_are_none(names, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_classes(names, ())
    assert len(make_classes(["car"] + [f"n{n}" for n in range(254)], ()).categories) == 255


def test_annotations_of_faults_alone_name_the_first() -> None:
    image = AnnotatedImage("a", Path("a.png"), None, problems=["a.json, shape 1: wrong", "b"])
    with pytest.raises(ValueError, match=r"of 2 faults the first: a.json, shape 1: wrong"):
        require_usable(FoundImages([image], []))
    require_usable(FoundImages([image], ["car"]))
