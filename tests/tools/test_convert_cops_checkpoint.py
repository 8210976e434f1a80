"""Networks of the COPS authors become ours: the same logits, or an error that names every key."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from types import ModuleType

import authors_network
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from detectron2.modeling import build_model
from project import ROOT
from torch import nn

from cops import add_cops_config, authors_names
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import read_checkpoint_metadata

CITYSCAPES = str(ROOT / "configs/cops/cityscapes/pretrain.yaml")
IS_THING = tuple(bool(entry["isthing"]) for entry in CITYSCAPES_CATEGORIES)
DISTANCES = (1, 4, 16, 32, 64)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools/convert_cops_checkpoint.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def state() -> authors_network.State:
    """A network of theirs for Cityscapes, with the 5 distances of their pre-training config."""
    return authors_network.random_state(19, 5, IS_THING)


@pytest.fixture(scope="module")
def converted(tool, state, tmp_path_factory) -> Path:
    """Our checkpoint, and beside it our config."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save({"model": state, "iteration": 49999}, folder / "theirs.pth")
    tool.main([str(folder / "theirs.pth"), str(folder / "ours.pth"), "--config-file", CITYSCAPES])
    return folder / "ours.pth"


@pytest.fixture(scope="module")
def model(converted) -> nn.Module:
    """What the checkpoint alone describes, on the CPU, in double precision."""
    metadata = read_checkpoint_metadata(converted)
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.merge_from_other_cfg(CfgNode.load_cfg(metadata.config))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    PanopticCheckpointer(model, cfg=cfg, class_table=metadata.class_table).load(
        str(converted), checkpointables=[], purpose="evaluate"
    )
    return model.double()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """The grid of 96 x 160 pixels has 24 x 40 cells: d = 32 fits one way, d = 64 neither."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, 96, 160), generator=generator).double()


# ---- the conversion -----------------------------------------------------------------------------


@torch.no_grad()
def test_converted_network_computes_their_logits_and_costs(model, image, state):
    theirs = {key: value.double() for key, value in state.items()}
    class_logits, edge_logits, class_costs, edge_costs = authors_network.forward(
        theirs, image, DISTANCES
    )
    found = model.predict_maps((image - theirs["pixel_mean"]) / theirs["pixel_std"])
    # The weights are in single precision on both sides, the arithmetic is not.
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(found.class_logits, class_logits, **close)
    torch.testing.assert_close(found.class_costs, class_costs, **close)
    for index in range(len(DISTANCES)):
        ours = slice(2 * index, 2 * index + 2)
        for maps, expected in ((found.edge_logits, edge_logits), (found.edge_costs, edge_costs)):
            vertical, horizontal = expected[index].unbind(dim=1)
            torch.testing.assert_close(
                maps[:, ours], torch.stack((horizontal, vertical), dim=1), **close
            )
    # The comparison would be blind if the logits hardly varied.
    assert class_logits.std() > 0.1 and min(maps.std() for maps in edge_logits) > 0.05


def test_images_are_normalised_as_theirs(model, image, state):
    found = model.preprocess([{"image": image[0]}]).tensor
    expected = (image - state["pixel_mean"]) / state["pixel_std"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_checkpoint_and_config_say_what_the_file_says(converted, state):
    metadata = read_checkpoint_metadata(converted)
    assert [entry["name"] for entry in metadata.class_table] == [
        entry["name"] for entry in CITYSCAPES_CATEGORIES
    ]
    inside = CfgNode.load_cfg(metadata.config)
    beside = CfgNode.load_cfg(converted.with_suffix(".yaml").read_text())
    assert inside == beside
    node = inside.MODEL.COPS
    assert tuple(node.DISTANCES) == DISTANCES  # the config that was given has 6
    assert (node.INFERENCE.THING_AREA_LIMIT, node.INFERENCE.STUFF_AREA_LIMIT) == (200, 2048)
    assert inside.MODEL.PIXEL_MEAN == [120.0, 110.0, 100.0]
    assert inside.MODEL.PIXEL_STD == [60.0, 50.0, 40.0]
    assert str(converted) == inside.MODEL.WEIGHTS
    assert not (converted.parent / "last_checkpoint").exists()


# ---- what does not fit --------------------------------------------------------------------------


# ---- the program --------------------------------------------------------------------------------


def fails(tool: ModuleType, folder: Path, weights: object, *words: str) -> str:
    """Run the program on a file; return its message and check that it has written nothing."""
    torch.save(weights, folder / "theirs.pth")
    arguments = [str(folder / "theirs.pth"), str(folder / "ours.pth"), "--config-file", CITYSCAPES]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert tool.main([*arguments, *words]) == 2
    assert {path.name for path in folder.iterdir()} == {"theirs.pth"}
    assert said.getvalue().startswith("convert_cops_checkpoint.py: ")
    return said.getvalue()


@pytest.fixture
def stub() -> authors_network.State:
    """The entries from which the program reads settings; the rest is missing."""
    state = {
        "sem_seg_head.predictor.weight": torch.zeros(19, 256, 1, 1),
        "amwc_layer.training_per_class_areas": torch.tensor(
            [200.0 if thing else 2048.0 for thing in IS_THING]
        ),
    }
    state.update({f"AFF_EMBED_head.classifiers.{i}.2.bias": torch.zeros(2) for i in range(5)})
    return state


def test_partial_file_writes_nothing_and_every_unmatched_entry_is_named(tool, tmp_path, stub):
    text = fails(tool, tmp_path, stub)
    for name in authors_network.entries(19, 5):
        if name not in stub and name not in authors_names.SETTINGS and "batches" not in name:
            layer, _, leaf = authors_names.our_name(name).rpartition(".")
            line = next(line for line in text.splitlines() if line.startswith(f"  {layer}."))
            assert leaf in line.removeprefix(f"  {layer}.")


def test_foreign_files_are_refused(tool, tmp_path):
    weights = {"stem.conv1.weight": torch.zeros(1)}
    assert "holds no network of the COPS authors" in fails(tool, tmp_path, weights)
    assert "'epoch' is a int, not an array" in fails(tool, tmp_path, {"epoch": 3})


def test_files_that_run_code_are_refused(tool, tmp_path, stub):
    weights = {**stub, "hook": print}
    assert "--allow-unsafe-checkpoint" in fails(tool, tmp_path, weights)


def test_our_own_checkpoint_is_refused(tool, tmp_path, stub):
    ours = {"model": stub, "class_table": [], "config": "VERSION: 2", "iteration": 1, "seed": 0}
    assert "is a checkpoint of this project already" in fails(tool, tmp_path, ours)


def test_other_classes_are_refused(tool, tmp_path, stub):
    stub["sem_seg_head.predictor.weight"] = torch.zeros(133, 256, 1, 1)
    assert "133 classes, the data set of the config 19" in fails(tool, tmp_path, stub)


def test_class_table_in_another_order_is_refused(tool, tmp_path, stub):
    stub["amwc_layer.training_per_class_areas"] = stub["amwc_layer.training_per_class_areas"].flip(
        0
    )
    assert "not for the classes" in fails(tool, tmp_path, stub)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.RESNETS.STRIDE_IN_1X1", "True", "STRIDE_IN_1X1 is True, theirs False"),
        ("MODEL.RESNETS.RES5_DILATION", "1", "RES5_DILATION is 1, theirs 2"),
        ("MODEL.RESNETS.RES5_MULTI_GRID", "[1, 1, 1]", "theirs [1, 2, 4]"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is BGR, theirs RGB"),
        ("MODEL.COPS.AFFINITY.ASPP_DILATIONS", "(1, 2, 3)", "theirs (6, 12, 18)"),
        ("MODEL.COPS.SEMANTIC.ASPP_POOL_SIZE", "(0, 0)", "theirs (512, 1024)"),
    ],
)
def test_settings_that_shapes_do_not_show_must_agree(tool, tmp_path, stub, key, value, message):
    assert message in fails(tool, tmp_path, stub, "--opts", key, value)


def test_number_of_distances_comes_from_the_file(tool, tmp_path, stub):
    text = fails(tool, tmp_path, stub, "--distances", "1", "4")
    assert "classifiers for 5 distances: name as many by --distances" in text


def test_settings_of_a_coco_file(tool, tmp_path):
    """Their COCO network from the built-in class table, without the data set."""
    (tmp_path / "a.pth").touch()
    config = str(ROOT / "configs/cops/coco/full.yaml")
    args = tool.parse_args([str(tmp_path / "a.pth"), "b.pth", "--config-file", config])
    cfg, table = tool.complete_config(args)
    things = [bool(entry["isthing"]) for entry in COCO_CATEGORIES]
    assert list(cfg.MODEL.PANOPTIC.IS_THING) == things and len(table) == 133
    weights = {
        "sem_seg_head.predictor.weight": torch.zeros(133, 1, 1, 1),
        "AFF_EMBED_head.classifiers.3.2.bias": torch.zeros(2),
        "amwc_layer.training_per_class_areas": torch.tensor(
            [150.0 if thing else 4096.0 for thing in things]
        ),
    }
    authors_names.take_settings(cfg, weights, None, "a.pth")
    assert cfg.MODEL.COPS.DISTANCES == (1, 4, 16, 32)
    limits = cfg.MODEL.COPS.INFERENCE
    assert (limits.THING_AREA_LIMIT, limits.STUFF_AREA_LIMIT) == (150, 4096)


@pytest.mark.parametrize("words", [["a.pth", "b.pkl"], ["a.pth", "b.pth", "--opts", "SEED"]])
def test_wrong_command_lines(tool, words):
    with pytest.raises(SystemExit):
        tool.parse_args([*words[:2], "--config-file", CITYSCAPES, *words[2:]])


def test_names_of_a_network_wrapped_for_several_processes(tool, tmp_path):
    weights = {"module.a": torch.ones(2, dtype=torch.float16), "module.n": torch.tensor(3)}
    torch.save(weights, tmp_path / "wrapped.pth")
    read = tool.read_their_weights(tmp_path / "wrapped.pth", allow_unsafe=False)
    assert read["a"].dtype == torch.float32 and read["n"].dtype == torch.int64
