"""From logits to costs, by hand."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg

from cops.config import add_cops_config
from cops.modeling.cost_scale import CostScale


def scale_of(*edges: tuple[float, float], classes: tuple[float, float] = (1.0, 0.0)) -> CostScale:
    """With these (scale, offset) of each distance and of the classes."""
    scale = CostScale(num_distances=len(edges))
    scale.class_scale.data[:], scale.class_offset.data[:] = classes
    scale.edge_scale.data, scale.edge_offset.data = torch.tensor(edges).T.clone()
    return scale


def test_costs_start_as_minus_the_logits():
    scale = CostScale(num_distances=2)
    assert len(list(scale.parameters())) == 4
    classes, edges = torch.randn(2, 5, 3, 4), torch.randn(2, 4, 3, 4)
    torch.testing.assert_close(scale.class_costs(classes), -classes, rtol=0, atol=0)
    torch.testing.assert_close(scale.edge_costs(edges), -edges, rtol=0, atol=0)


def test_class_costs_by_hand():
    scale = scale_of((1.0, 0.0), classes=(3.0, 0.5))
    logits = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    # -(3 * 2 + 0.5) = -6.5 and -(3 * -1 + 0.5) = 2.5
    assert scale.class_costs(logits).flatten().tolist() == [-6.5, 2.5]


def test_both_directions_of_a_distance_share_its_numbers_and_scales_count_without_sign():
    scale = scale_of((2.0, 1.0), (-0.5, 0.0))
    logits = torch.tensor([3.0, -4.0, 6.0, -8.0]).view(1, 4, 1, 1)
    # -(2 * 3 + 1) = -7, -(2 * -4 + 1) = 7, -(0.5 * 6) = -3, -(0.5 * -8) = 4
    assert scale.edge_costs(logits).flatten().tolist() == [-7.0, 7.0, -3.0, 4.0]


def test_a_logit_for_a_cut_makes_cutting_pay_whatever_the_sign_of_the_scale():
    for value in (2.0, -2.0):
        assert scale_of((value, 0.0)).edge_costs(torch.ones(1, 2, 1, 1)).max() < 0


def test_gradcheck():
    scale = scale_of((2.0, 1.0), (-0.5, 0.3), classes=(1.5, -0.2)).double()
    classes = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    edges = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(scale.parameters())

    def costs(classes, edges, *parameters):
        return scale.class_costs(classes), scale.edge_costs(edges)

    assert torch.autograd.gradcheck(costs, (classes, edges, *parameters))


@pytest.mark.parametrize(
    "dtype, expected",
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_costs_are_at_least_in_single_precision(dtype, expected):
    scale = CostScale(num_distances=1)
    assert scale.class_costs(torch.ones(1, 3, 2, 2, dtype=dtype)).dtype == expected
    assert scale.edge_costs(torch.ones(1, 2, 2, 2, dtype=dtype)).dtype == expected


def test_maps_of_another_number_of_distances_are_refused():
    with pytest.raises(ValueError, match="6 maps of edge logits for 2 distances"):
        CostScale(num_distances=2).edge_costs(torch.zeros(1, 6, 2, 2))


def test_config():
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.MODEL.COPS.DISTANCES = (1, 4, 16)
    assert CostScale(cfg).edge_scale.numel() == 3
