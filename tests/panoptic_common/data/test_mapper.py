"""The mapper against brute force: no id is ever blended, moved off its pixel, lost or invented."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import pytest
import torch
from dataset_factory import make_coco_panoptic
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from fvcore.transforms.transform import HFlipTransform, PadTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.records import read_records
from panoptic_common.coco.segment_ids import MAX_ID, read_id_map, write_id_map
from panoptic_common.config import add_panoptic_config
from panoptic_common.data.augmentations import RandomRelight, RandomScale
from panoptic_common.data.mapper import PanopticDatasetMapper, transform_ids


def keep_targets(id_map: np.ndarray, segments_info: list[dict[str, Any]]) -> dict[str, Any]:
    """A target function that shows what it was given."""
    return {"id_map": id_map, "segments": segments_info}


@pytest.fixture
def paths(tmp_path: Path) -> PanopticPaths:
    return make_coco_panoptic(tmp_path, suffix=".png")


@pytest.fixture
def record(paths: PanopticPaths) -> dict[str, Any]:
    return read_records(paths)[1][0]


class FixedCrop(T.Augmentation):
    """Crops a fixed window: top, left, height, width."""

    def __init__(self, *window: int) -> None:
        super().__init__()
        self.window = window

    def __call__(self, inputs: T.AugInput) -> T.Transform:
        top, left, height, width = self.window
        transform = T.CropTransform(left, top, width, height)
        inputs.transform(transform)
        return transform


def _map(record: dict[str, Any], *augmentations: T.Augmentation, **options: Any) -> dict[str, Any]:
    options = {"is_train": True, "make_targets": keep_targets, "image_format": "RGB", **options}
    return PanopticDatasetMapper(augmentations=augmentations, **options)(record)


def _read(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(Image.open(record["file_name"])), read_id_map(record["pan_seg_file_name"])


def _check_segments(sample: dict[str, Any], record: dict[str, Any]) -> None:
    """Compare the segments with masks of the map, one at a time."""
    id_map = sample["id_map"]
    listed = {segment["id"]: segment for segment in record["segments_info"]}
    present = [i for i in listed if (id_map == i).any()]
    assert [segment["id"] for segment in sample["segments"]] == present
    assert set(np.unique(id_map)) - {0} == set(present)
    for segment in sample["segments"]:
        rows, columns = np.nonzero(id_map == segment["id"])
        assert segment["area"] == len(rows)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert segment["bbox"] == [columns.min(), rows.min(), width, height]
        for key in ("category_id", "isthing", "iscrowd"):
            assert segment[key] == listed[segment["id"]][key]


# --------------------------------------------------------------------------------- what comes out


def test_without_augmentation_everything_is_as_in_the_files(record: dict[str, Any]) -> None:
    before = copy.deepcopy(record)
    sample = _map(record)
    image, id_map = _read(record)
    assert sample["image"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["id_map"], id_map)
    assert sample["id_map"].dtype == np.int32
    assert MAX_ID in sample["id_map"]
    _check_segments(sample, record)
    for key in ("file_name", "image_id", "height", "width"):
        assert sample[key] == record[key]
    assert record == before
    sample["segments"][0]["area"] = -1
    assert record == before  # the segments are copies


def test_bgr_is_rgb_reversed(record: dict[str, Any]) -> None:
    rgb, bgr = _map(record)["image"], _map(record, image_format="BGR")["image"]
    assert torch.equal(bgr.flip(0), rgb)
    assert not torch.equal(bgr, rgb)
    with pytest.raises(ValueError, match="INPUT.FORMAT"):
        _map(record, image_format="L")


@pytest.mark.parametrize(
    "augmentation",
    [
        T.RandomFlip(prob=0.0),
        T.RandomFlip(prob=1.0),
        T.RandomFlip(prob=1.0, horizontal=False, vertical=True),
        T.Resize((20, 30)),
        FixedCrop(1, 2, 20, 30),
    ],
)
def test_result_is_writable_and_free_of_warnings(
    record: dict[str, Any], augmentation: T.Augmentation
) -> None:
    torch.set_warn_always(True)  # otherwise torch warns of read-only memory once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample = _map(record, augmentation, image_format="BGR")
            sample["image"] += 1
            sample["id_map"][:] = 0
            torch.from_numpy(sample["id_map"])
    finally:
        torch.set_warn_always(False)


def test_testing_reads_truth_only_for_a_target_function(record: dict[str, Any]) -> None:
    resize = T.ResizeShortestEdge(24, 1000, "choice")
    with_truth = _map(record, resize, is_train=False)
    assert with_truth["id_map"].shape == (24, 32)  # at the size of the network's input
    Path(record["pan_seg_file_name"]).unlink()
    sample = _map(record, resize, is_train=False, make_targets=None)
    assert sample["image"].shape == (3, 24, 32)
    assert (sample["height"], sample["width"]) == (48, 64)  # of the original
    assert set(sample) == {"image", "file_name", "image_id", "height", "width"}
    del record["pan_seg_file_name"], record["segments_info"], record["height"], record["width"]
    assert _map(record, is_train=False, make_targets=None)["height"] == 48


def test_training_without_target_function_gives_the_image(record: dict[str, Any]) -> None:
    assert "id_map" not in _map(record, make_targets=None)


def test_target_function_may_not_replace_the_image(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\['image'\]"):
        _map(record, make_targets=lambda id_map, segments: {"image": 1, "other": 2})


# -------------------------------------------------------------------------------------- geometry


def test_flip_equals_numpys_flip(record: dict[str, Any]) -> None:
    image, id_map = _read(record)
    for axis, name in ((1, "horizontal"), (0, "vertical")):
        flip = T.RandomFlip(1.0, horizontal=axis == 1, vertical=axis == 0)
        sample = _map(record, flip)
        np.testing.assert_array_equal(sample["id_map"], np.flip(id_map, axis), err_msg=name)
        flipped = np.flip(image, axis).transpose(2, 0, 1)
        np.testing.assert_array_equal(sample["image"].numpy(), flipped, err_msg=name)
        _check_segments(sample, record)


@settings(max_examples=30)
@given(st.data())
def test_crops_equal_slices_and_drop_vanished_segments(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    record = _shared_record(tmp_path_factory)
    top, left = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 56))
    height = data.draw(st.integers(1, 48 - top))
    width = data.draw(st.integers(1, 64 - left))
    sample = _map(record, FixedCrop(top, left, height, width))
    _, id_map = _read(record)
    window = id_map[top : top + height, left : left + width]
    np.testing.assert_array_equal(sample["id_map"], window)
    _check_segments(sample, record)


_SHARED: dict[str, dict[str, Any]] = {}


def _shared_record(factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One record for all examples of hypothesis, which cannot have a folder each."""
    if "record" not in _SHARED:
        _SHARED["record"] = read_records(make_coco_panoptic(factory.mktemp("shared")))[1][0]
    return _SHARED["record"]


