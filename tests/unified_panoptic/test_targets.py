"""Targets from a panoptic id map: hand-worked maps, brute force, and Detectron2's own boxes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from model_factory import IS_THING, tiny_config

from unified_panoptic.targets import (
    PanopticTarget,
    build_target_function,
    make_unified_targets,
)


def segment(segment_id: int, class_id: int, iscrowd: int = 0) -> dict:
    return {"id": segment_id, "category_id": class_id, "iscrowd": iscrowd}


def random_case(seed: int):
    """A map of scattered pixels with huge unsorted ids, a crowd, void, and ids in no list."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(1, 256**3), size=6, replace=False)
    infos = [segment(int(i), int(rng.integers(0, 5)), int(rng.random() < 0.3)) for i in ids[:5]]
    choices = np.concatenate([ids, [0]])
    return rng.choice(choices, size=(7, 9)).astype(np.int32), infos


def test_hand_worked_map():
    id_map = np.array(
        [
            [0, 7, 7, 7, 7, 7],
            [9, 9, 7, 5, 5, 7],
            [9, 9, 7, 5, 3, 3],
            [4, 4, 4, 4, 3, 3],
        ],
        dtype=np.int32,
    )
    # 7: stuff 2; 9: thing class 3, so thing index 1; 5: thing class 1, thing index 0; 3: a crowd of
    # class 1; 4: stuff 0. The crowd is no segment, so 4 is segment 3.
    infos = [segment(7, 2), segment(9, 3), segment(5, 1), segment(3, 1, iscrowd=1), segment(4, 0)]
    made = make_unified_targets(id_map, infos, IS_THING)
    assert made["sem_seg"].tolist() == [
        [255, 2, 2, 2, 2, 2],
        [3, 3, 2, 1, 1, 2],
        [3, 3, 2, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]
    target = made["panoptic_target"]
    assert target.segment_map.tolist() == [
        [-1, 0, 0, 0, 0, 0],
        [1, 1, 0, 2, 2, 0],
        [1, 1, 0, 2, -1, -1],
        [3, 3, 3, 3, -1, -1],
    ]
    assert target.classes.tolist() == [2, 3, 1, 0]
    assert target.boxes.tolist() == [[1, 0, 6, 3], [0, 1, 2, 3], [3, 1, 5, 3], [0, 3, 4, 4]]
    instances = made["instances"]
    assert instances.gt_classes.tolist() == [1, 0]
    assert instances.gt_boxes.tensor.tolist() == [[0, 1, 2, 3], [3, 1, 5, 3]]
    assert instances.gt_masks.tensor.shape == (2, 4, 6)
    assert instances.gt_masks.tensor[1].nonzero().tolist() == [[1, 3], [1, 4], [2, 3]]


@pytest.mark.parametrize("seed", range(20))
def test_equals_one_segment_at_a_time(seed):
    id_map, infos = random_case(seed)
    made = make_unified_targets(id_map, infos, IS_THING)
    semantic = np.full(id_map.shape, 255)
    kept = [info for info in infos if not info["iscrowd"]]
    for info in infos:
        semantic[id_map == info["id"]] = info["category_id"]
    np.testing.assert_array_equal(made["sem_seg"].numpy(), semantic)

    target = made["panoptic_target"]
    covered = np.zeros(id_map.shape, dtype=bool)
    for index, info in enumerate(kept):
        mask = id_map == info["id"]
        covered |= mask
        np.testing.assert_array_equal(target.segment_map.numpy() == index, mask)
        assert target.classes[index] == info["category_id"]
    assert (target.segment_map.numpy()[~covered] == -1).all()

    things = [i for i in kept if IS_THING[i["category_id"]] and (id_map == i["id"]).any()]
    instances = made["instances"]
    assert len(instances) == len(things)
    for row, info in enumerate(things):
        expected_class = sum(IS_THING[: info["category_id"]])
        assert instances.gt_classes[row] == expected_class
        np.testing.assert_array_equal(instances.gt_masks.tensor[row].numpy(), id_map == info["id"])


@pytest.mark.parametrize("seed", range(20))
def test_boxes_equal_detectron2s(seed):
    made = make_unified_targets(*random_case(seed), IS_THING)
    instances = made["instances"]
    expected = instances.gt_masks.get_bounding_boxes().tensor
    torch.testing.assert_close(instances.gt_boxes.tensor, expected, rtol=0, atol=0)


def test_a_segment_that_the_crop_removed_is_no_instance_but_keeps_its_number():
    id_map = np.full((4, 4), 30, dtype=np.int32)
    infos = [segment(20, 1), segment(30, 3)]
    made = make_unified_targets(id_map, infos, IS_THING)
    assert made["panoptic_target"].boxes.tolist() == [[0, 0, 0, 0], [0, 0, 4, 4]]
    assert made["panoptic_target"].segment_map.unique().tolist() == [1]
    assert made["instances"].gt_classes.tolist() == [1]


@pytest.mark.parametrize("infos", [[], [segment(5, 1)], [segment(5, 1, iscrowd=1)]])
def test_all_void(infos):
    made = make_unified_targets(np.zeros((3, 5), np.int32), infos, IS_THING)
    assert made["sem_seg"].unique().tolist() == [255]
    assert made["sem_seg"].dtype == torch.int64
    assert made["panoptic_target"].segment_map.unique().tolist() == [-1]
    assert len(made["instances"]) == 0
    assert made["instances"].gt_masks.tensor.shape == (0, 3, 5)
    assert made["instances"].gt_boxes.tensor.shape == (0, 4)


def test_class_outside_the_table_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="segment 8 has class 5.*5 classes"):
        make_unified_targets(np.full((2, 2), 8, np.int32), [segment(8, 5)], IS_THING)


def test_target_function_binds_the_class_table_and_can_be_sent_to_a_worker():
    make = pickle.loads(pickle.dumps(build_target_function(tiny_config())))
    id_map, infos = random_case(3)
    expected = make_unified_targets(id_map, infos, IS_THING)
    made = make(id_map, infos)
    assert torch.equal(made["sem_seg"], expected["sem_seg"])
    assert torch.equal(made["instances"].gt_classes, expected["instances"].gt_classes)


def test_target_function_without_a_class_table_is_an_error():
    cfg = tiny_config()
    cfg.MODEL.PANOPTIC.IS_THING = ()
    with pytest.raises(ValueError, match="IS_THING is empty.*load_config"):
        build_target_function(cfg)


def test_target_moves_between_devices():
    made = make_unified_targets(*random_case(0), IS_THING)["panoptic_target"]
    moved = made.to("meta")
    assert isinstance(moved, PanopticTarget)
    assert {moved.segment_map.device.type, moved.classes.device.type, moved.boxes.device.type} == {
        "meta"
    }
