"""mIoU of semantic outputs: by hand, with void and crowd, and of the wrong shape."""

from __future__ import annotations

import pytest
import torch
from evaluation_outputs import (
    perfect_output,
    run,
)

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import load_panoptic
from panoptic_common.evaluation.semantic import SemanticEvaluator


def test_semantic_ignores_void_and_counts_crowd_as_its_class(tiny_dataset):
    results = run(SemanticEvaluator(tiny_dataset), tiny_dataset, perfect_output)["sem_seg"]
    assert all(value == 100 for value in results.values()), results  # void pixels: class 0
    assert {"mIoU", "mIoU_th", "mIoU_st", "pACC", "IoU-person"} <= set(results)

    def without_crowd(record, table):
        output = perfect_output(record, table)
        crowd = torch.from_numpy(read_id_map(record["pan_seg_file_name"]) == 777)
        output["sem_seg"][:, crowd] = torch.eye(5)[1][:, None]  # "road" instead of person
        return output

    results = run(SemanticEvaluator(tiny_dataset), tiny_dataset, without_crowd)["sem_seg"]
    assert results["IoU-person"] < 60 and results["IoU-road"] < 100
    assert results["IoU-car"] == 100


def test_semantic_by_hand(tiny_dataset):
    """Everything predicted as road: its IoU is its share of the labelled pixels."""
    records = load_panoptic(tiny_dataset)
    maps = [read_id_map(record["pan_seg_file_name"]) for record in records]
    road, labelled = (
        sum(int(f(m).sum()) for m in maps) for f in (lambda m: m == 3, lambda m: m > 0)
    )

    def all_road(record, table):
        scores = torch.zeros(5, 48, 64)
        scores[1] = 1
        return {"sem_seg": scores}

    results = run(SemanticEvaluator(tiny_dataset), tiny_dataset, all_road)["sem_seg"]
    assert results["IoU-road"] == pytest.approx(100 * road / labelled)
    assert results["mIoU"] == pytest.approx(100 * road / labelled / 5)
    assert results["mIoU_st"] == pytest.approx(100 * road / labelled / 2)
    assert results["pACC"] == pytest.approx(100 * road / labelled)
    assert results["mIoU_th"] == 0


@pytest.mark.parametrize(
    ("shape", "message"), [((4, 48, 64), "5 classes"), ((5, 24, 32), "48 x 64 .* 24 x 32")]
)
def test_bad_semantic_output_names_the_image(tiny_dataset, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        run(
            SemanticEvaluator(tiny_dataset),
            tiny_dataset,
            lambda record, table: {"sem_seg": torch.zeros(shape)},
        )
    assert "image 100" in str(error.value)
