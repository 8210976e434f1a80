"""The mapper: what a sample holds, and which files are refused."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from mapped_samples import FixedCrop, check_segments, keep_targets, map_record, read_files
from PIL import Image

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.records import DataFileError, read_records
from panoptic_common.coco.segment_ids import MAX_ID, write_id_map
from panoptic_common.config import add_panoptic_config
from panoptic_common.data.augmentations import RandomScale
from panoptic_common.data.mapper import PanopticDatasetMapper


def test_without_augmentation_everything_is_as_in_the_files(record: dict[str, Any]) -> None:
    before = copy.deepcopy(record)
    sample = map_record(record)
    image, id_map = read_files(record)
    assert sample["image"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["id_map"], id_map)
    assert sample["id_map"].dtype == np.int32
    assert MAX_ID in sample["id_map"]
    check_segments(sample, record)
    for key in ("file_name", "image_id", "height", "width"):
        assert sample[key] == record[key]
    assert record == before
    sample["segments"][0]["area"] = -1
    assert record == before  # the segments are copies


def test_bgr_is_rgb_reversed(record: dict[str, Any]) -> None:
    rgb, bgr = map_record(record)["image"], map_record(record, image_format="BGR")["image"]
    assert torch.equal(bgr.flip(0), rgb)
    assert not torch.equal(bgr, rgb)
    with pytest.raises(ValueError, match="INPUT.FORMAT"):
        map_record(record, image_format="L")


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
            sample = map_record(record, augmentation, image_format="BGR")
            sample["image"] += 1
            sample["id_map"][:] = 0
            torch.from_numpy(sample["id_map"])
    finally:
        torch.set_warn_always(False)


def test_testing_reads_truth_only_for_a_target_function(record: dict[str, Any]) -> None:
    resize = T.ResizeShortestEdge(24, 1000, "choice")
    with_truth = map_record(record, resize, is_train=False)
    assert with_truth["id_map"].shape == (24, 32)  # at the size of the network's input
    Path(record["pan_seg_file_name"]).unlink()
    sample = map_record(record, resize, is_train=False, make_targets=None)
    assert sample["image"].shape == (3, 24, 32)
    assert (sample["height"], sample["width"]) == (48, 64)  # of the original
    assert set(sample) == {"image", "file_name", "image_id", "height", "width"}
    del record["pan_seg_file_name"], record["segments_info"], record["height"], record["width"]
    assert map_record(record, is_train=False, make_targets=None)["height"] == 48


def test_training_without_target_function_gives_the_image(record: dict[str, Any]) -> None:
    assert "id_map" not in map_record(record, make_targets=None)


def test_target_function_may_not_replace_the_image(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\['image'\]"):
        map_record(record, make_targets=lambda id_map, segments: {"image": 1, "other": 2})


def test_id_that_the_json_lacks_is_named(record: dict[str, Any]) -> None:
    removed = record["segments_info"].pop(2)
    with pytest.raises(ValueError) as raised:
        map_record(record)
    assert str(removed["id"]) in str(raised.value) and "image 100" in str(raised.value)
    assert record["pan_seg_file_name"] in str(raised.value)


def test_segment_without_pixels_drops_out(record: dict[str, Any]) -> None:
    ghost = {"id": 4711, "category_id": 0, "isthing": True, "iscrowd": 0}
    record["segments_info"].append(ghost)
    assert 4711 not in [segment["id"] for segment in map_record(record)["segments"]]


def test_sizes_that_disagree_are_named(record: dict[str, Any], paths: PanopticPaths) -> None:
    with pytest.raises(ValueError, match="48 x 64 .*JSON gives image 100 64 x 48"):
        map_record({**record, "height": 64, "width": 48})
    write_id_map(record["pan_seg_file_name"], np.zeros((48, 63), np.int32))
    with pytest.raises(ValueError) as raised:
        map_record(record)
    assert record["file_name"] in str(raised.value)
    assert f"{record['pan_seg_file_name']} is 48 x 63" in str(raised.value)


@pytest.mark.parametrize("key", ["file_name", "pan_seg_file_name"])
def test_damaged_and_missing_files_are_named(record: dict[str, Any], key: str) -> None:
    path = Path(record[key])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"{path.name}: damaged"):
        map_record(record)
    path.unlink()
    with pytest.raises(DataFileError, match=path.name):
        map_record(record)


def test_training_needs_a_panoptic_map(record: dict[str, Any]) -> None:
    del record["pan_seg_file_name"]
    with pytest.raises(ValueError, match="image 100.*pan_seg_file_name.*register_panoptic"):
        map_record(record)


def test_exif_orientation_is_applied(record: dict[str, Any]) -> None:
    """A camera held sideways: stored as 64 x 48, shown as 48 x 64, which is what the map covers."""
    image, _ = read_files(record)
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees clockwise
    stored = Image.fromarray(image).transpose(Image.Transpose.ROTATE_90)
    stored.save(record["file_name"], exif=exif)
    sample = map_record(record)
    np.testing.assert_array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
    assert sample["id_map"].shape == (48, 64)


def test_from_config_takes_what_the_config_says(record: dict[str, Any]) -> None:
    cfg = get_cfg()
    add_panoptic_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.INPUT.MIN_SIZE_TEST = 12
    mapper = PanopticDatasetMapper.from_config(cfg, True, keep_targets)
    assert mapper(record)["id_map"].shape == (24, 32)
    tester = PanopticDatasetMapper.from_config(cfg, False)
    assert tester(record)["image"].shape == (3, 12, 16)
    assert tester.image_format == "RGB"


def test_real_coco_images(shared_coco: Path) -> None:
    coco = Path(shared_coco) / "coco"
    paths = PanopticPaths(
        str(coco / "val2017"),
        str(coco / "annotations" / "panoptic_val2017.json"),
        str(coco / "panoptic_val2017"),
    )
    truth = json.loads(Path(paths.panoptic_json).read_text())
    for number, record in enumerate(read_records(paths)[1]):
        plain = map_record(record)
        listed = truth["annotations"][number]["segments_info"]
        # The areas and boxes of the official JSON are those that the mapper counts.
        assert [(s["id"], s["area"], s["bbox"], s["iscrowd"]) for s in plain["segments"]] == [
            (s["id"], s["area"], s["bbox"], s["iscrowd"]) for s in listed
        ]
        np.random.seed(number)
        scaled = map_record(record, RandomScale(0.5, 2.0), T.RandomCrop("absolute", (256, 320)))
        check_segments(scaled, record)
