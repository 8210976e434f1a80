"""Weights that others have trained: which file fills which part of a model, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from checkpoint_factory import TinyModel, checkpointer_of, randomised, write_zoo_pickle
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from project import ROOT
from torch import nn

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.checkpoint.weight_names import rename_torchvision_resnet
from panoptic_common.config import fill_classes


def thin_config(meta_architecture: str = "GeneralizedRCNN", depth: int = 50) -> CfgNode:
    """Mask R-CNN or Panoptic FPN as in Detectron2's zoo, but a few channels wide."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    return cfg


def unified_config(depth: int = 50) -> CfgNode:
    """The Unified system as its COCO config has it, with the widths of `thin_config`."""
    from unified_panoptic import add_unified_panoptic_config

    cfg = get_cfg()
    add_unified_panoptic_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs/unified/coco/R50.yaml"))
    thin = thin_config(depth=depth)
    for section, keys in {
        "RESNETS": ["DEPTH", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "WIDTH_PER_GROUP"],
        "FPN": ["OUT_CHANNELS"],
        "ROI_BOX_HEAD": ["FC_DIM"],
        "ROI_MASK_HEAD": ["CONV_DIM"],
    }.items():
        for key in keys:
            cfg.MODEL[section][key] = thin.MODEL[section][key]
    cfg.MODEL.UNIFIED.DECODER.HIDDEN_CHANNELS = cfg.MODEL.UNIFIED.DECODER.CHANNELS = 32
    cfg.MODEL.DEVICE = "cpu"
    fill_classes(cfg, [{"name": str(i), "isthing": int(i < 80)} for i in range(133)])
    return cfg


def resnet_config(depth: int) -> CfgNode:
    """A Detectron2 ResNet of full width that takes what torchvision's weights expect."""
    cfg = thin_config(depth=depth)
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 64
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"
    return cfg


def assert_filled(model: nn.Module, arrays: dict[str, np.ndarray], prefixes: tuple[str, ...]):
    own = {k: v for k, v in model.state_dict().items() if k.startswith(prefixes)}
    new = {k for k in own if "squeeze_excitation" in k}  # the paper's addition to the backbone
    assert len(own) > 100
    for name in own.keys() - new:
        np.testing.assert_array_equal(own[name].numpy(), arrays[name], err_msg=name)


# ---- the model zoo ------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "PanopticFPN"])
def test_zoo_file_fills_backbone_rpn_and_roi_heads(tmp_path, architecture, depth):
    path = tmp_path / "model_final.pkl"
    zoo = randomised(build_model(thin_config(architecture, depth)))
    arrays = write_zoo_pickle(path, zoo)
    cfg = unified_config(depth)
    model = build_model(cfg)
    checkpointer_of(model, cfg=cfg, class_table=()).load(str(path), checkpointables=[])
    assert_filled(model, arrays, ("backbone.", "proposal_generator.", "roi_heads."))


def test_zoo_model_itself_can_be_evaluated(tmp_path):
    path = tmp_path / "model_final.pkl"
    cfg = thin_config("PanopticFPN")
    arrays = write_zoo_pickle(path, randomised(build_model(cfg)), matching_heuristics=True)
    model = build_model(cfg)
    checkpointer_of(model, cfg=cfg).load(str(path), checkpointables=[], purpose="evaluate")
    assert_filled(model, arrays, ("",))


def to_caffe2_name(name: str) -> str:
    """Detectron2's name of a ResNet entry -> that of the MSRA files of Detectron1."""
    if name.startswith("stem.conv1.norm."):
        return "res_conv1_bn_" + {"weight": "s", "bias": "b"}[name.split(".")[-1]]
    name = name.replace("stem.", "").replace(".norm.weight", ".bn.s").replace(".norm.bias", ".bn.b")
    name = name.replace(".shortcut.", ".branch1.").replace(".weight", ".w")
    for ours, theirs in (("conv1", "branch2a"), ("conv2", "branch2b"), ("conv3", "branch2c")):
        if name.startswith("res"):
            name = name.replace(f".{ours}.", f".{theirs}.")
    return name.replace(".", "_")


