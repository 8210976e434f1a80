"""Files of weights: what loads, what is refused, and what a kill or a flipped bit leaves behind."""

from __future__ import annotations

import argparse
import builtins
import os
import pickle
import signal
from pathlib import Path

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from panoptic_common import checkpoint_files
from panoptic_common.checkpoint import PanopticCheckpointer
from panoptic_common.checkpoint_files import (
    CheckpointError,
    plain,
    read_checkpoint_metadata,
    read_weights_file,
    write_atomically,
)
from panoptic_common.config import add_panoptic_config, fill_classes
from panoptic_common.weight_names import class_table_difference, rename_torchvision_resnet

ROOT = Path(__file__).resolve().parents[1]
TABLE = [{"id": 7, "name": "road", "isthing": 0}, {"id": 9, "name": "car", "isthing": 1}]


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


class TinyModel(nn.Module):
    """A backbone and a head that depends on the classes, by Detectron2's names."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
        self.sem_seg_head = nn.ModuleDict({"predictor": nn.Conv2d(4, num_classes, 1)})


def checkpointer_of(model, folder="", cfg=None, **options) -> PanopticCheckpointer:
    if cfg is None:
        cfg = get_cfg()
        add_panoptic_config(cfg)
    options = {"class_table": TABLE, "seed": 3, **options}
    return PanopticCheckpointer(model, str(folder), cfg=cfg, **options)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and buffer distinct, so that a mix-up of names shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def write_zoo_pickle(path: Path, model: nn.Module, **extra) -> dict[str, np.ndarray]:
    """The format of model_final_*.pkl in Detectron2's zoo."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    with open(path, "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo", **extra}, file)
    return arrays


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
    """Not only do the names fit: both networks compute the same from the same picture."""
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
    picture = torch.rand((1, 3, 64, 64), generator=generator)
    trunk = nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        expected, actual = trunk(picture), model.backbone.bottom_up(picture)["res5"]
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


# ---- our own checkpoints ------------------------------------------------------------------------


def saved_run(folder: Path, iterations=(9, 19)) -> tuple[PanopticCheckpointer, torch.optim.SGD]:
    """A tiny run with a checkpoint at each of `iterations`."""
    model = randomised(TinyModel())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    checkpointer = checkpointer_of(model, folder, optimizer=optimizer)
    for iteration in iterations:
        with torch.no_grad():
            model.backbone[0].bias.fill_(iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return checkpointer, optimizer


def test_round_trip_is_exact_and_safe(tmp_path):
    saved, optimizer = saved_run(tmp_path)
    contents = torch.load(saved.get_checkpoint_file(), weights_only=True)
    keys = {"model", "optimizer", "iteration", "class_table", "config", "seed"}
    assert set(contents) == keys
    assert contents["class_table"] == TABLE and contents["seed"] == 3
    model = TinyModel()
    other = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    extra = checkpointer_of(model, tmp_path, optimizer=other).resume_or_load("", resume=True)
    assert extra["iteration"] == 19
    for name, value in saved.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for a, b in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])
    assert other.param_groups[0]["lr"] == 0.1


def test_metadata(tmp_path):
    saved, _ = saved_run(tmp_path)
    metadata = read_checkpoint_metadata(saved.get_checkpoint_file())
    assert metadata.iteration == 19 and metadata.seed == 3 and metadata.class_table == TABLE
    assert CfgNode.load_cfg(metadata.config).SOLVER.OPTIMIZER == "SGD"
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        read_checkpoint_metadata(tmp_path / "foreign.pth")


def test_plain_values_only():
    assert type(plain({"a": [np.float64(1.5)]})["a"][0]) is float
    assert type(plain(np.int64(3))) is int and type(plain(np.bool_(True))) is bool
    assert plain((True, None, "x")) == (True, None, "x")
    with pytest.raises(TypeError, match=r"optimizer.*Namespace"):
        plain({"optimizer": {"x": argparse.Namespace()}})


