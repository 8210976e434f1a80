"""Images of every kind, what cannot be read, and how inputs are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_common.inference.media import (
    MediaError,
    find_media,
    limit_size,
    read_image,
    unique_names,
    write_image,
)

# ------------------------------------------------------------------------------------ images


def test_grey_and_palette_images_become_rgb(tmp_path):
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, -1))
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == (4, 6, 3)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    # 257 v is v repeated in both bytes, so division by 257 gives back v
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[0, :, 0], [0, 1, 100, 255])


def test_transparent_parts_are_white_whatever_colour_they_hide(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0] = 200  # red everywhere, visible on the left only
    rgba[:, 0, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[0, 0].tolist() == [200, 0, 0]
    assert image[0, 1].tolist() == [255, 255, 255]


def test_exif_rotation_is_applied(tmp_path):
    upright = np.zeros((20, 40, 3), np.uint8)
    upright[:, :20] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    # what a camera held upright stores: the view, turned counter-clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(
        tmp_path / "turned.jpg", exif=exif, quality=95
    )
    image = read_image(tmp_path / "turned.jpg")
    assert image.shape == (20, 40, 3)
    assert image[:, :15].min() > 240 and image[:, 25:].max() < 15


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_unreadable_images_name_the_file(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is None:  # cut short
        write_image(path, np.random.default_rng(0).integers(0, 255, (50, 50, 3)).astype(np.uint8))
        content = path.read_bytes()[:500]
    path.write_bytes(content)
    with pytest.raises(MediaError, match="broken.png: cannot be read"):
        read_image(path)
    with pytest.raises(MediaError, match="absent.png: there is no such file"):
        read_image(tmp_path / "absent.png")


def test_limit_size_keeps_the_aspect_and_never_enlarges():
    image = np.zeros((300, 600, 3), np.uint8)
    assert limit_size(image, 200).shape == (100, 200, 3)
    assert limit_size(image, 600) is image
    assert limit_size(image, 0) is image
    assert limit_size(np.zeros((1, 5000, 3), np.uint8), 100).shape == (1, 100, 3)


# ------------------------------------------------------------------------------------ finding


def test_folders_patterns_and_files_are_found_once_and_in_order(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "film.avi"):
        (tmp_path / name).write_bytes(b"x")
    images, videos = find_media([str(tmp_path)])
    assert [p.name for p in images] == ["a.png", "b.JPG"]
    assert [p.name for p in videos] == ["film.avi"]
    images, _ = find_media([str(tmp_path / "b.JPG"), str(tmp_path / "*.*")])
    assert [p.name for p in images] == ["b.JPG", "a.png", "notes.txt"]
    with pytest.raises(MediaError, match="nothing.png: there is no such file"):
        find_media([str(tmp_path / "nothing.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="empty: no image or video"):
        find_media([str(tmp_path / "empty")])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    (tmp_path / "shot[1].png").write_bytes(b"x")
    images, _ = find_media([str(tmp_path / "shot[1].png")])
    assert [p.name for p in images] == ["shot[1].png"]


def test_names_of_results_never_collide():
    paths = [Path("a/x.jpg"), Path("b/x.png"), Path("b/X.png"), Path("b/x_2.png"), Path("y.png")]
    names = unique_names(paths)
    assert names[0] == "x" and names[-1] == "y"
    assert len({name.lower() for name in names}) == len(paths)
