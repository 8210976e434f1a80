"""COPS on a grid of stride 2: from the targets through training to the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cops_factory import IS_THING, C, perfect_maps, tiny_config, tiny_model, unchecked_config
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from cops.modeling.inference import InferenceOptions, SolvedImage
from cops.modeling.solver_training import area_limits_on_grid, area_unit
from cops.targets import build_target_function, make_cops_targets
from panoptic_common.coco.quality import PanopticStatistics, match_segments

FINE = {
    C + "STRIDE": 2,
    C + "INFERENCE.STRIDE": 2,
    C + "PRETRAIN.LOSS_STRIDE": 2,
    C + "SEMANTIC.PROJECT_CHANNELS": (4, 4, 4),
    C + "AFFINITY.PROJECT_CHANNELS": (4, 4, 4),
    "MODEL.RESNETS.OUT_FEATURES": ["res1", "res2", "res3", "res5"],
}


def _truth(size: tuple[int, int]) -> tuple[np.ndarray, list[dict]]:
    """Two touching squares of 6 x 6 pixels on stuff, their sides on even pixels."""
    id_map = np.full(size, 1, np.int32)
    id_map[4:10, 6:12] = 2
    id_map[4:10, 12:18] = 3
    return id_map, [
        {"id": 1, "category_id": 0},
        {"id": 2, "category_id": 1},
        {"id": 3, "category_id": 1},
    ]


def _image(size: tuple[int, int], changes: dict) -> dict:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    targets = build_target_function(tiny_config(changes))(*_truth(size))
    return {"image": image, "height": size[0], "width": size[1], **targets}


@pytest.mark.parametrize("training", ["pretrain", "surrogate"])
@pytest.mark.parametrize("size", [(48, 64), (33, 51)])
def test_a_training_step_reaches_all_layers(training: str, size: tuple[int, int]) -> None:
    changes = {**FINE, C + "TRAINING": training}
    if training == "surrogate":
        changes |= {C + "BACKWARD.SAMPLES": 1, C + "MIX": 1.0}
    model = tiny_model(changes).train()
    image = _image(size, changes)
    assert tuple(image["cops_target"].sem_seg.shape) == (-(-size[0] // 2), -(-size[1] // 2))
    with EventStorage():
        losses = model([image, image])
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert model.backbone.stem.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("stride", [2, 1])
@pytest.mark.parametrize("size", [(48, 64), (33, 51)])
def test_the_result_has_the_size_of_the_image(stride: int, size: tuple[int, int]) -> None:
    changes = {**FINE, C + "INFERENCE.STRIDE": stride}
    model = tiny_model(changes).eval()
    with torch.no_grad():
        maps = model.predict_maps(model.preprocess([_image(size, changes)]).tensor)
        assert maps.class_logits.shape[-2:] == (-(-size[0] // 4) * 2, -(-size[1] // 4) * 2)
        output = model([_image(size, changes)])[0]
    assert tuple(output["panoptic_seg"][0].shape) == size
    assert tuple(output["sem_seg"].shape) == (5, *size)
    torch.testing.assert_close(output["sem_seg"].sum(dim=0), torch.ones(size))


def test_perfect_maps_at_stride_2_give_what_stride_4_cannot() -> None:
    """Squares of 6 pixels at 4 and 6: on cells of 2 pixels exactly, on cells of 4 never."""
    id_map, segments = _truth((24, 24))

    def quality(stride: int) -> float:
        target = make_cops_targets(id_map, segments, IS_THING, (1, 2), stride=stride)["cops_target"]
        class_logits, edge_logits = perfect_maps(target, 5)
        solved = SolvedImage(
            class_logits,
            -class_logits,
            -edge_logits,
            distances=(1, 2),
            is_thing=IS_THING,
            input_size=(24, 24),
            output_size=(24, 24),
            grid_stride=stride,
        )
        options = InferenceOptions(stride=stride, thing_area_limit=0, stuff_area_limit=0)
        found, listed = solved.panoptic(options)
        matches = match_segments(id_map, segments, found.numpy(), listed, 5)
        return (PanopticStatistics.zeros(5) + matches.statistics(5)).quality(IS_THING).all.pq

    assert quality(2) == 1.0
    assert quality(4) < 0.8


def test_area_limits_follow_the_cells() -> None:
    # 32 and 64 pixels: 8 and 16 cells of 2 x 2, 2 and 4 of 4 x 4.
    for stride, limits in ((2, (8.0, 16.0)), (4, (2.0, 4.0))):
        _, cell_area = area_unit("cell", stride)
        assert area_limits_on_grid((True, False), 32, 64, cell_area) == limits


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {C + "STRIDE": 4, C + "PRETRAIN.LOSS_STRIDE": 4},
            "MODEL.COPS.STRIDE is 4, but the finest",
        ),
        ({C + "INFERENCE.STRIDE": 4}, "options.stride is 4"),
        ({C + "PRETRAIN.LOSS_STRIDE": 4}, "loss_stride is 4"),
        ({C + "SEMANTIC.PROJECT_CHANNELS": (4, 4)}, "project_channels"),
        ({"MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res5"]}, "MODEL.COPS.STRIDE is 2"),
    ],
)
def test_strides_that_do_not_fit_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_model(unchecked_config({**FINE, **changes}))