def test_evaluation_wants_every_entry(tmp_path):
    saved, _ = saved_run(tmp_path)
    path = saved.get_checkpoint_file()
    contents = torch.load(path)
    del contents["model"]["backbone.2.weight"]
    torch.save(contents, path)
    with pytest.raises(CheckpointError, match=r"backbone\.2\.weight"):
        checkpointer_of(TinyModel()).load(path, checkpointables=[], purpose="evaluate")


def test_evaluation_refuses_other_classes(tmp_path):
    saved, _ = saved_run(tmp_path)
    other = [TABLE[0], {"id": 9, "name": "bus", "isthing": 1}]
    with pytest.raises(CheckpointError, match="class 1 is 'car' .*'bus'"):
        checkpointer_of(TinyModel(), class_table=other).load(
            saved.get_checkpoint_file(), checkpointables=[], purpose="evaluate"
        )


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fine_tuning_on_other_classes_starts_the_head_afresh(tmp_path, num_classes, caplog):
    """Even if the shapes are equal: the old weights would mean other classes."""
    saved, _ = saved_run(tmp_path)
    other = [{"id": i, "name": f"new {i}", "isthing": 0} for i in range(num_classes)]
    model = TinyModel(num_classes)
    head = model.sem_seg_head["predictor"].weight.detach().clone()
    checkpointer_of(model, class_table=other).load(saved.get_checkpoint_file(), checkpointables=[])
    assert torch.equal(model.sem_seg_head["predictor"].weight, head)
    assert torch.equal(model.backbone[0].weight, saved.model.backbone[0].weight)
    assert "sem_seg_head.predictor.{weight, bias}" in caplog.text


def test_class_tables_are_compared_by_name_and_kind():
    assert class_table_difference(TABLE, [{**entry, "id": 1} for entry in TABLE]) is None
    assert "1 classes there, 2 here" in class_table_difference(TABLE[:1], TABLE)
    swapped = [TABLE[0], {**TABLE[1], "isthing": 0}]
    assert "'car' (thing) there, 'car' (stuff) here" in class_table_difference(TABLE, swapped)


def test_resuming_from_a_foreign_file_is_refused(tmp_path):
    torch.save({"model": TinyModel().state_dict()}, tmp_path / "model.pth")
    (tmp_path / "last_checkpoint").write_text("model.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)


# ---- kills and damage ---------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["write", "fsync", "rename", "pointer"])
def test_kill_while_saving_leaves_a_usable_folder(tmp_path, stage, monkeypatch):
    """The process dies by SIGKILL inside the save: the pointer names a whole checkpoint."""
    saved, _ = saved_run(tmp_path, iterations=(9,))

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        if stage == "write":  # half a file
            whole = torch.save
            torch.save = lambda data, file: (whole(data, file), file.truncate(100), die())
        elif stage == "fsync":
            os.fsync = die
        else:
            rename, which = os.replace, "last_checkpoint" if stage == "pointer" else ".pth"
            os.replace = lambda a, b: die() if str(b).endswith(which) else rename(a, b)
        saved.save("model_0000019", iteration=19)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1  # what was being written
    checkpointer = checkpointer_of(TinyModel(), tmp_path)
    assert checkpointer.load(checkpointer.get_checkpoint_file(), [])["iteration"] == 9
    saved.save("model_0000029", iteration=29)
    assert not list(tmp_path.glob(".*.tmp"))
    assert checkpointer.load(checkpointer.get_checkpoint_file(), [])["iteration"] == 29


def test_full_disk_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")

    def fill_up(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "file", fill_up)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint_names_itself_and_the_previous_one(tmp_path, share):
    saved, _ = saved_run(tmp_path)
    path = Path(saved.get_checkpoint_file())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError) as caught:
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)
    assert "model_0000019.pth" in str(caught.value)
    assert "The previous one is model_0000009.pth" in str(caught.value)


