"""Segments of a panoptic map: boxes against brute force, detections by hand.

`tests/unified_panoptic/test_targets.py` compares all of it with one segment at a time.
"""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_common.data.segment_truth import find_segments, thing_instances, tight_boxes


@pytest.mark.parametrize("seed", range(10))
def test_tight_boxes_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    segment_map = rng.integers(-1, 6, size=(rng.integers(1, 9), rng.integers(1, 9)))
    boxes = tight_boxes(segment_map, 8)  # segments 6 and 7 own no pixel
    for index in range(8):
        rows, columns = np.nonzero(segment_map == index)
        if len(rows) == 0:
            assert boxes[index].tolist() == [0, 0, 0, 0]
        else:
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert boxes[index].tolist() == expected


def test_a_detector_counts_its_classes_as_it_likes_and_leaves_others_out():
    """Ids 5, 6, 7 of classes 0, 1, 2, which a detector calls 3, nothing, and 0."""
    id_map = np.array([[5, 5, 6], [7, 0, 6]], dtype=np.int32)
    infos = [{"id": i, "category_id": k, "iscrowd": 0} for k, i in enumerate((5, 6, 7))]
    truth = find_segments(id_map, infos, 3)
    assert truth.sem_seg.tolist() == [[0, 0, 1], [2, 255, 1]]
    assert truth.segment_map.tolist() == [[0, 0, 1], [2, -1, 1]]
    instances = thing_instances(truth, [3, -1, 0])
    assert instances.gt_classes.tolist() == [3, 0]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 2, 1], [0, 1, 1, 2]]
    assert instances.gt_masks.tensor.tolist() == [
        [[True, True, False], [False, False, False]],
        [[False, False, False], [True, False, False]],
    ]
    with pytest.raises(ValueError, match="segment 7 has class 2, but the table holds 2 classes"):
        find_segments(id_map, infos, 2)
