"""Networks of the COPS authors: their names and settings against ours, entry by entry."""

from __future__ import annotations

import hashlib

import authors_network
import pytest
import torch
from authors_network import entries
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.modeling import build_backbone
from project import ROOT
from torch import nn

from cops import add_cops_config, authors_names
from cops.authors_names import SETTINGS, our_name
from cops.modeling.affinity_head import AffinityHead
from cops.modeling.cost_scale import CostScale
from cops.modeling.semantic_head import SemanticHead
from panoptic_common.checkpoint.files import CheckpointError

CONFIGS = ROOT / "configs" / "cops"
IS_THING = tuple(bool(entry["isthing"]) for entry in CITYSCAPES_CATEGORIES)
DISTANCES = (1, 4, 16, 32, 64)


def full_config(name: str, num_classes: int, distances: tuple[int, ...]) -> CfgNode:
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name / "pretrain.yaml"))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.COPS.DISTANCES = distances
    return cfg


@pytest.fixture(scope="module")
def state() -> authors_network.State:
    """A network of theirs for Cityscapes, with the 5 distances of their pre-training config."""
    return authors_network.random_state(19, 5, IS_THING)


@pytest.fixture(scope="module")
def network() -> authors_network.State:
    """State dict of ours that the network above fits, without values."""
    return skeleton(19, DISTANCES)


def skeleton(num_classes: int, distances: tuple[int, ...]) -> authors_network.State:
    """State dict of our network on the meta device."""
    cfg = full_config("cityscapes", num_classes, distances)
    with torch.device("meta"):
        parts = {"backbone": build_backbone(cfg), "cost_scale": CostScale(cfg)}
        shape = parts["backbone"].output_shape()
        parts.update(sem_seg_head=SemanticHead(cfg, shape), affinity_head=AffinityHead(cfg, shape))
        return nn.ModuleDict(parts).state_dict()


# SHA-256 of the lines "name shape", sorted, of the state dicts that the authors' code makes for
# Cityscapes and for COCO. Names and shapes alone, no weights.
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


@pytest.mark.parametrize(
    "name, num_classes, distances",
    [
        ("cityscapes", 19, (1, 4, 16, 32, 64)),  # the authors' list for Cityscapes
        ("cityscapes", 19, (1, 4, 16, 32, 64, 128)),  # the paper's
        ("coco", 133, (1, 4, 16, 32)),  # the authors' list for COCO
        ("coco", 133, (1, 4, 16, 32, 64)),  # the paper's
    ],
)
def test_names_map_one_to_one_to_the_authors_and_shapes_are_theirs(name, num_classes, distances):
    cfg = full_config(name, num_classes, distances)
    with torch.device("meta"):
        backbone = build_backbone(cfg)
        network = nn.ModuleDict(
            {
                "backbone": backbone,
                "sem_seg_head": SemanticHead(cfg, backbone.output_shape()),
                "affinity_head": AffinityHead(cfg, backbone.output_shape()),
                "cost_scale": CostScale(cfg),
            }
        )
    found = {}
    for key, value in network.state_dict().items():
        if key.startswith("cost_scale.edge_"):  # a vector for their parameters of one entry
            found.update({f"{key}[{index}]": (1,) for index in range(len(value))})
        else:
            found[key] = tuple(value.shape)
    theirs = {k: v for k, v in entries(num_classes, len(distances)).items() if k not in SETTINGS}
    renamed = {our_name(key): shape for key, shape in theirs.items()}
    assert len(renamed) == len(theirs)
    assert renamed == found


@pytest.mark.parametrize(
    "num_classes, num_distances, count", [(19, 5, 34_004_649), (133, 4, 33_964_311)]
)
def test_number_of_parameters(num_classes, num_distances, count):
    """34 M, the paper's Table 3; summed here from the list of shapes, with which the networks agree
    (see above). The lists hold K more: areas, one per class, which are settings in our config."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", *SETTINGS)
    shapes = [s for n, s in entries(num_classes, num_distances).items() if not n.endswith(buffers)]
    assert sum(torch.Size(shape).numel() for shape in shapes) == count


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


@pytest.mark.parametrize(
    "count, given, expected",
    [
        (6, None, (1, 4, 16, 32, 64, 128)),
        (5, None, (1, 4, 16, 32, 64)),
        (4, None, (1, 4, 16, 32)),
        (3, [1, 8, 24], (1, 8, 24)),
    ],
)
def test_distances_of_a_file(count, given, expected):
    configured = authors_names.DISTANCES
    assert authors_names.choose_distances(configured, count, given, "a.pth") == expected


def test_configured_distances_stay_if_their_number_fits():
    assert authors_names.choose_distances((1, 8, 24), 3, None, "a.pth") == (1, 8, 24)
    with pytest.raises(CheckpointError, match=r"a.pth has classifiers for 2 distances"):
        authors_names.choose_distances((1, 4), 2, [1, 4, 8], "a.pth")


def test_what_a_file_changes_is_remarked():
    cfg = full_config("cityscapes", 19, authors_names.DISTANCES)
    cfg.MODEL.PANOPTIC.IS_THING = IS_THING
    weights = {
        "sem_seg_head.predictor.weight": torch.zeros(19, 1, 1, 1),
        "AFF_EMBED_head.classifiers.1.2.bias": torch.zeros(2),
        "pixel_mean": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1),
        "amwc_layer.training_per_class_areas": torch.arange(19.0),
    }
    remarks = authors_names.take_settings(cfg, weights, None, "a.pth")
    assert len(remarks) == 2
    assert "DISTANCES becomes (1, 4)" in remarks[0] and "is not used" in remarks[1]
    assert cfg.MODEL.COPS.DISTANCES == (1, 4) and cfg.MODEL.PIXEL_MEAN == [1.0, 2.0, 3.0]
    assert authors_names.take_settings(cfg, weights, None, "a.pth") == remarks[1:]
