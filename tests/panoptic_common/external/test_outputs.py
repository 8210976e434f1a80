"""Outputs of models in their own numbers, and in ours: by hand, and against Detectron2's merger."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torch import nn

from panoptic_common.external.config import add_external_config
from panoptic_common.external.numbering import Numbering
from panoptic_common.external.outputs import OutputAdapter, adapt_model, segments_of_labels
from panoptic_common.modeling.roi_align import PreciseROIAlign
from panoptic_common.modeling.semantic_map import semantic_map

IS_THING = (True, False, True, False)  # person, road, car, sky
SEPARATE, JOINT = (OutputAdapter(Numbering(style, IS_THING)) for style in ("separate", "joint"))


def detections(classes: list[int], masks: torch.Tensor | None = None) -> Instances:
    found = Instances((2, 4))
    found.pred_boxes = Boxes(torch.zeros(len(classes), 4))
    found.scores = torch.full((len(classes),), 0.9)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        found.pred_masks = masks
    return found


def test_what_detectron2s_merger_makes():
    """A car (thing 1) on the left, sky (stuff 2) on the right, road (stuff 1) nowhere."""
    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[0, :, :2] = True
    semantic = torch.tensor([[0, 0, 2, 2], [0, 2, 2, 2]])
    found = detections([1], mask)
    panoptic = combine_semantic_and_instance_outputs(found, semantic, 0.5, 1, 0.5)
    scores = nn.functional.one_hot(semantic, 3).permute(2, 0, 1).float()
    output = SEPARATE.adapt({"panoptic_seg": panoptic, "instances": found, "sem_seg": scores})
    id_map, segments = output["panoptic_seg"]
    assert id_map.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(2, True), (3, False)]
    assert panoptic[1][0]["category_id"] == 1  # the model's own list is as it was
    assert output["instances"].pred_classes.tolist() == [1]
    assert output["sem_seg_classes"] == [-1, 1, 3]
    assert semantic_map(output).tolist() == [[-1, -1, 3, 3], [-1, 3, 3, 3]]


def test_segments_without_a_pixel_are_left_out():
    """With an area limit of 0 the merger lists the road that a car covers, as segment 2."""
    semantic = torch.tensor([[1, 1, 2, 2], [0, 2, 2, 2]])
    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[0, :, :2] = True
    panoptic = combine_semantic_and_instance_outputs(detections([1], mask), semantic, 0.5, 0, 0.5)
    assert [segment["id"] for segment in panoptic[1]] == [1, 2, 3]
    id_map, segments = SEPARATE.adapt({"panoptic_seg": panoptic})["panoptic_seg"]
    assert id_map.tolist() == [[1, 1, 3, 3], [1, 1, 3, 3]]
    assert [(s["id"], s["category_id"]) for s in segments] == [(1, 2), (3, 3)]


def test_a_joint_table_needs_no_change_but_in_the_detections():
    """Classes 0 and 2 are things 0 and 1; what claims to be road is no detection."""
    segments = [{"id": 5, "category_id": 2, "isthing": True}]
    masks = torch.zeros(3, 2, 4)
    masks[0, 0, 1:3], masks[2, 1, 3] = 1.0, 1.0
    output = JOINT.adapt(
        {
            "panoptic_seg": (torch.full((2, 4), 5), segments),
            "instances": detections([2, 1, 0], masks),
            "sem_seg": torch.zeros(4, 2, 4),
        }
    )
    assert output["panoptic_seg"][1] == segments and "sem_seg_classes" not in output
    found = output["instances"]
    assert found.pred_classes.tolist() == [1, 0] and found.pred_masks.shape == (2, 2, 4)
    # The boxes were left at zero; they follow from the masks.
    assert found.pred_boxes.tensor.tolist() == [[1, 0, 3, 1], [3, 1, 4, 2]]


def test_boxes_of_a_detector_stay():
    found = detections([0], torch.ones(1, 2, 4, dtype=torch.bool))
    found.pred_boxes.tensor[0] = torch.tensor([0.5, 0.0, 3.5, 2.0])
    kept = SEPARATE.adapt({"instances": found})["instances"]
    assert kept.pred_boxes.tensor.tolist() == [[0.5, 0, 3.5, 2]]


def test_labels_become_ids_and_segments():
    """class * 1000 + instance: road, the cars 1 and 2, and void."""
    labels = torch.tensor([[1000, 2001], [2002, -1]])
    id_map, segments = JOINT.adapt({"panoptic_seg": (labels, None)})["panoptic_seg"]
    assert id_map.tolist() == [[1, 2], [3, 0]]
    assert segments == [
        {"id": 1, "category_id": 1, "isthing": False},
        {"id": 2, "category_id": 2, "isthing": True},
        {"id": 3, "category_id": 2, "isthing": True},
    ]
    id_map, segments = segments_of_labels(torch.full((2, 2), -1), IS_THING)
    assert id_map.tolist() == [[0, 0], [0, 0]] and segments == []
    with pytest.raises(ValueError, match="label 4003 is of class 4, but there are 4 classes"):
        segments_of_labels(torch.tensor([[4003]]), IS_THING)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        # Detectron2 never makes stuff of its class for all things.
        (
            {"panoptic_seg": (torch.zeros(1, 1), [{"id": 1, "category_id": 0, "isthing": False}])},
            "a segment of stuff has class 0",
        ),
        (
            {"panoptic_seg": (torch.zeros(1, 1), [{"id": 1, "category_id": 2, "isthing": True}])},
            "a segment of things has class 2",
        ),
        ({"sem_seg": torch.zeros(4, 1, 1)}, "sem_seg has 4 channels, but .* makes 3"),
        ({"instances": detections([2])}, r"classes \[2\], but there are 2"),
    ],
)
def test_a_wrong_numbering_shows(output, message):
    with pytest.raises(ValueError, match=message):
        SEPARATE.adapt(output)


class Model(nn.Module):
    """Losses in training, labels at inference."""

    def __init__(self) -> None:
        super().__init__()
        self.pooler = ROIPooler(7, (1 / 4,), 2, "ROIAlignV2")

    def forward(self, inputs: list) -> dict | list:
        if self.training:
            return {"loss": torch.zeros(())}
        return [{"panoptic_seg": (torch.tensor([[2001]]), None)} for _ in inputs]


def test_a_model_is_adapted_at_inference_alone_and_knows_its_things():
    cfg = get_cfg()
    add_external_config(cfg)
    cfg.MODEL.PANOPTIC.IS_THING = IS_THING
    cfg.MODEL.PANOPTIC.NUMBERING = "joint"
    cfg.DATASETS.TRAIN = ("never_read",)
    model = Model()
    adapt_model(model, cfg)
    adapt_model(Model(), cfg)  # the same once more finds its metadata there
    try:
        metadata = MetadataCatalog.get("never_read")
        assert list(metadata.thing_dataset_id_to_contiguous_id.values()) == [0, 2]
        assert metadata.label_divisor == 1000
    finally:
        MetadataCatalog.pop("never_read")
    assert type(model.pooler.level_poolers[0]) is PreciseROIAlign
    assert model([None])["loss"] == 0
    model.eval()
    assert model([None])[0]["panoptic_seg"][1][0]["category_id"] == 2
