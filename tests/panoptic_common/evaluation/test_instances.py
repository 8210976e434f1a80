"""Box and mask AP on perfect, wrong and damaged detections."""

from __future__ import annotations

import errno
import json
import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from evaluation_outputs import nothing_output, perfect_output, run

from panoptic_common.evaluation.instances import InstanceEvaluator, encode_masks
from panoptic_common.files import _WatchedFile


def test_perfect_detections_have_ap_100(tiny_dataset, tmp_path):
    results = run(InstanceEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    assert set(results) == {"bbox", "segm"}
    for figures in results.values():
        assert figures["AP"] == pytest.approx(100) and figures["AP-bus"] == pytest.approx(100)
    truth = json.loads((tmp_path / "instances_truth.json").read_text())
    assert len(truth["annotations"]) == 3 * 5  # 2 cars, person, bus, crowd
    assert sum(a["iscrowd"] for a in truth["annotations"]) == 3
    assert min(a["id"] for a in truth["annotations"]) == 1
    # Both files of Detectron2: its own numbers in one, those of the data set in the other.
    predictions = torch.load(tmp_path / "instances_predictions.pth")
    counted = [item["category_id"] for found in predictions for item in found["instances"]]
    listed = json.loads((tmp_path / "coco_instances_results.json").read_text())
    numbers = [entry["id"] for entry in truth["categories"]]
    assert [numbers[k] for k in counted] == [item["category_id"] for item in listed]
    assert set(listed[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}


@pytest.mark.parametrize("full_at", ["instances_predictions.pth", "coco_instances_results.json"])
def test_a_full_disk_leaves_no_half_file(tiny_dataset, tmp_path, monkeypatch, full_at):
    write = _WatchedFile.write

    def full(self, data):
        if full_at not in str(self.name):
            return write(self, data)
        write(self, bytes(data)[:10])
        error = OSError(errno.ENOSPC, "No space left on device")
        self._refused.append(error)
        raise error

    monkeypatch.setattr(_WatchedFile, "write", full)
    with pytest.raises(OSError, match=f"No space left on device: .*{full_at}"):
        run(InstanceEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    assert not list(tmp_path.glob(f"*{full_at}*"))


def test_detections_in_a_crowd_cost_nothing_and_elsewhere_they_do(tiny_dataset):
    def with_extra(box):
        def make(record, table):
            output = perfect_output(record, table)
            old = output["instances"]
            masks = torch.zeros(1, 48, 64, dtype=torch.bool)
            masks[0, box[1] : box[3], box[0] : box[2]] = True
            extra = Instances((48, 64))
            extra.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
            extra.scores = torch.tensor([0.99])
            extra.pred_classes = torch.tensor([0])  # person
            extra.pred_masks = masks
            output["instances"] = Instances.cat([extra, old])
            return output

        return make

    inside = run(InstanceEvaluator(tiny_dataset), tiny_dataset, with_extra([54, 42, 62, 45]))
    assert inside["segm"]["AP-person"] == pytest.approx(100)
    outside = run(InstanceEvaluator(tiny_dataset), tiny_dataset, with_extra([2, 36, 20, 40]))
    assert outside["segm"]["AP-person"] < 75


def test_no_detection_at_all_is_0_and_without_masks_there_is_only_box_ap(tiny_dataset):
    figures = run(InstanceEvaluator(tiny_dataset), tiny_dataset, nothing_output)["bbox"]
    assert figures["AP"] == figures["APs"] == 0
    assert math.isnan(figures["APl"])  # the images hold no large thing

    def boxes_only(record, table):
        output = perfect_output(record, table)
        output["instances"].remove("pred_masks")
        return output

    results = run(InstanceEvaluator(tiny_dataset), tiny_dataset, boxes_only)
    assert list(results) == ["bbox"] and results["bbox"]["AP"] == pytest.approx(100)


def test_more_than_100_detections_count_where_that_is_asked_for(tiny_dataset):
    """A hundred surer mistakes hide the right ones from COCO's AP, but not from one of 400."""

    def crowded(record, table):
        output = perfect_output(record, table)
        old = output["instances"]
        masks = torch.zeros(100, 48, 64, dtype=torch.bool)
        masks[torch.arange(100), 40, torch.arange(100) % 64] = True
        wrong = Instances((48, 64))
        wrong.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(100, 1))
        wrong.scores = torch.full((100,), 2.0)
        wrong.pred_classes = torch.full((100,), 2)  # bus
        wrong.pred_masks = masks
        output["instances"] = Instances.cat([wrong, old])
        return output

    def ap_of_bus(**options):
        evaluator = InstanceEvaluator(tiny_dataset, **options)
        return run(evaluator, tiny_dataset, crowded)["segm"]["AP-bus"]

    assert ap_of_bus() == 0
    # The best precision once all 3 buses are found: 3 of 303.
    assert ap_of_bus(max_detections=400) == pytest.approx(100 * 3 / 303, rel=0.01)
    assert ap_of_bus(max_detections=7) == 0  # 100 is the least


def test_a_model_without_instances_is_no_error_but_half_of_them_is(tiny_dataset):
    def none(record, table):
        return {}

    assert run(InstanceEvaluator(tiny_dataset), tiny_dataset, none) == {}

    def some(record, table):
        return {} if record["image_id"] == 101 else perfect_output(record, table)

    with pytest.raises(ValueError, match=r"1 images have no 'instances'.* image 101 "):
        run(InstanceEvaluator(tiny_dataset), tiny_dataset, some)


def test_instances_may_be_left_out_where_the_map_has_no_thing(tiny_dataset):
    """What is missed there counts: AP is that of a model that gives an empty list."""

    def nothing_in_101(leave_out: bool):
        def make(record, table):
            output = (nothing_output if record["image_id"] == 101 else perfect_output)(
                record, table
            )
            if leave_out and record["image_id"] == 101:
                del output["instances"]
            return output

        return make

    found, expected = (
        run(InstanceEvaluator(tiny_dataset), tiny_dataset, nothing_in_101(flag))
        for flag in (True, False)
    )
    assert found["segm"] == pytest.approx(expected["segm"], nan_ok=True)
    assert found["bbox"]["AP"] < 100


def test_bad_detections_name_the_image(tiny_dataset):
    def wrong_class(record, table):
        output = perfect_output(record, table)
        output["instances"].pred_classes += 1
        return output

    with pytest.raises(ValueError, match=r"image 100 .* numbered 0\.\.2"):
        run(InstanceEvaluator(tiny_dataset), tiny_dataset, wrong_class)

    def wrong_size(record, table):
        return {"instances": Instances((10, 10))}

    with pytest.raises(ValueError, match=r"image 100 .*\(10, 10\)"):
        run(InstanceEvaluator(tiny_dataset), tiny_dataset, wrong_size)


def test_encoded_masks_decode_to_themselves():
    import pycocotools.mask as mask_util

    masks = np.random.default_rng(0).random((4, 13, 7)) > 0.5
    encoded = json.loads(json.dumps(encode_masks(masks)))
    np.testing.assert_array_equal(mask_util.decode(encoded).transpose(2, 0, 1), masks)
    assert encode_masks(np.zeros((0, 3, 3), bool)) == []
