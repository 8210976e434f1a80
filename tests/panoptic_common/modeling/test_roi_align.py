"""ROIAlign by embedding bags against torchvision's, and where boxes lie in bfloat16."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import nn
from torchvision.ops import roi_align

from panoptic_common.modeling import roi_align as module
from panoptic_common.modeling.roi_align import PreciseROIAlign, use_precise_roi_align


def make_boxes(number: int, width: float, height: float, images: int) -> torch.Tensor:
    """Boxes of all sizes, some beyond the image, some without any area, some turned around."""
    generator = torch.Generator().manual_seed(number)
    centres = torch.rand(number, 2, generator=generator) * 1.4 - 0.2
    centres *= torch.tensor([width, height])
    sides = torch.rand(number, 2, generator=generator) ** 3 * 1.5 * max(width, height)
    sides[::7] = 0
    sides[1::11] *= -1
    index = torch.arange(number)[:, None] % images
    return torch.cat([index, centres - sides / 2, centres + sides / 2], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(
    ("output_size", "sampling_ratio", "scale", "size"),
    [((7, 7), 2, 0.25, (24, 48)), ((5, 3), 1, 0.5, (1, 9)), ((14, 14), 3, 1.0, (17, 6))],
)
def test_values_and_gradients_are_torchvisions(aligned, output_size, sampling_ratio, scale, size):
    torch.manual_seed(0)
    features = torch.randn(3, 4, *size, requires_grad=True)
    boxes = make_boxes(120, size[1] / scale, size[0] / scale, 3)
    # Images without any box, too.
    boxes = boxes[boxes[:, 0] != 1]
    settings = (output_size, scale, sampling_ratio, aligned)
    expected = roi_align(features, boxes, *settings)
    pooled = PreciseROIAlign(*settings)(features, boxes)
    torch.testing.assert_close(pooled, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, features, weights)[0] for y in (pooled, expected)]
    torch.testing.assert_close(*gradients, atol=5e-4, rtol=1e-4)
    assert not gradients[0][1].any() and gradients[0][0].any()


def test_bags_are_for_learning_on_a_cpu_with_a_fixed_number_of_samples(monkeypatch):
    calls = []
    bags = module._pool_by_bags
    monkeypatch.setattr(module, "_pool_by_bags", lambda *a: calls.append(1) or bags(*a))
    boxes = make_boxes(5, 8, 8, 1)
    fixed, free = PreciseROIAlign((2, 2), 1.0, 2), PreciseROIAlign((2, 2), 1.0, 0)
    features = torch.randn(1, 3, 8, 8)
    for layer, learns, expected in ((fixed, True, 1), (fixed, False, 0), (free, True, 0)):
        calls.clear()
        pooled = layer(features.clone().requires_grad_(learns), boxes)
        assert len(calls) == expected and pooled.requires_grad is learns
        ratio = layer.sampling_ratio
        torch.testing.assert_close(pooled, roi_align(features, boxes, (2, 2), 1.0, ratio, True))
    with torch.no_grad():
        calls.clear()
        fixed(features.clone().requires_grad_(), boxes)
    assert not calls


def test_no_box_keeps_the_graph():
    features = torch.randn(2, 3, 8, 8, requires_grad=True)
    pooled = PreciseROIAlign((7, 5), 0.25, 2)(features, torch.zeros(0, 5))
    assert pooled.shape == (0, 3, 7, 5)
    pooled.sum().backward()
    assert not features.grad.any()


def test_boxes_that_are_no_numbers_pool_nothing():
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    boxes = torch.tensor(
        [[0.0, 0, 0, 4, 4], [0, 0, float("nan"), 4, 4], [0, 0, 0, 4, float("inf")]]
    )
    pooled = PreciseROIAlign((2, 2), 1.0, 1)(features, boxes)
    assert pooled.sum(dim=(1, 2, 3)).tolist() == [4, 0, 0]


@pytest.mark.parametrize("learns", [True, False])
def test_boxes_keep_their_place_in_bfloat16(learns):
    """At 1000 pixels a bfloat16 has steps of 4; Detectron2's layer rounds the box to them."""
    ramp = torch.arange(300.0).expand(1, 1, 4, 300) / 300
    boxes = torch.tensor([[0, 1001.0, 2.0, 1007.0, 10.0]])
    settings = ((1, 1), 0.25, 2, True)
    exact = roi_align(ramp, boxes, *settings)
    features = ramp.bfloat16().requires_grad_(learns)
    with torch.autocast("cpu", torch.bfloat16):
        ours = PreciseROIAlign(*settings)(features, boxes)
        theirs = ROIAlign(*settings)(features, boxes)
    assert ours.dtype == torch.bfloat16
    # A step of the features at 0.84 is 0.0039, a pixel 0.0008.
    assert (ours.float() - exact).abs().item() <= 0.002
    rounded = torch.cat([boxes[:, :1], boxes[:, 1:].bfloat16().float()], dim=1)
    assert (rounded - boxes).abs().max() >= 1
    torch.testing.assert_close(
        theirs.float(), roi_align(ramp, rounded, *settings), atol=0.002, rtol=0
    )


def test_only_detectron2s_own_layer_is_replaced():
    class Other(ROIAlign):
        """A layer of somebody else's."""

    model = nn.Sequential(
        ROIPooler((7, 7), (1 / 4, 1 / 8), 2, "ROIAlignV2"),
        ROIPooler(14, (1 / 4,), 0, "ROIAlign"),
        ROIPooler(7, (1 / 4,), 0, "ROIPool"),
        ROIPooler(7, (1 / 4,), 2, "ROIAlignV2"),
    )
    model[3].level_poolers[0] = Other((7, 7), 1 / 4, 2)
    features = [torch.randn(1, 3, 32, 32), torch.randn(1, 3, 16, 16)]
    before = [list(pooler.level_poolers) for pooler in model]
    use_precise_roi_align(model)
    use_precise_roi_align(model)  # a second time changes nothing
    for pooler in model[:2]:
        assert all(type(layer) is PreciseROIAlign for layer in pooler.level_poolers)
    boxes = make_boxes(9, 128, 128, 1)
    for pooler, layers in zip(model[:2], before, strict=False):
        for level, old, new in zip(features, layers, pooler.level_poolers, strict=False):
            torch.testing.assert_close(new(level, boxes), old(level, boxes))
            assert f"sampling_ratio={old.sampling_ratio}" in repr(new)
    assert [list(pooler.level_poolers) for pooler in model[2:]] == before[2:]
