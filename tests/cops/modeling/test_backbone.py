"""COPS's ResNet against Detectron2's own builder, and what that one cannot build."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from authors_network import entries
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_resnet_backbone

from cops.config import add_cops_config
from cops.modeling.backbone import DilatedBasicBlock, build_cops_resnet_backbone

RGB = ShapeSpec(channels=3)


def config(depth: int, **changes) -> CfgNode:
    """A plain ResNet with all features; changes are keys of MODEL.RESNETS."""
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.RESNETS
    node.DEPTH, node.NORM = depth, "BN"
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    node.STEM_TYPE, node.RES5_MULTI_GRID = "basic", []
    node.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    for key, value in changes.items():
        node[key] = value
    return cfg


def r52(**changes) -> CfgNode:
    """The authors' network."""
    options = {
        "STEM_TYPE": "deeplab",
        "STEM_OUT_CHANNELS": 128,
        "STRIDE_IN_1X1": False,
        "RES5_DILATION": 2,
        "RES5_MULTI_GRID": [1, 2, 4],
    }
    return config(50, **{**options, **changes})


def randomise_statistics(network: torch.nn.Module) -> None:
    """Running statistics that are not 0 and 1, which would hide a missing norm."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


def test_it_is_in_detectron2s_registry():
    assert BACKBONE_REGISTRY.get("build_cops_resnet_backbone") is build_cops_resnet_backbone


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_plain_networks_have_detectron2s_names_and_shapes(depth):
    with torch.device("meta"):
        ours = build_cops_resnet_backbone(config(depth), RGB)
        theirs = build_resnet_backbone(config(depth), RGB)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert ours.output_shape() == theirs.output_shape()


@pytest.mark.parametrize(
    "cfg",
    [
        config(18),
        config(50),
        config(50, STRIDE_IN_1X1=False, RES5_DILATION=2),
        config(50, NUM_GROUPS=4, WIDTH_PER_GROUP=4, RES2_OUT_CHANNELS=32),
    ],
    ids=["18", "50", "50 dilated", "grouped and thin"],
)
def test_plain_networks_compute_what_detectron2s_do(cfg):
    torch.manual_seed(0)
    ours = build_cops_resnet_backbone(cfg, RGB).eval()
    randomise_statistics(ours)
    theirs = build_resnet_backbone(cfg, RGB).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 45, 64)
    with torch.no_grad():
        found, expected = ours(x), theirs(x)
    assert set(found) == set(expected) == {"res2", "res3", "res4", "res5"}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_authors_network_has_their_names_and_shapes():
    with torch.device("meta"):
        ours = build_cops_resnet_backbone(r52(), RGB).state_dict()
    prefix = "backbone."
    theirs = {
        name.removeprefix(prefix): shape
        for name, shape in entries(19, 5).items()
        if name.startswith(prefix)
    }
    assert {name: tuple(value.shape) for name, value in ours.items()} == theirs


def test_multi_grid_multiplies_the_dilation_block_by_block():
    with torch.device("meta"):
        network = build_cops_resnet_backbone(r52(), RGB)
    assert [block.conv2.dilation for block in network.res5] == [(2, 2), (4, 4), (8, 8)]
    assert [block.conv2.stride for block in network.res5] == [(1, 1)] * 3
    assert {block.conv2.dilation for block in network.res4} == {(1, 1)}
    strides = {name: shape.stride for name, shape in network.output_shape().items()}
    assert strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 16}


def test_basic_block_with_dilation_is_its_formula():
    torch.manual_seed(0)
    block = DilatedBasicBlock(3, 4, stride=1, norm="", dilation=3)
    x = torch.randn(2, 3, 9, 11)
    y = F.conv2d(x, block.conv1.weight, padding=3, dilation=3).clamp(min=0)
    y = F.conv2d(y, block.conv2.weight, padding=3, dilation=3)
    expected = (y + F.conv2d(x, block.shortcut.weight)).clamp(min=0)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("stem", ["basic", "deeplab"])
@pytest.mark.parametrize("size", [(96, 64), (51, 77)])
def test_half_width_resnet18_with_dilation(stem, size):
    cfg = config(
        18,
        STEM_TYPE=stem,
        STEM_OUT_CHANNELS=32,
        RES2_OUT_CHANNELS=32,
        RES5_DILATION=2,
        RES5_MULTI_GRID=[1, 2],
        OUT_FEATURES=["res2", "res3", "res5"],
    )
    network = build_cops_resnet_backbone(cfg, RGB)
    features = network(torch.randn(2, 3, *size))
    for name, channels, stride in (("res2", 32, 4), ("res3", 64, 8), ("res5", 256, 16)):
        shape = network.output_shape()[name]
        assert (shape.channels, shape.stride) == (channels, stride)
        expected = tuple(-(-side // stride) for side in size)  # rounded up
        assert tuple(features[name].shape) == (2, channels, *expected)
    sum(feature.sum() for feature in features.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_stages_above_the_last_feature_are_not_built():
    network = build_cops_resnet_backbone(config(18, OUT_FEATURES=["res3"]), RGB)
    assert network.stage_names == ("res2", "res3")
    # A multi-grid that would not fit res5 does not matter then.
    build_cops_resnet_backbone(config(18, OUT_FEATURES=["res3"], RES5_MULTI_GRID=[1, 2, 4]), RGB)


def test_freeze_at_freezes_stem_and_stages():
    cfg = r52(NORM="SyncBN", STEM_OUT_CHANNELS=16, RES2_OUT_CHANNELS=16, WIDTH_PER_GROUP=4)
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    network = build_cops_resnet_backbone(cfg, RGB)
    trained = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}
    assert isinstance(network.stem.conv3.norm, FrozenBatchNorm2d)
    assert isinstance(network.res3[0].conv1.norm, torch.nn.SyncBatchNorm)


@pytest.mark.parametrize(
    "depth, changes, message",
    [
        (18, {"RES5_MULTI_GRID": [1, 2, 4]}, r"3 factors, but res5 of a ResNet-18 has 2 blocks"),
        (50, {"RES5_MULTI_GRID": [1, 2]}, r"2 factors, but res5 of a ResNet-50 has 3 blocks"),
        (50, {"STEM_TYPE": "patch"}, r"stem_type is 'patch': use one of"),
        (26, {}, r"depth is 26: use one of"),
        (50, {"RES5_DILATION": 4}, r"res5_dilation is 4"),
        (50, {"OUT_FEATURES": []}, r"out_features is empty"),
        (50, {"DEFORM_ON_PER_STAGE": [False, False, False, True]}, r"DEFORM_ON_PER_STAGE"),
        (34, {"NUM_GROUPS": 2}, r"num_groups is 2"),
        (50, {"STEM_TYPE": "deeplab", "STEM_OUT_CHANNELS": 33}, r"use an even number"),
    ],
)
def test_what_cannot_be_built_is_refused(depth, changes, message):
    with pytest.raises(ValueError, match=message):
        build_cops_resnet_backbone(config(depth, **changes), RGB)


@pytest.mark.parametrize("stem", ["basic", "deeplab"])
def test_res1_is_the_stem_before_its_pooling_and_changes_nothing_else(stem: str):
    names = ["res2", "res3", "res5"]
    options = {"STEM_TYPE": stem, "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8}
    torch.manual_seed(0)
    plain = build_cops_resnet_backbone(config(18, OUT_FEATURES=names, **options), RGB).eval()
    torch.manual_seed(0)
    fine = build_cops_resnet_backbone(
        config(18, OUT_FEATURES=["res1", *names], **options), RGB
    ).eval()
    assert list(plain.state_dict()) == list(fine.state_dict())  # the same files load
    fine.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 44, 62)
    expected, found = plain(x), fine(x)
    assert list(found) == ["res1", *names]
    for name in names:
        assert torch.equal(found[name], expected[name])
    pooled = F.max_pool2d(found["res1"], kernel_size=3, stride=2, padding=1)
    assert torch.equal(pooled, plain.stem(x))
    assert tuple(found["res1"].shape) == (2, 8, 22, 31)
    shapes = fine.output_shape()
    assert {name: shapes[name].stride for name in shapes} == {
        **{name: shape.stride for name, shape in plain.output_shape().items()},
        "res1": 2,
    }
    with pytest.raises(ValueError, match="res1 alone"):
        build_cops_resnet_backbone(config(18, OUT_FEATURES=["res1"], **options), RGB)