def test_flipped_bits_never_pass_unnoticed(tmp_path):
    """Either the file is refused, or (padding, file dates) its contents are what was saved."""
    saved, _ = saved_run(tmp_path)
    path = Path(saved.get_checkpoint_file())
    original = path.read_bytes()
    expected = torch.load(path, weights_only=True)["model"]
    refused = 0
    places = np.random.default_rng(0).integers(0, len(original), 60)
    weights = original.index(expected["backbone.0.weight"].numpy().tobytes())
    for place in [weights, weights + 5, *places]:
        path.write_bytes(original[:place] + bytes([original[place] ^ 16]) + original[place + 1 :])
        try:
            model = read_weights_file(path)["model"]
        except CheckpointError as error:
            assert "model_0000019.pth" in str(error)
            refused += 1
        else:
            assert place not in (weights, weights + 5)
            assert all(torch.equal(model[name], value) for name, value in expected.items())
    assert refused >= 10


def test_only_checkpoint_damaged_says_start_again(tmp_path):
    saved, _ = saved_run(tmp_path, iterations=(9,))
    Path(saved.get_checkpoint_file()).write_bytes(b"x" * 50)
    with pytest.raises(CheckpointError, match="no earlier checkpoint.*without --resume"):
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)


@pytest.mark.parametrize("pointer", ["", "model_0000099.pth"])
def test_pointer_to_nowhere(tmp_path, pointer):
    saved_run(tmp_path)
    (tmp_path / "last_checkpoint").write_text(pointer)
    with pytest.raises(CheckpointError, match="model_0000019.pth"):
        checkpointer_of(TinyModel(), tmp_path).resume_or_load("", resume=True)


def test_damaged_pickle(tmp_path):
    write_zoo_pickle(tmp_path / "model.pkl", TinyModel())
    whole = (tmp_path / "model.pkl").read_bytes()
    (tmp_path / "model.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="model.pkl is damaged"):
        read_weights_file(tmp_path / "model.pkl")


# ---- files that would run code ------------------------------------------------------------------


class _Touch:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth"])
def test_file_that_runs_code_is_refused_unless_allowed(tmp_path, name):
    path, trace = tmp_path / name, tmp_path / "trace"
    contents = {"model": {"backbone.weight": np.zeros(2, np.float32)}, "x": _Touch(trace)}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps({**contents, "__author__": "somebody"}))
    else:
        torch.save(contents, path)
    with pytest.raises(CheckpointError, match="--allow-unsafe-checkpoint"):
        read_weights_file(path)
    assert not trace.exists()
    assert "backbone.weight" in read_weights_file(path, allow_unsafe=True)["model"]
    assert trace.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy._core.multiarray\nfromfile\n(S'x'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
    ],
)
def test_pickle_may_name_nothing_but_arrays(tmp_path, payload):
    (tmp_path / "evil.pkl").write_bytes(payload)
    with pytest.raises(CheckpointError):
        read_weights_file(tmp_path / "evil.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_every_numpy_and_protocol_are_read(tmp_path, protocol, core):
    arrays = {
        "model": {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "s": np.float64(2.5),
            "i": np.array(7),
        },
        "__author__": "numpy",
    }
    # The module's name in the file depends on the numpy that wrote it. A protocol above 3 counts
    # the bytes of a name, so that only there the length before it changes.
    text = pickle.dumps(arrays, protocol)
    if protocol < 4:
        text = text.replace(b"numpy._core.", core.encode() + b".")
        text = text.replace(b"numpy.core.", core.encode() + b".")
    (tmp_path / "a.pkl").write_bytes(text)
    read = read_weights_file(tmp_path / "a.pkl")["model"]
    for name, value in arrays["model"].items():
        np.testing.assert_array_equal(read[name], value)


# ---- safetensors --------------------------------------------------------------------------------


def test_safetensors_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CheckpointError, match="pip install safetensors"):
        read_weights_file(tmp_path / "model.safetensors")


def test_safetensors_round_trip(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    source, model = randomised(TinyModel()), TinyModel()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    path = str(tmp_path / "model.safetensors")
    checkpointer_of(model).load(path, checkpointables=[])
    assert torch.equal(model.backbone[0].weight, source.backbone[0].weight)
    Path(path).write_bytes(Path(path).read_bytes()[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint_files.read_weights_file(path)
