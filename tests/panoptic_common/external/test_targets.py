"""Targets of Detectron2's meta-architectures, worked out by hand for one small map."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from detectron2.config import get_cfg

from panoptic_common.external.config import add_external_config
from panoptic_common.external.targets import build_target_function

IS_THING = (True, False, True, False)  # person, road, car, sky
# A car (9), sky (8), road (7), a crowd of persons (6), void.
ID_MAP = np.array([[9, 9, 8, 8], [7, 7, 6, 0]], dtype=np.int32)
SEGMENTS = [
    {"id": 9, "category_id": 2, "iscrowd": 0},
    {"id": 8, "category_id": 3, "iscrowd": 0},
    {"id": 7, "category_id": 1, "iscrowd": 0},
    {"id": 6, "category_id": 0, "iscrowd": 1},
]


def make(numbering: str, ignore_value: int = 255) -> dict:
    cfg = get_cfg()
    add_external_config(cfg)
    cfg.MODEL.PANOPTIC.IS_THING = IS_THING
    cfg.MODEL.PANOPTIC.NUMBERING = numbering
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = ignore_value
    function = pickle.loads(pickle.dumps(build_target_function(cfg)))  # for worker processes
    return function(ID_MAP, SEGMENTS)


@pytest.mark.parametrize(
    ("numbering", "sem_seg", "classes"),
    [
        # Things are 0; stuff is 1 (road) and 2 (sky). The car is thing 1.
        ("separate", [[0, 0, 2, 2], [1, 1, 0, 255]], [1]),
        ("joint", [[2, 2, 3, 3], [1, 1, 0, 255]], [2]),
    ],
)
def test_by_hand(numbering, sem_seg, classes):
    made = make(numbering)
    assert made["sem_seg"].tolist() == sem_seg
    assert made["instances"].gt_classes.tolist() == classes  # a crowd is no instance
    assert made["instances"].gt_boxes.tensor.tolist() == [[0, 0, 2, 1]]
    assert made["instances"].gt_masks.tensor.sum() == 2


def test_void_has_the_value_that_the_head_ignores():
    assert make("separate", 77)["sem_seg"][1, 3] == 77
