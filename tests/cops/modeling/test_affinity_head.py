"""Affinity branch: Eq. 10 and 11 by loops, what reaches what, odd sizes."""

from __future__ import annotations

import pytest
import torch
from cops_factory import HEAD_SHAPES, random_features, thin_head_config
from torch import nn

from cops.grid_graph import grid_graph
from cops.modeling.affinity_head import AffinityHead, feature_differences
from cops.modeling.semantic_head import SemanticHead


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
    head = AffinityHead(thin_head_config(), HEAD_SHAPES).eval()
    for index, classifier in enumerate(head.classifiers):
        nn.init.zeros_(classifier[2].weight)
        classifier[2].bias.data = torch.tensor([10.0 * index, 10.0 * index + 1])
    logits = head(random_features(32, 48), torch.zeros(2, 3, 8, 12))
    assert tuple(logits.shape) == (2, 6, 8, 12)
    assert logits[0, :, 3, 4].tolist() == [0, 1, 10, 11, 20, 21]


def test_directions_meet_in_the_last_layer_only():
    classifier = AffinityHead(thin_head_config(), HEAD_SHAPES).classifiers[1].eval()
    x = torch.randn(1, 32, 6, 6, requires_grad=True)
    hidden = classifier[1](classifier[0](x))
    for group, other in ((slice(0, 2), slice(16, 32)), (slice(2, 4), slice(0, 16))):
        (gradient,) = torch.autograd.grad(hidden[:, group].sum(), x, retain_graph=True)
        assert (gradient[:, other] == 0).all() and (gradient != 0).any()
    assert classifier[2].groups == 1


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (20, 4), (4, 4)])
def test_odd_sizes_and_distances_that_fit_nowhere_train(size):
    cfg = thin_head_config()
    cfg.MODEL.COPS.DISTANCES = (1, 4, 64)
    semantic, affinity = SemanticHead(cfg, HEAD_SHAPES), AffinityHead(cfg, HEAD_SHAPES)
    nn.init.normal_(semantic.predictor.weight, std=0.1)
    maps = random_features(*size)
    class_logits = semantic(maps)
    edge_logits = affinity(maps, class_logits)
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    assert tuple(class_logits.shape) == (2, 3, *grid)
    assert tuple(edge_logits.shape) == (2, 6, *grid)
    (edge_logits.square().mean() + class_logits.square().mean()).backward()
    for head in (semantic, affinity):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_gradient_of_the_edges_does_not_reach_the_semantic_branch():
    cfg = thin_head_config()
    semantic, affinity = SemanticHead(cfg, HEAD_SHAPES), AffinityHead(cfg, HEAD_SHAPES)
    nn.init.normal_(semantic.predictor.weight)
    maps = {name: x.requires_grad_(True) for name, x in random_features(32, 48).items()}
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
    head = AffinityHead(thin_head_config(NORM=""), HEAD_SHAPES).eval()
    seen = []
    head.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits = torch.randn(2, 3, 8, 12)
    head(random_features(32, 48), logits)
    assert tuple(seen[0].shape) == (2, 16 + 3, 8, 12)
    torch.testing.assert_close(seen[0][:, 16:], -logits, rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3, 4, 12, 32])
@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_thin_heads(channels, norm):
    cfg = thin_head_config(HEAD_CHANNELS=channels, NORM=norm)
    cfg.MODEL.COPS.SEMANTIC.HEAD_CHANNELS = channels
    cfg.MODEL.COPS.SEMANTIC.NORM = norm
    maps = random_features(32, 32)
    logits = SemanticHead(cfg, HEAD_SHAPES)(maps)
    head = AffinityHead(cfg, HEAD_SHAPES)
    assert tuple(head(maps, logits).shape) == (2, 6, 8, 8)
    quarter = max(channels // 4, 1)
    assert [c[0].out_channels for c in head.classifiers] == [quarter, 2 * quarter, 2 * quarter]


@pytest.mark.parametrize("distances", [(), (0, 1), (1, 4, 4), (-1,)])
def test_impossible_distances_are_refused(distances):
    cfg = thin_head_config()
    cfg.MODEL.COPS.DISTANCES = distances
    with pytest.raises(ValueError, match=r"distances is .* each of them once"):
        AffinityHead(cfg, HEAD_SHAPES)
