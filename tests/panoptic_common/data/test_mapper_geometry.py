"""The mapper against brute force: no id is blended, moved off its pixel, lost or invented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_factory import make_coco_panoptic
from detectron2.data import transforms as T
from fvcore.transforms.transform import HFlipTransform, PadTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from mapped_samples import FixedCrop, check_segments, map_record, read_files
from PIL import Image

from panoptic_common.coco.records import read_records
from panoptic_common.coco.segment_ids import MAX_ID, write_id_map
from panoptic_common.data.augmentations import (
    QuarterTurnTransform,
    RandomRelight,
    RandomScale,
)
from panoptic_common.data.mapper import transform_ids


def test_flip_equals_numpys_flip(record: dict[str, Any]) -> None:
    image, id_map = read_files(record)
    for axis, name in ((1, "horizontal"), (0, "vertical")):
        flip = T.RandomFlip(1.0, horizontal=axis == 1, vertical=axis == 0)
        sample = map_record(record, flip)
        np.testing.assert_array_equal(sample["id_map"], np.flip(id_map, axis), err_msg=name)
        flipped = np.flip(image, axis).transpose(2, 0, 1)
        np.testing.assert_array_equal(sample["image"].numpy(), flipped, err_msg=name)
        check_segments(sample, record)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_keep_every_id(record: dict[str, Any], quarters: int) -> None:
    _, id_map = read_files(record)
    turned = transform_ids(id_map, QuarterTurnTransform(*id_map.shape, quarters))
    np.testing.assert_array_equal(turned, np.rot90(id_map, quarters))


@settings(max_examples=30)
@given(st.data())
def test_crops_equal_slices_and_drop_vanished_segments(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    record = _shared_record(tmp_path_factory)
    top, left = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 56))
    height = data.draw(st.integers(1, 48 - top))
    width = data.draw(st.integers(1, 64 - left))
    sample = map_record(record, FixedCrop(top, left, height, width))
    _, id_map = read_files(record)
    window = id_map[top : top + height, left : left + width]
    np.testing.assert_array_equal(sample["id_map"], window)
    check_segments(sample, record)


_SHARED: dict[str, dict[str, Any]] = {}


def _shared_record(factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One record for all examples of hypothesis, which cannot have a folder each."""
    if "record" not in _SHARED:
        _SHARED["record"] = read_records(make_coco_panoptic(factory.mktemp("shared")))[1][0]
    return _SHARED["record"]


def test_a_crop_of_void_only_has_no_segment(record: dict[str, Any]) -> None:
    sample = map_record(record, FixedCrop(46, 0, 2, 64))
    assert sample["segments"] == [] and not sample["id_map"].any()


def _nearest(id_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by the pixel whose area holds the centre of the new pixel."""

    def pick(new: int, old: int) -> np.ndarray:
        return np.floor((np.arange(new) + 0.5) * old / new).astype(int)

    return id_map[np.ix_(pick(height, id_map.shape[0]), pick(width, id_map.shape[1]))]


@pytest.mark.parametrize("shape", [(24, 32), (96, 128), (37, 51), (48, 64), (101, 40)])
def test_resize_picks_the_nearest_centre(record: dict[str, Any], shape: tuple[int, int]) -> None:
    sample = map_record(record, T.Resize(shape))
    _, id_map = read_files(record)
    assert sample["image"].shape == (3, *shape)
    np.testing.assert_array_equal(sample["id_map"], _nearest(id_map, *shape))
    check_segments(sample, record)


def test_ids_stay_on_their_pixels_when_resized(tmp_path: Path) -> None:
    """Map and image are one drawing: after any resize they must still agree.

    A half of the image is one segment. Where the image, resized by bilinear interpolation,
    crosses the middle grey, the map must change its id: not half a pixel off.
    """
    id_map = np.where(np.arange(60) < 30, 5, 9)[None].repeat(8, axis=0).astype(np.int32)
    image = np.where(id_map == 5, 0, 255).astype(np.uint8)
    Image.fromarray(image).convert("RGB").save(tmp_path / "a.png")
    write_id_map(tmp_path / "a_ids.png", id_map)
    record = {
        "file_name": str(tmp_path / "a.png"),
        "pan_seg_file_name": str(tmp_path / "a_ids.png"),
        "segments_info": [{"id": 5, "category_id": 0}, {"id": 9, "category_id": 1}],
    }
    for width in (30, 47, 83, 120, 301):
        sample = map_record(record, T.Resize((8, width)))
        bright = sample["image"][0, 0].numpy().astype(int)
        clear = (bright < 100) | (bright > 155)  # leaves out the pixel on the edge itself
        assert clear.sum() >= width - 3
        np.testing.assert_array_equal((sample["id_map"][0] == 9)[clear], (bright > 155)[clear])


@pytest.mark.parametrize("seed", range(6))
def test_the_whole_chain_invents_and_loses_nothing(record: dict[str, Any], seed: int) -> None:
    np.random.seed(seed)
    crop = T.RandomCrop("absolute", (30, 40))
    chain = (RandomScale(0.5, 2.0), crop, T.RandomFlip(), RandomRelight())
    sample = map_record(record, *chain)
    assert sample["image"].shape[1:] == sample["id_map"].shape
    assert sample["image"].dtype == torch.uint8
    check_segments(sample, record)
    np.random.seed(seed)
    again = map_record(record, *chain)
    assert torch.equal(again["image"], sample["image"])
    np.testing.assert_array_equal(again["id_map"], sample["id_map"])


@given(st.sets(st.integers(1, MAX_ID), min_size=1, max_size=400))
def test_any_ids_survive_a_flip_and_a_resize(ids: set[int]) -> None:
    id_map = np.array(sorted(ids), np.int32)[None]
    transforms = T.TransformList(
        [HFlipTransform(len(ids)), T.ResizeTransform(1, len(ids), 3, 2 * len(ids))]
    )
    moved = transform_ids(id_map, transforms)
    expected = id_map[:, ::-1].repeat(2, axis=1).repeat(3, axis=0)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("fill", [0, 255])
def test_padding_is_void_whatever_it_fills_in(fill: int) -> None:
    id_map = np.array([[MAX_ID, 5]], np.int32)  # MAX_ID is 255 in all three planes
    pad = PadTransform(1, 0, 2, 1, 2, 1, pad_value=9, seg_pad_value=fill)
    moved = transform_ids(id_map, pad)
    assert moved.tolist() == [[0, MAX_ID, 5, 0, 0], [0, 0, 0, 0, 0]]


def test_detectron2s_fixed_size_crop_pads_with_void(record: dict[str, Any]) -> None:
    sample = map_record(record, T.FixedSizeCrop((60, 70)))
    assert sample["image"].shape == (3, 60, 70)
    _, id_map = read_files(record)
    np.testing.assert_array_equal(sample["id_map"], np.pad(id_map, ((0, 12), (0, 6))))


def test_an_interpolating_augmentation_is_refused(record: dict[str, Any]) -> None:
    class Blend(T.ResizeTransform):
        def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
            return self.apply_image(segmentation)

    class BlendingResize(T.Augmentation):
        def get_transform(self, image: np.ndarray) -> T.Transform:
            return Blend(48, 64, 31, 45)

    with pytest.raises(ValueError, match="must pick pixels, not interpolate"):
        map_record(record, BlendingResize())
