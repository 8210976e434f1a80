"""The backbone against Detectron2's own, and squeeze-and-excitation against its formula."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from model_factory import tiny_config, unchecked_config

from panoptic_common.modeling.thin_resnet import _build_thin_resnet
from unified_panoptic.modeling.backbone import (
    SqueezeExcitation,
    build_unified_resnet_fpn_backbone,
)

RGB = ShapeSpec(channels=3)


def config(depth: int, **changes):
    keys = {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
    }
    return tiny_config({**keys, **changes})


def test_gate_starts_at_sigmoid_of_two_whatever_the_input():
    module = SqueezeExcitation(32, reduction=16)
    x = torch.randn(2, 32, 3, 5)
    torch.testing.assert_close(module(x), x * 0.8807971)  # 1 / (1 + e^-2)


def test_gate_equals_its_formula_image_by_image():
    torch.manual_seed(0)
    module = SqueezeExcitation(8, reduction=4)
    torch.nn.init.normal_(module.excite.weight)
    x = torch.randn(3, 8, 4, 5)
    for index, image in enumerate(x):
        mean = image.flatten(1).mean(dim=1)
        hidden = (module.squeeze.weight @ mean + module.squeeze.bias).clamp(min=0)
        gate = 1 / (1 + torch.exp(-(module.excite.weight @ hidden + module.excite.bias)))
        torch.testing.assert_close(module(x)[index], image * gate[:, None, None])


def test_gate_gradcheck():
    torch.manual_seed(0)
    module = SqueezeExcitation(4, reduction=2).double()
    torch.nn.init.normal_(module.excite.weight)
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)


def test_reduction_larger_than_the_width_leaves_one_hidden_channel():
    assert SqueezeExcitation(8, reduction=16).squeeze.out_features == 1


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_names_are_detectron2s_but_for_the_gate(depth):
    with torch.device("meta"):
        ours = build_unified_resnet_fpn_backbone(config(depth), RGB).state_dict()
        theirs = build_resnet_fpn_backbone(config(depth), RGB).state_dict()
    extra = set(ours) - set(theirs)
    assert set(theirs) <= set(ours)
    assert extra == {
        f"bottom_up.squeeze_excitation.{layer}.{kind}"
        for layer in ("squeeze", "excite")
        for kind in ("weight", "bias")
    }
    assert all(ours[name].shape == theirs[name].shape for name in theirs)


def test_with_an_open_gate_every_level_equals_detectron2s():
    torch.manual_seed(0)
    ours = build_unified_resnet_fpn_backbone(config(50), RGB).eval()
    theirs = build_resnet_fpn_backbone(config(50), RGB).eval()
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if "squeeze" not in k})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        closed = ours(x)
        torch.nn.init.constant_(ours.bottom_up.squeeze_excitation.excite.bias, 100.0)
        found, expected = ours(x), theirs(x)
    assert set(found) == set(expected) == {"p2", "p3", "p4", "p5", "p6"}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert tuple(found["p2"].shape) == (1, 16, 16, 24)
    # The half-closed gate shows in P5 and, through the top-down path, in P2.
    assert not torch.allclose(closed["p5"], expected["p5"])
    assert not torch.allclose(closed["p2"], expected["p2"])


def test_switched_off_it_is_detectron2s():
    off = config(18, **{"MODEL.UNIFIED.SQUEEZE_EXCITATION": False})
    ours = build_unified_resnet_fpn_backbone(off, RGB)
    assert set(ours.state_dict()) == set(build_resnet_fpn_backbone(off, RGB).state_dict())


@pytest.mark.parametrize("depth", [18, 34])
def test_thin_builder_at_full_width_equals_detectron2s(depth):
    torch.manual_seed(0)
    cfg = config(depth, **{"MODEL.BACKBONE.FREEZE_AT": 2})
    ours, theirs = _build_thin_resnet(cfg, RGB).eval(), build_resnet_backbone(cfg, RGB).eval()
    theirs.load_state_dict(ours.state_dict())  # strict: the same names and shapes
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = ours(x), theirs(x)
    assert set(found) == set(expected) == {"res2", "res3", "res4", "res5"}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    frozen = {name for name, p in ours.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, p in theirs.named_parameters() if not p.requires_grad}


def test_freezing_stops_below_the_gate():
    cfg = tiny_config({"MODEL.BACKBONE.FREEZE_AT": 2})
    backbone = build_unified_resnet_fpn_backbone(cfg, RGB)
    trainable = {
        name.split(".")[1]
        for name, p in backbone.bottom_up.named_parameters("x")
        if p.requires_grad
    }
    assert trainable == {"res3", "res4", "res5", "squeeze_excitation"}


def test_without_res5_the_gate_is_refused():
    cfg = unchecked_config(
        {
            "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4"],
            "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4"],
        }
    )
    with pytest.raises(ValueError, match="needs res5 in out_features"):
        build_unified_resnet_fpn_backbone(cfg, RGB)
