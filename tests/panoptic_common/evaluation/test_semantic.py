"""mIoU of semantic outputs: by hand, with void and crowd, and of the wrong shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_outputs import (
    perfect_output,
    run,
)

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import class_table, load_panoptic
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


def test_things_known_as_one_class_have_one_iou(tiny_dataset):
    """Stuff scores as if the classes of things were known; things together have a figure."""

    def with_things_as_one(record, table):
        output = perfect_output(record, table)
        stuff = [k for k, entry in enumerate(table) if not entry["isthing"]]
        scores = output["sem_seg"]
        some_thing = scores.sum(dim=0) - scores[stuff].sum(dim=0)
        some_thing[:, :8] = 0  # the first columns are taken for the first stuff class
        classes = torch.cat([some_thing[None], scores[stuff]])
        classes[1, :, :8] += 2 * (classes[1:, :, :8].sum(dim=0) == 0)
        return {"sem_seg": classes, "sem_seg_classes": [-1, *stuff]}

    def with_known_classes(record, table):
        things_as_one = with_things_as_one(record, table)
        stuff = things_as_one["sem_seg_classes"][1:]
        scores = perfect_output(record, table)["sem_seg"]
        scores[:, :, :8] = 0
        scores[stuff] = things_as_one["sem_seg"][1:]
        return {"sem_seg": scores}

    one, known = (
        run(SemanticEvaluator(tiny_dataset), tiny_dataset, make)["sem_seg"]
        for make in (with_things_as_one, with_known_classes)
    )
    assert set(one) == {"mIoU_st", "IoU-things", "things_as_things", "stuff_as_stuff"} | {
        f"IoU-{entry['name']}" for entry in class_table(tiny_dataset) if not entry["isthing"]
    }
    assert {name: one[name] for name in one if name in known} == pytest.approx(
        {name: known[name] for name in one if name in known}
    )
    assert one["mIoU_st"] < 100
    maps, things, lost = [], 0, 0
    for record in load_panoptic(tiny_dataset):
        ids = read_id_map(record["pan_seg_file_name"])
        of_things = [s["id"] for s in record["segments_info"] if s["isthing"]]
        maps.append(np.isin(ids, of_things))
        things, lost = things + int(maps[-1].sum()), lost + int(maps[-1][:, :8].sum())
    assert 0 < lost < things
    assert one["IoU-things"] == pytest.approx(100 * (things - lost) / things)


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
