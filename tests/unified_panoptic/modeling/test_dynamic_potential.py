"""Dynamic potential: hand-worked Eq. 1 and 2, and pasting against Detectron2's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers.mask_ops import _do_paste_mask
from model_factory import assert_gradient_of_multilinear
from placing import placed

from unified_panoptic.modeling.dynamic_potential import (
    DynamicPotential,
    PotentialPainter,
    dynamic_potential,
    inside_boxes,
    paste_mask_crops,
    paste_masks,
)

# A grid of 2 x 4 cells, classes 0 and 2 stuff, class 1 a thing.
V = torch.tensor(
    [
        [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.1, 0.2]],
        [[0.8, 0.5, 0.4, 0.2], [0.1, 0.2, 0.6, 0.8]],
        [[0.1, 0.3, 0.3, 0.4], [0.4, 0.2, 0.3, 0.0]],
    ]
)
# The box covers columns 1 and 2 exactly, so the 2 x 2 mask lands on its cells unchanged.
BOX = torch.tensor([[1.0, 0.0, 3.0, 2.0]])
MASK = torch.tensor([[[1.0, 0.5], [0.0, 0.25]]])
SCORE = torch.tensor([0.5])
CLASS = torch.tensor([1])


@pytest.mark.parametrize(
    "variant,masks,expected",
    [
        # V + M: .5 + 1, .4 + .5 / .2 + 0, .6 + .25
        ("A", True, [[0, 1.5, 0.9, 0], [0, 0.2, 0.85, 0]]),
        # .5 V M: .5 * .5 * 1, .5 * .4 * .5 / .5 * .2 * 0, .5 * .6 * .25
        ("B", True, [[0, 0.25, 0.1, 0], [0, 0, 0.075, 0]]),
        # .5 (V + M)
        ("C", True, [[0, 0.75, 0.45, 0], [0, 0.1, 0.425, 0]]),
        # V, without the score
        ("A", False, [[0, 0.5, 0.4, 0], [0, 0.2, 0.6, 0]]),
        # .5 V (Eq. 1)
        ("B", False, [[0, 0.25, 0.2, 0], [0, 0.1, 0.3, 0]]),
        ("C", False, [[0, 0.25, 0.2, 0], [0, 0.1, 0.3, 0]]),
    ],
)
def test_hand_worked_equations(variant, masks, expected, device):
    v, box, label, score, mask = placed(device, V, BOX, CLASS, SCORE, MASK)
    psi = dynamic_potential(v, box, label, score, mask if masks else None, [0, 2], variant)
    assert psi.device.type == device
    psi = psi.cpu()
    assert tuple(psi.shape) == (3, 2, 4)
    torch.testing.assert_close(psi[0], torch.tensor(expected))
    # Stuff: a box of the whole image, score 1, no mask, in all variants.
    torch.testing.assert_close(psi[1], V[0])
    torch.testing.assert_close(psi[2], V[2])


def random_case(seed: int = 0, detections: int = 6, side: int = 5):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(detections, 2, generator=generator) * 24 - 6
    boxes = torch.cat(
        [corner, corner + 0.5 + torch.rand(detections, 2, generator=generator) * 16], 1
    )
    masks = torch.rand(detections, side, side, generator=generator)
    semantic = torch.rand(4, 14, 18, generator=generator)
    classes = torch.randint(0, 4, (detections,), generator=generator)
    scores = torch.rand(detections, generator=generator)
    return semantic, boxes, classes, scores, masks


@pytest.mark.parametrize("variant", ["A", "B", "C"])
@pytest.mark.parametrize("use_masks", [True, False])
def test_equals_one_pixel_at_a_time(variant, use_masks, device):
    semantic, boxes, classes, scores, masks = placed(device, *random_case())
    pasted = paste_masks(masks, boxes, 14, 18)
    psi = dynamic_potential(
        semantic, boxes, classes, scores, masks if use_masks else None, [3, 1], variant
    )
    for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for y in range(14):
            for x in range(18):
                value = 0.0
                if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1:
                    v, m, s = (
                        float(t) for t in (semantic[classes[k], y, x], pasted[k, y, x], scores[k])
                    )
                    if not use_masks:
                        value = v if variant == "A" else s * v
                    else:
                        value = {"A": v + m, "B": s * v * m, "C": s * (v + m)}[variant]
                assert float(psi[k, y, x]) == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(psi[6:], semantic[[3, 1]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("side", [1, 2, 5, 28])
def test_paste_equals_detectron2s_inside_the_box(seed, side, device):
    _, boxes, _, _, masks = placed(device, *random_case(seed, 8, side))
    expected, _ = _do_paste_mask(masks[:, None], boxes, 14, 18, skip_empty=False)
    inside = inside_boxes(boxes, 14, 18)
    torch.testing.assert_close(paste_masks(masks, boxes, 14, 18), expected * inside)
    # Detectron2 lets values fade out beyond the box; Eq. 2 asks for zero there.
    assert (expected * ~inside).abs().sum() > 0


def test_paste_equals_grid_sample():
    _, boxes, _, _, masks = random_case(1)
    y, x = torch.arange(14.0) + 0.5, torch.arange(18.0) + 0.5
    for mask, box in zip(masks, boxes, strict=True):
        grid_x = (x - box[0]) / (box[2] - box[0]) * 2 - 1
        grid_y = (y - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(grid_x[None, :], grid_y[:, None]), dim=-1)
        sampled = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        inside = (grid_x.abs() < 1)[None, :] & (grid_y.abs() < 1)[:, None]
        found = paste_masks(mask[None], box[None], 14, 18)[0]
        torch.testing.assert_close(found, sampled * inside)


def test_a_box_of_as_many_cells_as_samples_reproduces_the_mask():
    mask = torch.rand(1, 5, 5)
    pasted = paste_masks(mask, torch.tensor([[3.0, 2.0, 8.0, 7.0]]), 10, 12)
    torch.testing.assert_close(pasted[0, 2:7, 3:8], mask[0])
    torch.testing.assert_close(pasted.sum(), mask.sum())


def test_a_strip_of_the_grid_is_the_same_as_the_whole():
    _, boxes, _, _, masks = random_case(2)
    whole = paste_masks(masks, boxes, 14, 18)
    strip = paste_masks(masks, boxes - torch.tensor([0.0, 5.0, 0.0, 5.0]), 4, 18)
    torch.testing.assert_close(strip, whole[:, 5:9])


def test_inside_is_half_open_at_cell_centres():
    # Centres lie at 0.5, 1.5, ...: an edge on a centre includes it on the near side only.
    boxes = torch.tensor([[0.5, 0.0, 2.5, 1.0]])
    assert inside_boxes(boxes, 1, 4)[0, 0].tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "box",
    [
        [50.0, 50.0, 60.0, 60.0],  # outside
        [4.0, 4.0, 4.0, 9.0],  # no width
        [4.6, 4.6, 5.4, 5.4],  # between the centres
        [-20.0, -20.0, -10.0, -10.0],
    ],
)
@pytest.mark.parametrize("variant", ["A", "B", "C"])
def test_a_box_without_a_cell_gives_a_zero_channel(box, variant):
    semantic, _, classes, scores, masks = random_case()
    psi = dynamic_potential(
        semantic, torch.tensor([box]), classes[:1], scores[:1], masks[:1], [0], variant
    )
    assert psi[0].abs().sum() == 0
    assert torch.isfinite(psi).all()


def test_without_detections_only_stuff_is_left(device):
    semantic, none = placed(device, random_case()[0], torch.zeros(0))
    label = none.to(torch.int64)
    for masks in (None, none.view(0, 1, 1), none.view(0, 28, 28)):
        psi = dynamic_potential(semantic, none.view(0, 4), label, none, masks, [2, 0], "B")
        torch.testing.assert_close(psi, semantic[[2, 0]])
    assert paste_masks(none.view(0, 28, 28), none.view(0, 4), 3, 5).shape == (0, 3, 5)


@pytest.mark.parametrize("variant", ["A", "B", "C"])
@pytest.mark.parametrize("use_masks", [True, False])
def test_gradients_reach_semantic_scores_and_masks(variant, use_masks):
    semantic, boxes, classes, scores, masks = random_case(3, detections=3, side=3)
    semantic, boxes = semantic[:, ::4, ::4].clone(), boxes / 4
    boxes[0] = torch.tensor([0.3, 0.2, 4.1, 3.7])  # surely on the grid

    def psi(v, s=scores, m=None):
        return dynamic_potential(v, boxes, classes, s, m, [0, 1], variant)

    if variant == "A":  # without the score
        inputs = {"v": semantic, "m": masks} if use_masks else {"v": semantic}
        assert_gradient_of_multilinear(
            lambda *x: psi(**dict(zip(inputs, x, strict=True))), *inputs.values()
        )
    else:
        inputs = (semantic, scores, masks) if use_masks else (semantic, scores)
        assert_gradient_of_multilinear(psi, *inputs)


@pytest.mark.parametrize("variant", ["A", "B", "C"])
@pytest.mark.parametrize("use_masks", [True, False])
@pytest.mark.parametrize("detections", [0, 1, 9])
@pytest.mark.parametrize("rows", [1, 3, 14])
def test_painted_strips_equal_the_potential(variant, use_masks, detections, rows, device):
    semantic, boxes, classes, scores, masks = placed(device, *random_case(4, detections))
    boxes[::2] = (boxes[::2] * 2).round() / 2  # edges exactly on centres and between cells
    masks = masks if use_masks else None
    potential = DynamicPotential(stuff_ids=[3, 1], variant=variant)
    painter = PotentialPainter(potential, boxes, classes, scores, masks, (14, 18))
    start = placed(device, torch.randn(detections + 2, 14, 18))
    maps = start.clone()
    for first in range(0, 14, rows):
        strip = slice(first, min(first + rows, 14))
        painter.paint(maps[:, strip], semantic[:, strip], first)
    expected = start + potential(semantic, boxes, classes, scores, masks)
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("variant", ["A", "B", "C"])
def test_painting_leaves_the_probabilities_as_they_are(variant):
    semantic, boxes, classes, scores, masks = random_case(4)
    before = semantic.clone()
    potential = DynamicPotential(stuff_ids=[3, 1], variant=variant)
    painter = PotentialPainter(potential, boxes, classes, scores, masks, (14, 18))
    painter.paint(torch.zeros(8, 14, 18), semantic, 0)
    assert torch.equal(semantic, before)


def test_module_binds_stuff_and_variant():
    case = random_case()
    module = DynamicPotential(stuff_ids=[0, 1], variant="B")
    assert torch.equal(module(*case), dynamic_potential(*case, [0, 1], "B"))
    assert not torch.allclose(module(*case[:4], None), module(*case))


def test_masks_are_pasted_in_single_precision_under_autocast():
    case = random_case()
    expected = dynamic_potential(*case, [0, 1], "C")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.mm(torch.eye(2), torch.eye(2)).dtype == torch.bfloat16  # autocast is on
        found = dynamic_potential(*case, [0, 1], "C")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dynamic_potential(*random_case(), [0], "D"),
        lambda: DynamicPotential(stuff_ids=[0], variant="D"),
    ],
)
def test_unknown_variant_is_an_error(make):
    with pytest.raises(ValueError, match="'D'.*use"):
        make()


def test_pasted_crops_are_the_pasted_maps_in_their_boxes(device):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 7, 7, generator=generator)
    boxes = torch.tensor(
        [
            [1.2, 0.3, 6.9, 5.5],
            [-3.0, -2.0, 4.0, 30.0],  # beyond three edges
            [2.6, 2.6, 2.9, 2.9],  # between centres: no cell
            [40.0, 1.0, 50.0, 3.0],  # beside the grid
            [0.0, 0.0, 12.0, 9.0],
        ]
    )
    masks, boxes = placed(device, masks, boxes)
    pasted = paste_masks(masks, boxes, 9, 12)
    rebuilt = torch.zeros_like(pasted)
    for whole, (place, values) in zip(rebuilt, paste_mask_crops(masks, boxes, 9, 12), strict=True):
        whole[place] = values
    torch.testing.assert_close(rebuilt, pasted)
    assert (pasted[2:4] == 0).all() and (pasted[4] > 0).any()
