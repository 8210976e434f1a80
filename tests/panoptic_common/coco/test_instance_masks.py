"""Masks and label images of every kind, with what each reading must give worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_common.coco.image_reading import ImageSizeError
from panoptic_common.coco.instance_masks import (
    is_one_in_pieces,
    merge_masks,
    read_label_image,
    read_mask,
)

SIZE = (3, 4)
SQUARE = np.zeros(SIZE, bool)
SQUARE[:2, :2] = True


def _save(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.mark.parametrize("bright", [1, 255])
def test_a_grey_mask_is_where_the_file_is_bright(tmp_path: Path, bright: int) -> None:
    path = _save(tmp_path / "m.png", (SQUARE * bright).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(path, SIZE), SQUARE)


def test_a_smoothed_mask_is_cut_at_half_of_its_greatest_value(tmp_path: Path) -> None:
    values = np.array([[0, 100, 101, 200]] * 3, np.uint8)  # half of 200 is 100, not above it
    expected = np.array([[False, False, True, True]] * 3)
    np.testing.assert_array_equal(read_mask(_save(tmp_path / "m.png", values), SIZE), expected)


def test_an_opaque_alpha_channel_does_not_make_everything_a_mask(tmp_path: Path) -> None:
    colours = np.zeros((*SIZE, 4), np.uint8)
    colours[..., 3] = 255
    colours[SQUARE, :3] = 255
    np.testing.assert_array_equal(read_mask(_save(tmp_path / "m.png", colours), SIZE), SQUARE)
    colours[..., :3] = 0  # an empty mask stays empty
    assert not read_mask(_save(tmp_path / "e.png", colours), SIZE).any()


def test_a_mask_in_the_alpha_channel_is_found(tmp_path: Path) -> None:
    colours = np.full((*SIZE, 4), 255, np.uint8)
    colours[..., 3] = SQUARE * 255
    np.testing.assert_array_equal(read_mask(_save(tmp_path / "m.png", colours), SIZE), SQUARE)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "LA"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    path = _save(tmp_path / "m.png", (SQUARE * 255).astype(np.uint8), mode)
    np.testing.assert_array_equal(read_mask(path, SIZE), SQUARE)


def test_masks_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    other = _save(tmp_path / "other.png", np.zeros((4, 3), np.uint8))  # on its side
    with pytest.raises(ImageSizeError, match=r"other.png has 4 x 3"):
        read_mask(other, SIZE)
    (tmp_path / "cut.png").write_bytes(other.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cut.png: damaged"):
        read_mask(tmp_path / "cut.png", SIZE)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"folder.png: is a folder"):
        read_mask(tmp_path / "folder.png", SIZE)


LABELS = np.array([[0, 7, 7, 0], [0, 7, 300, 300], [0, 0, 300, 65535]])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("l.png", np.uint16),
        ("l.tif", np.uint16),
        ("l.tif", np.int32),
        ("l.tif", np.float32),
        ("l.npy", np.uint16),
        ("l.npy", np.int64),
        ("l.npy", np.float64),
    ],
)
def test_labels_keep_their_numbers(tmp_path: Path, name: str, dtype: type) -> None:
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, LABELS.astype(dtype))
    else:
        Image.fromarray(LABELS.astype(dtype)).save(path)
    np.testing.assert_array_equal(read_label_image(path, SIZE), LABELS)


def test_a_palette_label_image_gives_its_numbers(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3]] * 3, np.uint8)
    image = Image.fromarray(values, "L").convert("P")
    image.putdata(values.ravel().tolist())
    image.save(tmp_path / "l.png")
    np.testing.assert_array_equal(read_label_image(tmp_path / "l.png", SIZE), values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full(SIZE, 0.5), "with fractions"),
        (np.full(SIZE, -1), "from -1 to -1"),
        (np.full(SIZE, 2**24), "from 0 to 16777215"),
        (np.full(SIZE, np.nan), "nan"),
        (np.zeros((*SIZE, 3), np.uint8), "one channel"),
        (np.full(SIZE, "a"), "numbers, not"),
        (np.zeros((5, 5), np.uint8), "5 x 5"),
    ],
)
def test_arrays_that_are_no_labels_are_refused(
    tmp_path: Path, values: np.ndarray, sentence: str
) -> None:
    np.save(tmp_path / "l.npy", values)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_label_image(tmp_path / "l.npy", SIZE)
    assert "l.npy" in str(caught.value)


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x_seg.npy", {"masks": LABELS}, allow_pickle=True)
    with pytest.raises(ValueError, match="save its masks as"):
        read_label_image(tmp_path / "x_seg.npy", SIZE)


def test_the_first_mask_keeps_a_shared_pixel() -> None:
    second = np.zeros(SIZE, bool)
    second[1:, 1:] = True  # 6 pixels, of which (1, 1) is also in the square
    inside = np.zeros(SIZE, bool)
    inside[0, 0] = True
    masks = [("a", SQUARE), ("b", second), ("c", np.zeros(SIZE, bool)), ("d", inside)]
    merged = merge_masks(masks, SIZE)
    np.testing.assert_array_equal(merged.labels, [[1, 1, 0, 0], [1, 1, 2, 2], [0, 2, 2, 2]])
    assert merged.names == ["a", "b"]
    assert merged.overlaps == {"b": 1, "d": 1}
    assert merged.empty == ["c"] and merged.hidden == ["d"]


def test_merging_names_a_mask_of_another_size() -> None:
    with pytest.raises(ValueError, match="b has 2 x 2"):
        merge_masks([("a", SQUARE), ("b", np.ones((2, 2), bool))], SIZE)


@pytest.mark.parametrize(
    ("rows", "pieces"),
    [
        (["5.5", "..."], True),
        (["5..", ".5."], False),  # they meet at a corner
        (["5..", ".55"], False),
        (["5.7", "..."], False),  # two labels
        (["...", "..."], False),
        (["555", "5.5"], False),
    ],
)
def test_one_label_in_pieces_is_what_a_mask_of_black_and_white_has(rows, pieces) -> None:
    labels = np.array([[0 if letter == "." else int(letter) for letter in row] for row in rows])
    assert is_one_in_pieces(labels.astype(np.int32)) == pieces
