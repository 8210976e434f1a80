"""Semantic and affinity branch: full-size networks, Eq. 10 and 11 by loops, what reaches what."""

from __future__ import annotations

import pytest
import torch
from authors_network import entries
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from project import ROOT
from torch import nn

from cops.authors_names import SETTINGS, our_name
from cops.config import add_cops_config
from cops.grid_graph import grid_graph
from cops.modeling.affinity_head import AffinityHead, feature_differences
from cops.modeling.cost_scale import CostScale
from cops.modeling.semantic_head import SemanticHead

CONFIGS = ROOT / "configs" / "cops"
SHAPES = {
    "res2": ShapeSpec(channels=6, stride=4),
    "res3": ShapeSpec(channels=8, stride=8),
    "res5": ShapeSpec(channels=12, stride=16),
}


def full_config(name: str, num_classes: int, distances: tuple[int, ...]) -> CfgNode:
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name / "pretrain.yaml"))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.COPS.DISTANCES = distances
    return cfg


def thin_config(**changes) -> CfgNode:
    """Heads of 8 to 16 channels and 3 classes; changes are keys of MODEL.COPS.AFFINITY."""
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.MODEL.COPS.DISTANCES = (1, 2, 5)
    for node in (cfg.MODEL.COPS.SEMANTIC, cfg.MODEL.COPS.AFFINITY):
        node.PROJECT_CHANNELS = (2, 4)
        node.DECODER_CHANNELS = node.HEAD_CHANNELS = 16
        node.ASPP_CHANNELS = 8
        node.ASPP_DILATIONS = (1, 2)
        node.ASPP_DROPOUT = 0.0
    for key, value in changes.items():
        cfg.MODEL.COPS.AFFINITY[key] = value
    return cfg


def features(height: int, width: int, count: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(
            count, shape.channels, -(-height // shape.stride), -(-width // shape.stride)
        )
        for name, shape in SHAPES.items()
    }


# ---- full size ----------------------------------------------------------------------------------


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
    (see above). The lists hold K more: areas, one a class, which are settings in our config."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", *SETTINGS)
    shapes = [s for n, s in entries(num_classes, num_distances).items() if not n.endswith(buffers)]
    assert sum(torch.Size(shape).numel() for shape in shapes) == count


# ---- edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [2, 3, 4, 5, 6, 7, 8, 100])
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 4)])
def test_differences_are_equations_10_and_11(distance, size):
    torch.manual_seed(0)
    height, width = size
    f = torch.randn(2, 3, height, width)
    found = feature_differences(f, distance)
    floor, ceil = distance // 2, -(-distance // 2)
    expected = torch.zeros(2, 6, height, width)
    for b in range(2):
        for n in range(3):
            for i in range(height):
                for j in range(width):
                    if j - ceil >= 0 and j + floor < width:
                        expected[b, n, i, j] = f[b, n, i, j + floor] - f[b, n, i, j - ceil]
                    if i - ceil >= 0 and i + floor < height:
                        expected[b, 3 + n, i, j] = f[b, n, i + floor, j] - f[b, n, i - ceil, j]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("distance", [2, 3, 4, 7])
def test_differences_lie_where_the_grid_graph_has_the_edges(distance):
    """With the number of a node as its feature, a difference is that of the edge's ends."""
    height, width = 8, 11
    graph = grid_graph(height, width, (distance,))
    nodes = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    maps = feature_differences(nodes, distance)[0].numpy()
    ends = graph.edges[:, 1] - graph.edges[:, 0]
    assert (graph.edge_costs_from_maps(maps) == ends).all()
    assert (maps[~graph.valid] == 0).all()


def test_an_image_that_varies_along_rows_has_horizontal_differences_only():
    x = torch.arange(6.0).expand(1, 2, 4, 6)
    horizontal, vertical = feature_differences(x, 2).chunk(2, dim=1)
    assert (horizontal[..., 1:-1] == 2).all() and (vertical == 0).all()


def test_channels_are_distance_by_distance_horizontal_then_vertical():
    head = AffinityHead(thin_config(), SHAPES).eval()
    for index, classifier in enumerate(head.classifiers):
        nn.init.zeros_(classifier[2].weight)
        classifier[2].bias.data = torch.tensor([10.0 * index, 10.0 * index + 1])
    logits = head(features(32, 48), torch.zeros(2, 3, 8, 12))
    assert tuple(logits.shape) == (2, 6, 8, 12)
    assert logits[0, :, 3, 4].tolist() == [0, 1, 10, 11, 20, 21]