def write_msra_pickle(path: Path, model: nn.Module) -> dict[str, np.ndarray]:
    """As Python 2 wrote detectron2://ImageNetPretrained/MSRA/R-50.pkl: no batch-norm statistics."""
    prefix = "backbone.bottom_up."
    arrays = {
        name.removeprefix(prefix): value.numpy()
        for name, value in model.state_dict().items()
        if name.startswith(prefix) and "running" not in name
    }
    blobs = {to_caffe2_name(name): value for name, value in arrays.items()}
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w", "res2_0_branch1_bn_b"} <= set(blobs)
    blobs["fc1000_w"] = np.zeros((10, 4), np.float32)
    blobs["conv1_w_momentum"] = np.zeros(3, np.float32)
    with open(path, "wb") as file:
        pickle.dump(blobs, file, protocol=2)
    return {prefix + name: value for name, value in arrays.items()}


def test_caffe2_imagenet_file_fills_the_resnet(tmp_path):
    path = tmp_path / "R-50.pkl"
    arrays = write_msra_pickle(path, randomised(build_model(thin_config())))
    cfg = unified_config()
    model = randomised(build_model(cfg), seed=1)
    checkpointer_of(model, cfg=cfg, class_table=()).load(str(path), checkpointables=[])
    state = model.state_dict()
    for name, value in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), value, err_msg=name)


def test_caffe2_file_is_refused_for_batch_norm_with_statistics(tmp_path):
    """Its statistics are folded into scale and shift; a BN layer cannot take that."""
    path = tmp_path / "R-50.pkl"
    write_msra_pickle(path, build_model(thin_config()))
    cfg = thin_config()
    cfg.MODEL.RESNETS.NORM = "BN"
    with pytest.raises(CheckpointError, match="FrozenBN"):
        checkpointer_of(build_model(cfg), cfg=cfg).load(str(path), checkpointables=[])


# ---- torchvision --------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_file_gives_torchvisions_features(tmp_path, depth):
    """Not only do the names fit: both networks compute the same from the same image."""
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    generator = torch.Generator().manual_seed(1)
    for name, value in theirs.state_dict().items():
        if "running_" in name:  # else each norm layer would be the identity
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    cfg = resnet_config(depth)
    model = build_model(cfg).eval()
    path = str(tmp_path / "resnet.pth")
    checkpointer_of(model, cfg=cfg).load(path, checkpointables=[])
    image = torch.rand((1, 3, 64, 64), generator=generator)
    trunk = nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        expected, actual = trunk(image), model.backbone.bottom_up(image)["res5"]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True),
    ],
)
def test_torchvision_file_refuses_another_input(tmp_path, key, value):
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"]
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "resnet.pth")
    cfg = resnet_config(50)
    cfg.merge_from_list([key, value])
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        checkpointer_of(TinyModel(), cfg=cfg).load(str(tmp_path / "resnet.pth"), checkpointables=[])


def test_torchvision_names():
    names = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.conv2.weight": "res2.0.conv2.weight",
        "layer4.2.bn3.bias": "res5.2.conv3.norm.bias",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.weight": "res3.0.shortcut.norm.weight",
    }
    dropped = {"fc.weight": 0, "bn1.num_batches_tracked": 0}
    renamed = rename_torchvision_resnet({**dict.fromkeys(names, 1), **dropped})
    assert set(renamed) == set(names.values())


# ---- initial weights ----------------------------------------------------------------------------


def test_another_depth_is_an_error_that_lists_the_entries(tmp_path):
    path = tmp_path / "R-18.pkl"
    full = {"STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 64, "WIDTH_PER_GROUP": 64}
    cfgs = {depth: thin_config(depth=depth) for depth in (18, 34)}
    for cfg in cfgs.values():
        cfg.MODEL.RESNETS.update(full)
    write_zoo_pickle(path, build_model(cfgs[18]))
    model = build_model(cfgs[34])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        checkpointer_of(model, cfg=cfgs[34]).load(str(path), checkpointables=[])
    # R-34 has 36 convolutions, R-18 20, of 5 entries each.
    assert "56%" in str(caught.value) and "90%" in str(caught.value)
    assert "backbone.bottom_up.res4.5.conv2.weight\n" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_foreign_file_that_matches_nothing_is_an_error(tmp_path):
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="fills only 0%"):
        checkpointer_of(TinyModel()).load(str(tmp_path / "other.pth"), checkpointables=[])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_foreign_file_from_several_processes_is_understood(tmp_path, wrap):
    source, model = randomised(TinyModel()), TinyModel()
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save(wrap(state), tmp_path / "other.pth")
    checkpointer_of(model).load(str(tmp_path / "other.pth"), checkpointables=[])
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_missing_file_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file of weights .*nowhere.pth"):
        checkpointer_of(TinyModel()).load(str(tmp_path / "nowhere.pth"), checkpointables=[])
