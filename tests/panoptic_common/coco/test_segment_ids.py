"""Segment ids against slow twins, hand-worked numbers and damaged files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from panoptic_common.coco.segment_ids import (
    MAX_ID,
    id_to_rgb,
    present_ids,
    read_id_map,
    rgb_to_id,
    segment_areas_and_boxes,
    segment_problems,
    update_segments,
    write_id_map,
)

ANY_ID_MAP = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, MAX_ID)
)
# Few ids, so that segments have several pixels and several pieces.
BLOCKY_MAP = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.sampled_from([0, 1, 2, 256, MAX_ID]),
)


# ---------------------------------------------------------------------------------- colours


def test_colours_of_hand_worked_ids() -> None:
    # 3153362 = 210 + 256 * 29 + 65536 * 48
    id_map = np.array([[0, 255, 256], [65536, 3153362, MAX_ID]])
    expected = [
        [[0, 0, 0], [255, 0, 0], [0, 1, 0]],
        [[0, 0, 1], [210, 29, 48], [255, 255, 255]],
    ]
    assert id_to_rgb(id_map).tolist() == expected
    assert rgb_to_id(np.array(expected, np.uint8)).tolist() == id_map.tolist()


@given(ANY_ID_MAP)
def test_ids_survive_colours(id_map: np.ndarray) -> None:
    back = rgb_to_id(id_to_rgb(id_map))
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, id_map)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64, np.uint64])
def test_any_integer_type_of_map_is_taken(dtype: type) -> None:
    assert rgb_to_id(id_to_rgb(np.array([[0, 200]], dtype))).tolist() == [[0, 200]]


@pytest.mark.parametrize(
    ("id_map", "message"),
    [
        (np.zeros((2, 2), np.float32), "float32"),
        (np.zeros((2, 2), bool), "bool"),
        (np.zeros((2, 2, 3), np.int32), "shape"),
        (np.array([[-1]]), "-1"),
        (np.array([[MAX_ID + 1]]), str(MAX_ID + 1)),
    ],
)
def test_what_is_no_id_map_is_refused(id_map: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        id_to_rgb(id_map)


@pytest.mark.parametrize("rgb", [np.zeros((2, 2, 3), np.int32), np.zeros((2, 2, 4), np.uint8)])
def test_what_is_no_colour_image_is_refused(rgb: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        rgb_to_id(rgb)


# ------------------------------------------------------------------------------------ files


def test_files_keep_all_24_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    id_map = rng.integers(0, MAX_ID + 1, size=(31, 17)).astype(np.int32)
    id_map[0, :2] = 0, MAX_ID
    write_id_map(tmp_path / "map.png", id_map)
    back = read_id_map(tmp_path / "map.png")
    np.testing.assert_array_equal(back, id_map)
    back[0, 0] = 5  # writable


def test_file_is_what_panopticapi_reads(tmp_path: Path) -> None:
    rgb2id = pytest.importorskip("panopticapi.utils").rgb2id
    id_map = np.array([[0, 255, 256], [65536, 3153362, MAX_ID]])
    write_id_map(tmp_path / "map.png", id_map)
    image = np.array(Image.open(tmp_path / "map.png"))
    np.testing.assert_array_equal(rgb2id(image), id_map)


def test_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_id_map(tmp_path / "nowhere.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1"])
def test_other_images_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "other.png"
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(ValueError, match="other.png.*8-bit RGB"):
        read_id_map(path)


def test_jpeg_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    Image.new("RGB", (4, 3)).save(path, format="JPEG")
    with pytest.raises(ValueError, match="map.png: not a PNG"):
        read_id_map(path)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_sixteen_bit_colour_is_refused(tmp_path: Path) -> None:
    # Pillow opens it as RGB and drops every second byte: id 258 would become id 1.
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 258, 0, 0, 258, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(row))
        + _png_chunk(b"IEND", b"")
    )
    assert Image.open(path).mode == "RGB"
    with pytest.raises(ValueError, match="deep.png.*16 bits"):
        read_id_map(path)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    write_id_map(path, np.random.default_rng(0).integers(0, 1000, size=(6, 5)))
    data = path.read_bytes()
    for length in range(len(data) - 12):  # the last 12 bytes only say that the file ends
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="map.png"):
            read_id_map(path)


def test_every_flipped_bit_is_an_error_or_harmless(tmp_path: Path) -> None:
    """No damage gives other ids: each flipped bit is refused, or does not touch the ids."""
    path = tmp_path / "map.png"
    id_map = np.random.default_rng(0).integers(0, 1000, size=(4, 5))
    write_id_map(path, id_map)
    data = path.read_bytes()
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        try:
            read = read_id_map(path)
        except ValueError as error:
            refused += 1
            assert "map.png" in str(error)
        else:
            np.testing.assert_array_equal(read, id_map)
    assert refused > 0.9 * len(data)


def test_write_refuses_large_ids_with_the_file_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="map.png.*16777216"):
        write_id_map(tmp_path / "map.png", np.array([[MAX_ID + 1]]))
    assert not (tmp_path / "map.png").exists()


# --------------------------------------------------------------------------------- segments


@given(ANY_ID_MAP | BLOCKY_MAP)
def test_present_ids_equal_unique(id_map: np.ndarray) -> None:
    np.testing.assert_array_equal(present_ids(id_map), np.unique(id_map))


@given(BLOCKY_MAP)
def test_areas_and_boxes_equal_masks(id_map: np.ndarray) -> None:
    ids, areas, boxes = segment_areas_and_boxes(id_map)
    assert ids.tolist() == [i for i in np.unique(id_map).tolist() if i != 0]
    for segment_id, area, box in zip(ids, areas, boxes, strict=True):
        rows, columns = np.nonzero(id_map == segment_id)
        assert area == len(rows)
        left, top, width, height = box
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_empty_map_has_no_segments(shape: tuple[int, int]) -> None:
    id_map = np.zeros(shape, np.int32)
    ids, areas, boxes = segment_areas_and_boxes(id_map)
    assert (len(ids), len(areas), boxes.shape) == (0, 0, (0, 4))
    assert present_ids(id_map).tolist() == []
    assert problems_of(id_map, []) == []


def test_segment_that_continues_over_the_row_end() -> None:
    # In memory the last pixel of row 0 and the first of row 1 are neighbours of the same id.
    ids, areas, boxes = segment_areas_and_boxes(np.array([[1, 2], [2, 1]]))
    assert ids.tolist() == [1, 2]
    assert areas.tolist() == [2, 2]
    assert boxes.tolist() == [[0, 0, 2, 2], [0, 0, 2, 2]]


def test_update_drops_what_has_no_pixel() -> None:
    listed = [{"id": 7, "category_id": 1, "area": 99}, {"id": 8, "category_id": 1}]
    updated = update_segments(np.array([[0, 7, 7]]), listed)
    assert updated == [{"id": 7, "category_id": 1, "area": 2, "bbox": [1, 0, 2, 1]}]
    assert listed[0]["area"] == 99  # the argument stays as it was


# ----------------------------------------------------------------------------------- checks


def problems_of(id_map: np.ndarray, segments: list[dict]) -> list[str]:
    return segment_problems(segment_areas_and_boxes(id_map), segments)


def _sound() -> tuple[np.ndarray, list[dict]]:
    id_map = np.array([[0, 5, 5], [9, 9, 5]], np.int32)
    segments = [
        {"id": 5, "category_id": 1, "area": 3, "bbox": [1, 0, 2, 2], "iscrowd": 0},
        {"id": 9, "category_id": 2, "area": 2, "bbox": [0, 1, 2, 1], "iscrowd": 0},
    ]
    return id_map, segments


def test_sound_map_has_no_problems() -> None:
    id_map, segments = _sound()
    assert problems_of(id_map, segments) == []


def test_check_names_each_problem_once() -> None:
    def problems(change) -> list[str]:
        id_map, segments = _sound()
        change(id_map, segments)
        return problems_of(id_map, segments)

    def one(change, *words: str) -> None:
        (problem,) = problems(change)
        assert all(word in problem for word in words), problem

    one(lambda m, s: m.__setitem__((0, 0), 77), "segment 77", "1 pixels", "not listed")
    one(lambda m, s: s.append({"id": 8, "category_id": 1}), "segment 8", "no pixel")
    one(lambda m, s: s.append(s[0]), "segment 5", "more than once")
    one(lambda m, s: s.append({"id": 0, "category_id": 1}), "segment 0", "0 is void")
    one(lambda m, s: s[0].update(area=4), "segment 5", "area 4", "3 pixels")
    one(lambda m, s: s[0].update(bbox=[1, 0, 3, 2]), "segment 5", "[1, 0, 2, 2]")


@settings(max_examples=50)
@given(BLOCKY_MAP, st.sets(st.sampled_from([1, 2, 3, 256, MAX_ID])))
def test_check_finds_exactly_the_difference_of_the_two_sets(
    id_map: np.ndarray, listed: set[int]
) -> None:
    problems = problems_of(id_map, [{"id": i, "category_id": 1} for i in listed])
    present = set(np.unique(id_map).tolist()) - {0}
    named = {int(problem.split()[1].rstrip(":")) for problem in problems}
    assert named == present ^ listed
    assert len(problems) == len(named)