def test_directions_meet_in_the_last_layer_only():
    classifier = AffinityHead(thin_config(), SHAPES).classifiers[1].eval()
    x = torch.randn(1, 32, 6, 6, requires_grad=True)
    hidden = classifier[1](classifier[0](x))
    for group, other in ((slice(0, 2), slice(16, 32)), (slice(2, 4), slice(0, 16))):
        (gradient,) = torch.autograd.grad(hidden[:, group].sum(), x, retain_graph=True)
        assert (gradient[:, other] == 0).all() and (gradient != 0).any()
    assert classifier[2].groups == 1


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (20, 4), (4, 4)])
def test_odd_sizes_and_distances_that_fit_nowhere_train(size):
    cfg = thin_config()
    cfg.MODEL.COPS.DISTANCES = (1, 4, 64)
    semantic, affinity = SemanticHead(cfg, SHAPES), AffinityHead(cfg, SHAPES)
    nn.init.normal_(semantic.predictor.weight, std=0.1)
    maps = features(*size)
    class_logits = semantic(maps)
    edge_logits = affinity(maps, class_logits)
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    assert tuple(class_logits.shape) == (2, 3, *grid)
    assert tuple(edge_logits.shape) == (2, 6, *grid)
    (edge_logits.square().mean() + class_logits.square().mean()).backward()
    for head in (semantic, affinity):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


# ---- class costs --------------------------------------------------------------------------------


def test_gradient_of_the_edges_does_not_reach_the_semantic_branch():
    cfg = thin_config()
    semantic, affinity = SemanticHead(cfg, SHAPES), AffinityHead(cfg, SHAPES)
    nn.init.normal_(semantic.predictor.weight)
    maps = {name: x.requires_grad_(True) for name, x in features(32, 48).items()}
    class_logits = semantic(maps)
    class_logits.retain_grad()
    edge_logits = affinity(maps, class_logits)
    edge_logits.square().sum().backward()
    assert class_logits.grad is None
    assert all(p.grad is None for p in semantic.parameters())
    assert all(x.grad is not None for x in maps.values())  # the backbone learns from both
    assert affinity.head[0].weight.grad[:, -3:].abs().max() > 0
    # They do count, only not for the gradient.
    assert not torch.allclose(affinity.eval()(maps, class_logits), affinity(maps, class_logits + 1))


def test_class_costs_come_in_as_minus_the_logits():
    head = AffinityHead(thin_config(NORM=""), SHAPES).eval()
    seen = []
    head.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits = torch.randn(2, 3, 8, 12)
    head(features(32, 48), logits)
    assert tuple(seen[0].shape) == (2, 16 + 3, 8, 12)
    torch.testing.assert_close(seen[0][:, 16:], -logits, rtol=0, atol=0)


def test_without_class_costs_the_logits_do_not_matter():
    head = AffinityHead(thin_config(USE_CLASS_COSTS=False), SHAPES).eval()
    assert head.head[0].in_channels == 16
    maps = features(32, 48)
    logits = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(head(maps, logits), head(maps, logits + 5), rtol=0, atol=0)


# ---- widths, norms and what is refused ----------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4, 12, 32])
@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_thin_heads(channels, norm):
    cfg = thin_config(HEAD_CHANNELS=channels, NORM=norm)
    cfg.MODEL.COPS.SEMANTIC.HEAD_CHANNELS = channels
    cfg.MODEL.COPS.SEMANTIC.NORM = norm
    maps = features(32, 32)
    logits = SemanticHead(cfg, SHAPES)(maps)
    head = AffinityHead(cfg, SHAPES)
    assert tuple(head(maps, logits).shape) == (2, 6, 8, 8)
    quarter = max(channels // 4, 1)
    assert [c[0].out_channels for c in head.classifiers] == [quarter, 2 * quarter, 2 * quarter]


def test_an_untrained_network_prefers_no_class():
    logits = SemanticHead(thin_config(), SHAPES)(features(32, 32))
    assert logits.abs().max() < 0.1


@pytest.mark.parametrize("distances", [(), (0, 1), (1, 4, 4), (-1,)])
def test_impossible_distances_are_refused(distances):
    cfg = thin_config()
    cfg.MODEL.COPS.DISTANCES = distances
    with pytest.raises(ValueError, match=r"MODEL.COPS.DISTANCES is .* each of them once"):
        AffinityHead(cfg, SHAPES)
