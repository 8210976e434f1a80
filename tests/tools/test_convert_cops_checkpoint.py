"""Networks of the COPS authors become ours: the same logits, or an error that names every key."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import panoptic_common.compat  # noqa: F401  (before detectron2)

import authors_network
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from detectron2.modeling import build_backbone, build_model
from project import ROOT
from torch import nn

from cops import add_cops_config, authors_names
from cops.modeling.affinity_head import AffinityHead
from cops.modeling.cost_scale import CostScale
from cops.modeling.semantic_head import SemanticHead
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import CheckpointError, read_checkpoint_metadata

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
    tool.run([str(folder / "theirs.pth"), str(folder / "ours.pth"), "--config-file", CITYSCAPES])
    return folder / "ours.pth"


@pytest.fixture(scope="module")
def network() -> authors_network.State:
    """State dict of ours that the network above fits, without values."""
    return skeleton(19, DISTANCES)


def skeleton(num_classes: int, distances: tuple[int, ...], **changes) -> authors_network.State:
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.merge_from_file(CITYSCAPES)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.COPS.DISTANCES = distances
    cfg.merge_from_list([part for pair in changes.items() for part in pair])
    with torch.device("meta"):
        parts = {"backbone": build_backbone(cfg), "cost_scale": CostScale(cfg)}
        shape = parts["backbone"].output_shape()
        parts.update(sem_seg_head=SemanticHead(cfg, shape), affinity_head=AffinityHead(cfg, shape))
        return nn.ModuleDict(parts).state_dict()


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


# ---- the lists ----------------------------------------------------------------------------------


# SHA-256 of the lines "name shape", sorted, of the state dicts that the authors' code makes for
# Cityscapes and for COCO: names and shapes alone, no weights.
AUTHORS_ENTRIES = {
    (19, 5): "947c4e882cc49385a878f92cf818bd8c684b02bff58e57a2e24b891a6801ac16",
    (133, 4): "f9a4a937578a9cd97b86a58eff074b71d46a9253b607d89818ba332d306b1a1f",
}


@pytest.mark.parametrize("classes, distances", AUTHORS_ENTRIES)
def test_entries_are_those_of_the_authors_networks(classes, distances):
    entries = authors_network.entries(classes, distances)
    lines = "\n".join(f"{name} {shape}" for name, shape in sorted(entries.items()))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == AUTHORS_ENTRIES[classes, distances]


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


def test_paper_s_networks_and_coco_s_fit_too():
    for num_classes, distances in (
        (19, authors_names.DISTANCES),
        (133, (1, 4, 16, 32)),
        (133, (1, 4, 16, 32, 64)),
    ):
        with torch.device("meta"):
            theirs = {
                name: torch.empty(shape)
                for name, shape in authors_network.entries(num_classes, len(distances)).items()
            }
        network = skeleton(num_classes, distances)
        ours = authors_names.converted_weights(theirs, network, distances, "theirs.pth")
        assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in network.items()}


def test_the_file_s_own_tensors_stay_as_they_are(state, network):
    before = {name: value.clone() for name, value in state.items()}
    authors_names.converted_weights(state, network, DISTANCES, "theirs.pth")
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_counters_of_batch_norm_may_be_absent(state, network):
    without = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    ours = authors_names.converted_weights(without, network, DISTANCES, "theirs.pth")
    assert {n for n in network if not n.endswith("num_batches_tracked")} == set(ours)


# ---- what does not fit --------------------------------------------------------------------------


def test_unmatched_entries_of_both_sides_are_named(state, network):
    changed = dict(state)
    del changed["backbone.res3.1.conv2.weight"]
    del changed["amwc_layer.edge_costs_weights.5"]
    del changed["AFF_EMBED_head.decoder.res2.fuse_conv.pointwise.norm.bias"]
    changed["sem_seg_head.head.2.weight"] = torch.zeros(1)
    changed["sem_seg_head.loss.weight"] = torch.zeros(1)
    changed["ema.decay"] = torch.zeros(1)
    changed["backbone.stem.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    with pytest.raises(CheckpointError) as caught:
        authors_names.converted_weights(changed, network, DISTANCES, "theirs.pth")
    head, unused, missing, misfits = str(caught.value).split("\nEntries of ")
    assert head.startswith("theirs.pth does not fit")
    assert {line.strip() for line in unused.splitlines()[1:]} == {
        "sem_seg_head.head.2.weight",
        "sem_seg_head.loss.weight",
        "ema.decay",
    }
    assert {line.strip() for line in missing.splitlines()[1:]} == {
        "backbone.res3.1.conv2.weight",
        "cost_scale.edge_offset[2]",
        "affinity_head.decoder.fuse.res2.pointwise.norm.bias",
    }
    shapes = "(there (64, 3, 7, 7), here (64, 3, 3, 3))"
    assert misfits.splitlines()[1:] == [f"  backbone.stem.conv1.weight {shapes}"]


@pytest.mark.parametrize(
    "name",
    [
        "backbone.res5.2.conv3.norm.running_var",
        "AFF_EMBED_head.classifiers.3.2.bias",
        "AFF_EMBED_head.affinity_head.0.weight",
        "sem_seg_head.decoder.res5.project_conv.convs.4.1.bias",
        "amwc_layer.seg_cost_weights.1",
    ],
)
def test_one_missing_entry_is_enough_to_refuse(state, network, name):
    changed = {key: value for key, value in state.items() if key != name}
    with pytest.raises(CheckpointError, match="not filled") as caught:
        authors_names.converted_weights(changed, network, DISTANCES, "theirs.pth")
    leaf = authors_names.our_name(name).rpartition(".")[2]
    assert leaf in str(caught.value)


def test_network_without_cost_scales_is_refused_since_theirs_would_be_lost(state):
    without = skeleton(19, DISTANCES, **{"MODEL.COPS.COST_SCALES": False})
    with pytest.raises(CheckpointError, match=r"seg_cost_weights\.\{0, 1\}"):
        authors_names.converted_weights(state, without, DISTANCES, "theirs.pth")


@pytest.mark.parametrize("distances", [(4, 1, 16, 32, 64), (2, 4, 16, 32, 64)])
def test_distances_in_another_order_do_not_fit(state, distances):
    """The classifier of distance 1 has another shape than the others."""
    with pytest.raises(CheckpointError, match=r"classifiers\.0\.0\.weight \(there"):
        authors_names.converted_weights(state, skeleton(19, distances), distances, "theirs.pth")


def test_areas():
    things = (False, True, True)
    limits = authors_names.area_limits(torch.tensor([4096.0, 200.0, 200.0]), things)
    assert limits == (200.0, 4096.0)
    assert authors_names.area_limits(torch.tensor([0.1, 0.2, 0.3]), things) is None
    assert authors_names.area_limits(torch.full((3,), 100.0), things) == (100.0, 100.0)
    with pytest.raises(CheckpointError, match="not for the classes that the data set calls things"):
        authors_names.area_limits(torch.tensor([200.0, 4096.0, 200.0]), things)


# ---- the program --------------------------------------------------------------------------------


def fails(tool: ModuleType, folder: Path, weights: object, *words: str) -> str:
    """Run the program on a file; return its message and check that it has written nothing."""
    torch.save(weights, folder / "theirs.pth")
    arguments = [str(folder / "theirs.pth"), str(folder / "ours.pth"), "--config-file", CITYSCAPES]
    with pytest.raises(SystemExit) as caught:
        tool.run([*arguments, *words])
    assert {path.name for path in folder.iterdir()} == {"theirs.pth"}
    assert str(caught.value).startswith("convert_cops_checkpoint.py: ")
    return str(caught.value)


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
    ours = {"model": stub, "class_table": [], "config": "", "iteration": 1, "seed": 0}
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


@pytest.mark.parametrize(
    "count, given, expected",
    [
        (6, None, (1, 4, 16, 32, 64, 128)),
        (5, None, (1, 4, 16, 32, 64)),
        (4, None, (1, 4, 16, 32)),
        (3, [1, 8, 24], (1, 8, 24)),
    ],
)
def test_distances_of_a_file(tool, count, given, expected):
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.merge_from_file(CITYSCAPES)
    tool._set_distances(cfg, count, given, Path("theirs.pth"))
    assert expected == cfg.MODEL.COPS.DISTANCES


def test_settings_of_a_coco_file(tool):
    """Their COCO network from the built-in class table, without the data set."""
    args = tool.parse_args(
        ["a.pth", "b.pth", "--config-file", str(ROOT / "configs/cops/coco/full.yaml")]
    )
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
    tool.take_settings(cfg, weights, None, Path("a.pth"))
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
