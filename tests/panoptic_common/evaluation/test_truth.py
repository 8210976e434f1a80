"""The truth that the evaluators share: complete, undamaged, and read again after a reset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_outputs import (
    nothing_output,
    perfect_output,
    run,
)

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_common.data.catalog import class_table, load_panoptic
from panoptic_common.evaluation.instances import InstanceEvaluator
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_common.evaluation.semantic import SemanticEvaluator


@pytest.mark.parametrize("kind", [PanopticEvaluator, SemanticEvaluator, InstanceEvaluator])
def test_missing_repeated_and_foreign_images_are_refused(tiny_dataset, kind):
    records = load_panoptic(tiny_dataset)
    with pytest.raises(ValueError, match=r"no prediction for 1 of the 3 .* image 101 "):
        run(kind(tiny_dataset), tiny_dataset, perfect_output, [records[0], records[2]])
    with pytest.raises(ValueError, match=r"more than once.* image 102 "):
        run(kind(tiny_dataset), tiny_dataset, perfect_output, [*records, records[2]])
    with pytest.raises(ValueError, match=r"image 7 .* not in data set 'evaluation_tiny'"):
        run(kind(tiny_dataset), tiny_dataset, perfect_output, [{**records[0], "image_id": 7}])


def test_damaged_truth_names_the_file(tiny_dataset):
    path = Path(load_panoptic(tiny_dataset)[1]["pan_seg_file_name"])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=path.name):
        table = class_table(tiny_dataset)
        output = nothing_output(load_panoptic(tiny_dataset)[1], table)
        PanopticEvaluator(tiny_dataset).process([load_panoptic(tiny_dataset)[1]], [output])


def test_changed_truth_is_read_again_after_reset(tiny_dataset):
    evaluator = PanopticEvaluator(tiny_dataset)
    records = load_panoptic(tiny_dataset)
    assert run(evaluator, tiny_dataset, nothing_output)["panoptic_seg"]["PQ"] == 0
    ids = np.full((48, 64), 3, np.int32)
    write_id_map(records[-1]["pan_seg_file_name"], ids)
    evaluator.reset()
    evaluator.process([records[-1]], [nothing_output(records[-1], class_table(tiny_dataset))])
    assert evaluator._confusion.sum() == 48 * 64  # no void any more
