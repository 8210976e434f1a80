"""Boxes and masks from an instances JSON: overlaps that the panoptic map lacks, and faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from dataset_factory import CATEGORIES, make_coco_panoptic
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from evaluation_outputs import make_cfg, perfect_output, register, run

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import load_panoptic
from panoptic_common.data.instance_truth import (
    augmented_instances,
    instances_file,
    load_instances,
    training_records,
)
from panoptic_common.data.mapper import PanopticDatasetMapper
from panoptic_common.evaluation.instances import InstanceEvaluator
from unified_panoptic.targets import make_unified_targets

NAME = "instances_of_this_test"
THINGS = [{"id": e["id"], "name": e["name"]} for e in CATEGORIES if e["isthing"]]
# Of each image: a car that a person stands in front of, and a crowd. Category ids of the data set.
CAR, PERSON = [10, 20, 50, 20, 50, 40, 10, 40], [20, 10, 30, 10, 30, 44, 20, 44]


def annotation(number: int, image_id: int, category: int, polygon: list[int], crowd: int = 0):
    x, y = polygon[::2], polygon[1::2]
    box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    segmentation = [polygon]
    if crowd:
        segmentation = {"size": [48, 64], "counts": [0, 48 * 4, 48 * 60]}  # uncompressed, as COCO's
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


@pytest.fixture
def data(tmp_path):
    """A data set, its instances JSON, and a config that names it."""
    paths = make_coco_panoptic(tmp_path)
    content = json.loads(Path(paths.panoptic_json).read_text())
    annotations = []
    for image in content["images"]:
        for category, polygon, crowd in ((7, CAR, 0), (1, PERSON, 0), (1, CAR, 1)):
            number = len(annotations) + 1
            annotations.append(annotation(number, image["id"], category, polygon, crowd))
    content = {
        "images": content["images"],
        "annotations": annotations,
        "categories": [dict(e) for e in THINGS],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    cfg = make_cfg(tmp_path)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (register(NAME, paths),)
    cfg.DATASETS.INSTANCES_JSON = ((NAME, str(file)),)
    yield cfg, file, content
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def targets(id_map, segments):
    return make_unified_targets(id_map, segments, [True, False, True, True, False])


def test_a_training_sample_has_the_boxes_and_masks_of_the_file(data):
    """The car goes on behind the person, in box and mask; the crowd is no instance."""
    cfg, _, _ = data
    records = training_records(cfg)
    mapper = PanopticDatasetMapper(True, [], make_targets=targets)
    sample = mapper(records[0])
    instances = sample["instances"]
    assert instances.gt_classes.tolist() == [1, 0]  # thing indices: person 0, car 1, bus 2
    assert instances.gt_boxes.tensor.tolist() == [[10, 20, 50, 40], [20, 10, 30, 44]]
    assert instances.gt_masks.tensor.flatten(1).sum(dim=1).tolist() == [40 * 20, 10 * 34]
    assert bool(instances.gt_masks.tensor[:, 30, 25].all())  # one pixel, two objects
    # The panoptic truth is that of the PNG, as without the file.
    cfg.DATASETS.INSTANCES_JSON = ()
    plain = mapper(training_records(cfg)[0])
    assert torch.equal(plain["panoptic_target"].boxes, sample["panoptic_target"].boxes)
    assert len(plain["instances"]) == 4  # two cars, a person and a bus


@pytest.mark.parametrize("encoded", [False, True])
def test_augmentation_moves_masks_as_it_moves_the_image(encoded):
    """Twice the size, cropped and mirrored: as the drawn mask would be."""
    mask = np.zeros((48, 64), np.uint8)
    mask[20:40, 10:50] = 1
    segmentation = mask_util.encode(np.asfortranarray(mask)) if encoded else [CAR]
    transforms = T.TransformList(
        [
            T.ResizeTransform(48, 64, 96, 128),
            T.CropTransform(60, 50, 60, 40),
            T.HFlipTransform(60),
        ]
    )
    gone = {"segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]], "category_id": 0}
    annotations = [gone, {"segmentation": segmentation, "category_id": 2}]
    instances = augmented_instances(annotations, transforms, (40, 60))
    # Rows 2 * 20 - 50 < 0 to 2 * 40 - 50 = 30; columns 60 to 2 * 50 = 100, so 0 to 40, mirrored.
    assert instances.gt_boxes.tensor.tolist() == [[20, 0, 60, 30]]
    assert instances.gt_classes.tolist() == [2]  # what the crop removed is no instance
    expected = transforms.apply_segmentation(mask).astype(bool)
    assert np.array_equal(instances.gt_masks.tensor[0].numpy(), expected)
    assert len(augmented_instances([], transforms, (40, 60))) == 0


def test_ap_is_measured_against_the_file(data, tmp_path):
    """What is perfect by the panoptic map is not by the file, and the other way round."""
    cfg, _, content = data
    given = load_instances(cfg, NAME)
    by_map = run(InstanceEvaluator(NAME), NAME, perfect_output)["segm"]["AP"]
    by_file = run(InstanceEvaluator(NAME, annotations=given), NAME, perfect_output)["segm"]["AP"]
    assert by_map == pytest.approx(100) and by_file < 50

    def as_in_the_file(record, table):
        output = perfect_output(record, table)
        found = output["instances"][:2]
        moved = training_records(cfg)[0]["annotations"]
        truth = augmented_instances(moved, T.TransformList([]), (48, 64))
        found.pred_boxes, found.pred_classes = truth.gt_boxes, truth.gt_classes
        found.pred_masks = truth.gt_masks.tensor
        return {**output, "instances": found}

    evaluator = InstanceEvaluator(NAME, tmp_path, annotations=given)
    figures = run(evaluator, NAME, as_in_the_file)
    assert figures["bbox"]["AP"] == pytest.approx(100) == figures["segm"]["AP"]
    written = json.loads((tmp_path / "instances_truth.json").read_text())
    assert len(written["annotations"]) == len(content["annotations"])


def spoil_category(content):
    content["categories"][0]["name"] = "lorry"


def spoil_image(content):
    del content["images"][1]


def spoil_box(content):
    del content["annotations"][3]["bbox"]


def spoil_kind(content):
    content["annotations"][3]["category_id"] = 4


def in_one(key, value):
    return lambda content: content["annotations"][3].update({key: value})


# What an annotation cannot have, and what is said of it; its image has 48 x 64 pixels.
SPOILT = [
    ("bbox", None, "'bbox' of None"),
    ("bbox", ["1", 2, 3, 4], "give \\[x, y, width, height\\]"),
    ("area", None, "'area' of None"),
    ("area", float("nan"), "give a number of pixels"),
    ("iscrowd", "0", "'iscrowd' of '0': give 0 or 1"),
    ("category_id", [1], "which is no thing"),
    ("image_id", "100", "'image_id' is '100', which is not in images"),
    ("image_id", [100], "which is not in images"),
    ("segmentation", None, "neither a list of polygons nor a run-length mask"),
    ("segmentation", [], "neither a list of polygons"),
    ("segmentation", [[1, 2, 3, 4, 5]], "x and y by turns"),
    ("segmentation", [[1, 2, 3, None]], "x and y by turns"),
    ("segmentation", [1, 2, 3, 4, 5, 6], "x and y by turns"),
    ("segmentation", {"size": [64, 48], "counts": "abc"}, "its image has \\[48, 64\\]"),
    ("segmentation", {"size": [48, 64], "counts": [5, 6]}, "no run lengths of its image"),
    ("segmentation", {"counts": "abc"}, "mask of size None"),
]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_category, "categories are not the things of the data set: .*lorry"),
        (spoil_image, "lacks 1 images of the panoptic data set, the first is 101"),
        (spoil_box, "annotation 4 has no 'bbox'"),
        (spoil_kind, "annotation 4 is of category 4, which is no thing"),
        (lambda content: content.pop("annotations"), "there is no list 'annotations'"),
        *((in_one(key, value), f"annotation 4:? .*{message}") for key, value, message in SPOILT),
    ],
)
def test_a_file_that_does_not_fit_is_named(data, spoil, message):
    cfg, file, content = data
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"instances.json.*{message}"):
        load_instances(cfg, NAME)


def test_polygons_of_two_corners_cover_nothing(data):
    """Files of others hold them; pycocotools would take them for boxes."""
    cfg, file, content = data
    sound, line = content["annotations"][3]["segmentation"], [0, 0, 40, 40]
    content["annotations"][3]["segmentation"] = [line, *sound]
    content["annotations"][4]["segmentation"] = [line]
    file.write_text(json.dumps(content))
    found = [a for image in load_instances(cfg, NAME).values() for a in image]
    by_id = {annotation["id"]: annotation["segmentation"] for annotation in found}
    assert by_id[4] == sound
    drawn = {"segmentation": by_id[5], "category_id": 0}
    assert len(augmented_instances([drawn], T.TransformList([]), (48, 64))) == 0


def test_places_of_the_file(data, tmp_path, monkeypatch):
    cfg, file, _ = data
    assert instances_file(cfg, NAME) == str(file) and instances_file(cfg, "other") is None
    assert load_instances(cfg, "other") is None
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg.DATASETS.INSTANCES_JSON = ((NAME, "instances.json"),)
    assert load_instances(cfg, NAME).keys() == {r["image_id"] for r in load_panoptic(NAME)}
    cfg.DATASETS.INSTANCES_JSON = ((NAME, "gone.json"),)
    with pytest.raises(FileNotFoundError, match=r"no such instances JSON: .*gone\.json"):
        load_instances(cfg, NAME)
    cfg.DATASETS.INSTANCES_JSON = (NAME, str(file))
    with pytest.raises(ValueError, match="give pairs"):
        instances_file(cfg, NAME)
    assert read_id_map(load_panoptic(NAME)[0]["pan_seg_file_name"]).shape == (48, 64)
