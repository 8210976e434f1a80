"""Optimizers: groups of parameters as Detectron2 makes them, rates by prefix, and clipping."""

from __future__ import annotations

import pytest
import torch
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups
from tiny_system import tiny_config
from torch import nn

from panoptic_common.engine.optimizer import build_optimizer, parameter_groups


class Net(nn.Module):
    """Convolution, norm layers of several kinds, and a layer that two names share."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.LayerNorm(4))
        self.shared = self.head[0]
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)


def options_by_parameter(groups) -> dict[int, tuple[float, float]]:
    return {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize(
    ("decay_norm", "decay_bias", "bias_factor"), [(0.0, None, 1.0), (0.3, 0.2, 2.0)]
)
def test_groups_are_detectron2s(decay_norm, decay_bias, bias_factor):
    model = Net()
    rules = dict(
        base_lr=0.1,
        weight_decay=0.01,
        weight_decay_norm=decay_norm,
        bias_lr_factor=bias_factor,
        weight_decay_bias=decay_bias,
    )
    theirs = reduce_param_groups(get_default_optimizer_params(model, **rules))
    ours = parameter_groups(model, **rules)
    assert options_by_parameter(ours) == options_by_parameter(theirs)
    assert len(ours) == len(theirs)


def test_learning_rate_by_prefix():
    model = Net()
    groups = parameter_groups(
        model,
        base_lr=1.0,
        weight_decay=0.5,
        weight_decay_norm=0.0,
        lr_multipliers=[("backbone.1", 0.5), ("backbone.", 0.1)],
    )
    found = options_by_parameter(groups)
    assert found[id(model.backbone[0].weight)] == (0.1, 0.5)
    assert found[id(model.backbone[1].weight)] == (0.5, 0.0)  # the first prefix that fits
    assert found[id(model.head[0].weight)] == (1.0, 0.5)
    assert id(model.frozen.weight) not in found and len(found) == 10
    with pytest.raises(ValueError, match=r"\['bakbone'\].*\['backbone', "):
        parameter_groups(model, base_lr=1.0, weight_decay=0.0, lr_multipliers=[("bakbone", 0.1)])


@pytest.mark.parametrize(
    ("clip_type", "expected"),
    [
        # Gradients (3, 4) and (12,): norms 5 and 12, together 13.
        ("value", ([2.0, 2.0], [2.0])),
        ("norm", ([3 * 2 / 5, 4 * 2 / 5], [2.0])),
        ("full_model", ([3 * 2 / 13, 4 * 2 / 13], [12 * 2 / 13])),
    ],
)
def test_gradient_clipping(tiny_root, clip_type, expected):
    cfg = tiny_config(
        tiny_root,
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip_type),
        *(
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
            2.0,
            "SOLVER.BASE_LR",
            1.0,
            "SOLVER.WEIGHT_DECAY",
            0.0,
        ),
    )
    model = nn.ParameterList([torch.zeros(2), torch.zeros(1)])
    optimizer = build_optimizer(cfg, model)
    model[0].grad, model[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    optimizer.step()
    for parameter, gradient in zip(model, expected, strict=True):
        torch.testing.assert_close(-parameter.detach(), torch.tensor(gradient))


def test_adamw_and_unknown_choices(tiny_root):
    optimizer = build_optimizer(tiny_config(tiny_root, "SOLVER.OPTIMIZER", "AdamW"), Net())
    assert isinstance(optimizer, torch.optim.AdamW)
    for key, value in [
        ("SOLVER.OPTIMIZER", "SDG"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "max"),
    ]:
        cfg = tiny_config(tiny_root, "SOLVER.CLIP_GRADIENTS.ENABLED", True, key, value)
        with pytest.raises(ValueError, match=value):
            build_optimizer(cfg, Net())
