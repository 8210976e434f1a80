"""Detections predicted in training against those that Detectron2's inference returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from model_factory import IS_THING, lively_model, make_image, unchecked_config
from placing import placed

from unified_panoptic.losses.lovasz import lovasz_hinge
from unified_panoptic.modeling.roi_heads import (
    Detections,
    UnifiedROIHeads,
    hinge_probability,
)
from unified_panoptic.targets import make_unified_targets

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
SIZE = (64, 96)
THRESHOLDS = {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.1,
    "MODEL.UNIFIED.DETECTION.TRAIN_SCORE_THRESH": 0.1,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.6,
    "TEST.DETECTIONS_PER_IMAGE": 30,
    "MODEL.UNIFIED.DETECTION.TRAIN_TOPK": 30,
}


def make_heads(changes: dict | None = None) -> UnifiedROIHeads:
    torch.manual_seed(0)
    shapes = {name: ShapeSpec(channels=16, stride=stride) for name, stride in STRIDES.items()}
    heads = UnifiedROIHeads(unchecked_config({**THRESHOLDS, **(changes or {})}), shapes)
    # Detectron2 starts its predictors near zero; a trained network's scores and masks differ.
    torch.nn.init.normal_(heads.box_predictor.cls_score.weight, std=0.7)
    torch.nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.5)
    if heads.mask_on:
        torch.nn.init.normal_(heads.mask_head.predictor.weight, std=1.0)
    return heads


def make_features(images: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(images, 16, SIZE[0] // s, SIZE[1] // s, generator=generator)
        for name, s in STRIDES.items()
    }


def make_proposals(*counts: int) -> list[Instances]:
    generator = torch.Generator().manual_seed(2)
    proposals = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 40.0])
        extent = 4 + torch.rand(count, 2, generator=generator) * 30
        image = Instances(SIZE)
        image.proposal_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
        image.objectness_logits = torch.zeros(count)
        proposals.append(image)
    return proposals


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True},
        {"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True},
        {"MODEL.ROI_MASK_HEAD.NAME": "LovaszMaskHead"},
        {"MODEL.MASK_ON": False},
    ],
    ids=["default", "one box", "one mask", "lovasz", "no masks"],
)
def test_predictions_in_training_are_detectron2s_at_inference(changes, device):
    heads, features = make_heads(changes).to(device), placed(device, make_features())
    with torch.no_grad():
        expected, _ = heads.eval()(None, features, placed(device, make_proposals(40, 25)))
    found = heads.train().predict_detections(features, placed(device, make_proposals(40, 25)))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 10
        torch.testing.assert_close(ours.boxes, theirs.pred_boxes.tensor)
        assert ours.classes.tolist() == theirs.pred_classes.tolist()
        torch.testing.assert_close(ours.scores.detach(), theirs.scores)
        if heads.mask_on:
            torch.testing.assert_close(ours.masks.detach(), theirs.pred_masks[:, 0])
        else:
            assert ours.masks is None


def test_the_best_proposals_alone_may_be_looked_at():
    features, proposals = make_features(), make_proposals(40, 25)
    heads = make_heads({"MODEL.UNIFIED.DETECTION.TRAIN_PROPOSALS": 30})
    found = heads.predict_detections(features, proposals)
    expected = make_heads().predict_detections(features, [proposals[0][:30], proposals[1]])
    for got, wanted in zip(found, expected, strict=True):
        assert len(got) > 3
        for name in ("boxes", "classes", "scores", "masks"):
            torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=0, atol=0)
    everything = make_heads().predict_detections(features, proposals)
    assert not torch.equal(everything[0].boxes, found[0].boxes)


def test_a_negative_number_of_proposals_is_refused():
    with pytest.raises(ValueError, match="train_proposals is -1: use 0 for all, or more"):
        make_heads({"MODEL.UNIFIED.DETECTION.TRAIN_PROPOSALS": -1})


def test_the_rpn_gives_its_proposals_best_first():
    # What TRAIN_PROPOSALS relies on.
    model = lively_model().train()
    images = model.preprocess([make_image(0), make_image(1)])
    with EventStorage():
        truth = [make_image(index)["instances"] for index in (0, 1)]
        proposals, _ = model.proposal_generator(images, model.backbone(images.tensor), truth)
    for found in proposals:
        scores = found.objectness_logits
        assert len(scores) > 20
        assert (scores[:-1] >= scores[1:]).all()


def test_gradients_of_the_survivors_are_those_of_a_full_pass():
    heads = make_heads({"MODEL.MASK_ON": False}).train()
    features = {name: level.requires_grad_() for name, level in make_features().items()}
    proposals = make_proposals(40, 25)
    leaves = [*features.values(), *heads.box_head.parameters()]
    leaves += heads.box_predictor.cls_score.parameters()

    found = heads.predict_detections(features, proposals)
    weights = [torch.randn(len(d)) for d in found]
    total = sum((d.scores * w).sum() for d, w in zip(found, weights, strict=True))
    ours = torch.autograd.grad(total, leaves)

    pooled = heads.box_pooler(list(features.values()), [p.proposal_boxes for p in proposals])
    outputs = heads.box_predictor(heads.box_head(pooled))
    scores = heads.box_predictor.predict_probs(outputs, proposals)
    boxes = [box.detach() for box in heads.box_predictor.predict_boxes(outputs, proposals)]
    instances, index = fast_rcnn_inference(
        boxes, [s.detach() for s in scores], [SIZE, SIZE], 0.1, 0.6, 30
    )
    total = sum(
        (s[i, kept.pred_classes] * w).sum()
        for s, i, kept, w in zip(scores, index, instances, weights, strict=True)
    )
    theirs = torch.autograd.grad(total, leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    # Boxes this small are all pooled from P2; the box head and the classifier follow the levels.
    assert all(gradient.abs().sum() > 0 for gradient in (theirs[0], *theirs[len(features) :]))


def test_scores_and_masks_carry_gradients_and_boxes_do_not():
    heads, features = make_heads().train(), make_features()
    features = {name: level.requires_grad_() for name, level in features.items()}
    found = heads.predict_detections(features, make_proposals(20, 20))
    assert not any(d.boxes.requires_grad for d in found)
    sum(d.scores.sum() + d.masks.sum() for d in found).backward()
    reached = {name for name, p in heads.named_parameters() if p.grad is not None}
    assert {name for name, _ in heads.named_parameters()} - reached == {
        "box_predictor.bbox_pred.weight",
        "box_predictor.bbox_pred.bias",
    }
    assert features["p2"].grad.abs().sum() > 0  # boxes this small are pooled from P2


@pytest.mark.parametrize("counts", [(0, 0), (20, 0), (0, 20)])
@pytest.mark.parametrize("masks", [True, False])
def test_images_without_proposals(counts, masks):
    heads = make_heads({"MODEL.MASK_ON": masks}).train()
    found = heads.predict_detections(make_features(), make_proposals(*counts))
    for count, detections in zip(counts, found, strict=True):
        assert (len(detections) > 0) == (count > 0)
        assert detections.boxes.shape == (len(detections), 4)
        assert detections.classes.dtype == torch.int64
        assert len(detections.scores) == len(detections)
        assert (detections.masks is None) != masks


def test_nothing_above_the_threshold():
    heads = make_heads({"MODEL.UNIFIED.DETECTION.TRAIN_SCORE_THRESH": 1.0}).train()
    found = heads.predict_detections(make_features(), make_proposals(10, 10))
    assert [len(detections) for detections in found] == [0, 0]


def test_a_broken_row_does_not_shift_the_others():
    heads, features = make_heads({"MODEL.MASK_ON": False}).train(), make_features(1)
    proposals = make_proposals(20)
    expected = heads.predict_detections(features, [proposals[0][1:]])[0]
    broken = Boxes(proposals[0].proposal_boxes.tensor.clone())
    broken.tensor[0] = float("nan")
    proposals[0].proposal_boxes = broken
    found = heads.predict_detections(features, proposals)[0]
    healthy = torch.isin(found.scores, expected.scores)
    assert healthy.sum() == len(expected)
    torch.testing.assert_close(found.boxes[healthy], expected.boxes)


def test_more_than_300_detections():
    heads = make_heads(
        {
            "MODEL.UNIFIED.DETECTION.TRAIN_SCORE_THRESH": 0.0,
            "MODEL.ROI_HEADS.NMS_THRESH_TEST": 1.0,
            "MODEL.UNIFIED.DETECTION.TRAIN_TOPK": 400,
        }
    ).train()
    found = heads.predict_detections(make_features(), make_proposals(250, 180))
    assert [len(detections) for detections in found] == [400, 360]  # 2 classes a proposal
    assert found[0].masks.shape[0] == 400


def test_masks_of_given_boxes_are_those_of_their_class():
    heads, features = make_heads(), make_features(1)
    boxes = make_proposals(4)[0].proposal_boxes.tensor
    first = heads.predict_masks(features, [boxes], [torch.zeros(4, dtype=torch.int64)])[0]
    second = heads.predict_masks(features, [boxes], [torch.ones(4, dtype=torch.int64)])[0]
    mixed = heads.predict_masks(features, [boxes], [torch.tensor([0, 1, 1, 0])])[0]
    torch.testing.assert_close(mixed, torch.stack([first[0], second[1], second[2], first[3]]))
    assert not torch.allclose(first, second)


def test_indexing_keeps_the_parts_together():
    detections = Detections(
        torch.arange(12.0).view(3, 4), torch.arange(3), torch.rand(3), torch.rand(3, 2, 2)
    )
    chosen = detections[torch.tensor([2, 0])]
    assert len(chosen) == 2
    assert chosen.classes.tolist() == [2, 0]
    assert torch.equal(chosen.boxes, detections.boxes[[2, 0]])
    assert torch.equal(chosen.masks, detections.masks[[2, 0]])
    assert (
        Detections(detections.boxes, detections.classes, detections.scores, None)[
            torch.tensor([1])
        ].masks
        is None
    )


@pytest.mark.parametrize("agnostic", [False, True])
def test_lovasz_mask_loss_by_hand(agnostic):
    head = make_heads(
        {
            "MODEL.ROI_MASK_HEAD.NAME": "LovaszMaskHead",
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": agnostic,
        }
    ).mask_head.train()
    pooled = torch.randn(3, 16, 7, 7, requires_grad=True)
    logits = head.layers(pooled)  # (3, 2 or 1, 14, 14)
    instances, truth, classes = [], [], [1, 0, 1]
    for count, start in ((2, 0), (0, 2), (1, 2)):
        image = Instances((20, 20))
        masks = torch.rand(count, 20, 20) > 0.5
        # Boxes of 14 x 14 pixels: cropped and resized to 14 x 14 they are those pixels.
        image.proposal_boxes = Boxes(torch.tensor([[3.0, 5.0, 17.0, 19.0]]).repeat(count, 1))
        image.gt_masks = BitMasks(masks)
        image.gt_classes = torch.tensor(classes[start : start + count], dtype=torch.int64)
        instances.append(image)
        truth += [mask[5:19, 3:17] for mask in masks]
    chosen = [logits[row, 0 if agnostic else label] for row, label in enumerate(classes)]
    expected = sum(
        lovasz_hinge(z[None], y[None]) for z, y in zip(chosen, truth, strict=True)
    ) / len(truth)
    with EventStorage():
        loss = head(pooled, instances)["loss_mask"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert pooled.grad.abs().sum() > 0


def test_lovasz_mask_loss_of_no_region_is_zero_with_a_graph():
    head = make_heads({"MODEL.ROI_MASK_HEAD.NAME": "LovaszMaskHead"}).mask_head.train()
    loss = head(torch.zeros(0, 16, 7, 7), [])["loss_mask"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None for p in head.parameters())


def test_a_proposal_on_a_crowd_is_background():
    """As in Detectron2, whose loader drops crowds: docs/choices.md says so of our box losses.

    One proposal lies on a thing, one on a crowd of the same class, one on stuff.
    """
    id_map = np.full(SIZE, 7, np.int32)
    id_map[8:40, 8:40], id_map[8:40, 56:88] = 1, 2
    segments = [
        {"id": 1, "category_id": 1, "iscrowd": 0},
        {"id": 2, "category_id": 1, "iscrowd": 1},
        {"id": 7, "category_id": 0, "iscrowd": 0},
    ]
    truth = make_unified_targets(id_map, segments, IS_THING)["instances"]
    image = Instances(SIZE)
    image.proposal_boxes = Boxes(torch.tensor([[8.0, 8, 40, 40], [56, 8, 88, 40], [0, 42, 40, 62]]))
    image.objectness_logits = torch.zeros(3)
    heads = make_heads({"MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False})
    with EventStorage():
        labelled = heads.label_and_sample_proposals([image], [truth])[0]
    background = heads.num_classes
    found = {
        int(box[0]): int(label)
        for box, label in zip(
            labelled.proposal_boxes.tensor.tolist(), labelled.gt_classes.tolist(), strict=True
        )
    }
    assert found == {8: 0, 56: background, 0: background}


def test_hinge_probabilities_by_hand():
    """The Lovasz hinge asks no more of z = 1 for 1 and z = -1 for 0; in between it is a line."""
    z = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert hinge_probability(z).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    # Turned back from Detectron2's sigmoids, saturated ones too.
    far = torch.tensor([-200.0, 200.0])
    assert hinge_probability(far.sigmoid().logit()).tolist() == [0, 1]
    torch.testing.assert_close(hinge_probability(z.sigmoid().logit()), hinge_probability(z))


@pytest.mark.parametrize("name", ["LovaszMaskHead", "MaskRCNNConvUpsampleHead"])
def test_hinge_masks_are_the_same_in_training_and_at_inference(name):
    """And they follow from the sigmoids of the same network; other names are refused."""
    key = "MODEL.UNIFIED.DETECTION.MASK_PROBABILITY"
    changes = {"MODEL.ROI_MASK_HEAD.NAME": name}
    plain, hinge = (make_heads({**changes, key: value}).eval() for value in ("sigmoid", "hinge"))
    hinge.load_state_dict(plain.state_dict())
    features, proposals = make_features(), make_proposals(5, 3)
    given = []
    for image in proposals:
        instances = Instances(SIZE)
        instances.pred_boxes = image.proposal_boxes
        instances.pred_classes = torch.zeros(len(image), dtype=torch.int64)
        given.append(instances)
    with torch.no_grad():
        found, plainly = (
            h.forward_with_given_boxes(features, [Instances(SIZE, **i.get_fields()) for i in given])
            for h in (hinge, plain)
        )
        boxes = [i.pred_boxes.tensor for i in given]
        trained = hinge.predict_masks(features, boxes, [i.pred_classes for i in given])
    for one, other, third in zip(found, plainly, trained, strict=True):
        torch.testing.assert_close(one.pred_masks[:, 0], third, atol=1e-5, rtol=1e-4)
        expected = hinge_probability(other.pred_masks.logit())
        torch.testing.assert_close(one.pred_masks, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(one.pred_masks, other.pred_masks, atol=0.05)
    with pytest.raises(ValueError, match="mask_probability is 'tanh'"):
        make_heads({key: "tanh"})