def test_a_crop_of_void_only_has_no_segment(record: dict[str, Any]) -> None:
    sample = _map(record, FixedCrop(46, 0, 2, 64))
    assert sample["segments"] == [] and not sample["id_map"].any()


def _nearest(id_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by the pixel whose area holds the centre of the new pixel."""

    def pick(new: int, old: int) -> np.ndarray:
        return np.floor((np.arange(new) + 0.5) * old / new).astype(int)

    return id_map[np.ix_(pick(height, id_map.shape[0]), pick(width, id_map.shape[1]))]


@pytest.mark.parametrize("shape", [(24, 32), (96, 128), (37, 51), (48, 64), (101, 40)])
def test_resize_picks_the_nearest_centre(record: dict[str, Any], shape: tuple[int, int]) -> None:
    sample = _map(record, T.Resize(shape))
    _, id_map = _read(record)
    assert sample["image"].shape == (3, *shape)
    np.testing.assert_array_equal(sample["id_map"], _nearest(id_map, *shape))
    _check_segments(sample, record)


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
        sample = _map(record, T.Resize((8, width)))
        bright = sample["image"][0, 0].numpy().astype(int)
        clear = (bright < 100) | (bright > 155)  # leaves out the pixel on the edge itself
        assert clear.sum() >= width - 3
        np.testing.assert_array_equal((sample["id_map"][0] == 9)[clear], (bright > 155)[clear])


@pytest.mark.parametrize("seed", range(6))
def test_the_whole_chain_invents_and_loses_nothing(record: dict[str, Any], seed: int) -> None:
    np.random.seed(seed)
    crop = T.RandomCrop("absolute", (30, 40))
    chain = (RandomScale(0.5, 2.0), crop, T.RandomFlip(), RandomRelight())
    sample = _map(record, *chain)
    assert sample["image"].shape[1:] == sample["id_map"].shape
    assert sample["image"].dtype == torch.uint8
    _check_segments(sample, record)
    np.random.seed(seed)
    again = _map(record, *chain)
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
    sample = _map(record, T.FixedSizeCrop((60, 70)))
    assert sample["image"].shape == (3, 60, 70)
    _, id_map = _read(record)
    np.testing.assert_array_equal(sample["id_map"], np.pad(id_map, ((0, 12), (0, 6))))


def test_an_interpolating_augmentation_is_refused(record: dict[str, Any]) -> None:
    class Blend(T.ResizeTransform):
        def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
            return self.apply_image(segmentation)

    class BlendingResize(T.Augmentation):
        def get_transform(self, image: np.ndarray) -> T.Transform:
            return Blend(48, 64, 31, 45)

    with pytest.raises(ValueError, match="must pick pixels, not interpolate"):
        _map(record, BlendingResize())


# ---------------------------------------------------------------------------------------- errors


def test_id_that_the_json_lacks_is_named(record: dict[str, Any]) -> None:
    removed = record["segments_info"].pop(2)
    with pytest.raises(ValueError) as raised:
        _map(record)
    assert str(removed["id"]) in str(raised.value) and "image 100" in str(raised.value)
    assert record["pan_seg_file_name"] in str(raised.value)


def test_segment_without_pixels_drops_out(record: dict[str, Any]) -> None:
    ghost = {"id": 4711, "category_id": 0, "isthing": True, "iscrowd": 0}
    record["segments_info"].append(ghost)
    assert 4711 not in [segment["id"] for segment in _map(record)["segments"]]


def test_sizes_that_disagree_are_named(record: dict[str, Any], paths: PanopticPaths) -> None:
    with pytest.raises(ValueError, match="48 x 64 .*JSON gives image 100 64 x 48"):
        _map({**record, "height": 64, "width": 48})
    write_id_map(record["pan_seg_file_name"], np.zeros((48, 63), np.int32))
    with pytest.raises(ValueError) as raised:
        _map(record)
    assert record["file_name"] in str(raised.value)
    assert f"{record['pan_seg_file_name']} is 48 x 63" in str(raised.value)


@pytest.mark.parametrize("key", ["file_name", "pan_seg_file_name"])
def test_damaged_and_missing_files_are_named(record: dict[str, Any], key: str) -> None:
    path = Path(record[key])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"{path.name}: damaged"):
        _map(record)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        _map(record)


def test_training_needs_a_panoptic_map(record: dict[str, Any]) -> None:
    del record["pan_seg_file_name"]
    with pytest.raises(ValueError, match="image 100.*pan_seg_file_name.*register_panoptic"):
        _map(record)


def test_exif_orientation_is_applied(record: dict[str, Any]) -> None:
    """A camera held sideways: stored as 64 x 48, shown as 48 x 64, which is what the map covers."""
    image, _ = _read(record)
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees clockwise
    stored = Image.fromarray(image).transpose(Image.Transpose.ROTATE_90)
    stored.save(record["file_name"], exif=exif)
    sample = _map(record)
    np.testing.assert_array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
    assert sample["id_map"].shape == (48, 64)


# ------------------------------------------------------------------------- config, workers, COCO


def test_from_cfg_takes_what_the_config_says(record: dict[str, Any]) -> None:
    cfg = get_cfg()
    add_panoptic_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.INPUT.MIN_SIZE_TEST = 12
    mapper = PanopticDatasetMapper.from_cfg(cfg, True, keep_targets)
    assert mapper(record)["id_map"].shape == (24, 32)
    tester = PanopticDatasetMapper.from_cfg(cfg, False)
    assert tester(record)["image"].shape == (3, 12, 16)
    assert tester.image_format == "RGB"


@pytest.mark.slow  # a new process imports torch and Detectron2
def test_mapper_works_in_spawned_workers(paths: PanopticPaths) -> None:
    records = read_records(paths)[1]
    cfg = get_cfg()
    add_panoptic_config(cfg)
    cfg.INPUT.RELIGHT.ENABLED = cfg.INPUT.CROP.ENABLED = True
    mapper = PanopticDatasetMapper.from_cfg(cfg, True, keep_targets)
    assert isinstance(pickle.loads(pickle.dumps(mapper)), PanopticDatasetMapper)
    mapper = PanopticDatasetMapper(True, [T.RandomFlip(1.0)], "RGB", keep_targets)
    loader = torch.utils.data.DataLoader(
        _Mapped(records, mapper),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    for sample, record in zip(loader, records, strict=True):
        np.testing.assert_array_equal(sample["id_map"], _read(record)[1][:, ::-1])


class _Mapped(torch.utils.data.Dataset):
    """Records through a mapper."""

    def __init__(self, records: list[dict[str, Any]], mapper: PanopticDatasetMapper) -> None:
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.mapper(self.records[index])


def test_real_coco_images(shared_coco: Path) -> None:
    coco = Path(shared_coco) / "coco"
    paths = PanopticPaths(
        str(coco / "val2017"),
        str(coco / "annotations" / "panoptic_val2017.json"),
        str(coco / "panoptic_val2017"),
    )
    truth = json.loads(Path(paths.panoptic_json).read_text())
    for number, record in enumerate(read_records(paths)[1]):
        plain = _map(record)
        listed = truth["annotations"][number]["segments_info"]
        # The areas and boxes of the official JSON are those that the mapper counts.
        assert [(s["id"], s["area"], s["bbox"], s["iscrowd"]) for s in plain["segments"]] == [
            (s["id"], s["area"], s["bbox"], s["iscrowd"]) for s in listed
        ]
        np.random.seed(number)
        scaled = _map(record, RandomScale(0.5, 2.0), T.RandomCrop("absolute", (256, 320)))
        _check_segments(scaled, record)
