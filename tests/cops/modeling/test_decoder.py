"""The DeepLabV3+ decoder: pooling windows, sizes, widths and norms.

Its arithmetic as a whole is compared with an independent forward pass in
tests/tools/test_convert_cops_checkpoint.py.
"""

from __future__ import annotations

import pytest
import torch
from cops_factory import thin_head_config
from detectron2.layers import DepthwiseSeparableConv2d, ShapeSpec
from torch import nn

from cops.modeling.decoder import (
    AtrousPyramid,
    DeepLabDecoder,
    convolution,
    normalization,
    separable_convolution,
)

SHAPES = {
    "res2": ShapeSpec(channels=6, stride=4),
    "res3": ShapeSpec(channels=8, stride=8),
    "res4": ShapeSpec(channels=10, stride=16),
    "res5": ShapeSpec(channels=12, stride=16),
}


def decoder(**changes) -> DeepLabDecoder:
    options = {
        "input_shape": SHAPES,
        "in_features": ("res2", "res3", "res5"),
        "project_channels": (2, 4),
        "channels": 16,
        "aspp_channels": 8,
        "aspp_dilations": (1, 2, 3),
        "aspp_dropout": 0.0,
        "aspp_pool_size": (0, 0),
        "norm": "BN",
    }
    return DeepLabDecoder(**{**options, **changes})


def features(height: int, width: int, count: int = 2) -> dict[str, torch.Tensor]:
    """Maps of an image of that size, each side divided by the stride and rounded up."""
    return {
        name: torch.randn(
            count, shape.channels, -(-height // shape.stride), -(-width // shape.stride)
        )
        for name, shape in SHAPES.items()
    }


def pyramid(window: tuple[int, int] | None, dropout: float = 0.0) -> AtrousPyramid:
    torch.manual_seed(0)
    return AtrousPyramid(
        in_channels=4,
        out_channels=8,
        dilations=(1, 2),
        pool_window=window,
        dropout=dropout,
        norm="BN",
    )


@pytest.mark.parametrize("window", [(1, 1), (2, 3), (4, 1), (5, 7)])
def test_pooling_is_the_mean_over_each_window_that_fits(window):
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    found = pyramid(window)._pool(x)
    rows, columns = 5 - window[0] + 1, 7 - window[1] + 1
    assert tuple(found.shape) == (2, 4, rows, columns)
    for i in range(rows):
        for j in range(columns):
            mean = x[:, :, i : i + window[0], j : j + window[1]].mean(dim=(2, 3))
            torch.testing.assert_close(found[:, :, i, j], mean)


def test_window_larger_than_the_map_is_cut_to_it():
    x = torch.randn(2, 4, 5, 7)
    for window, same_as in (((9, 9), (5, 7)), ((9, 3), (5, 3)), ((2, 99), (2, 7))):
        torch.testing.assert_close(pyramid(window)._pool(x), pyramid(same_as)._pool(x))
    torch.testing.assert_close(pyramid((9, 9))._pool(x), pyramid(None)._pool(x))


def test_pyramid_with_a_window_differs_from_global_pooling_only_where_the_image_is_larger():
    """Trained on crops, used on images: on a map of the crop's size both are the same."""
    windowed, whole = pyramid((4, 6)).eval(), pyramid(None).eval()
    crop, image = torch.randn(1, 4, 4, 6), torch.randn(1, 4, 8, 12)
    torch.testing.assert_close(windowed(crop), whole(crop))
    assert not torch.allclose(windowed(image), whole(image))
    assert windowed(image).shape == whole(image).shape == (1, 8, 8, 12)


def test_pooled_part_has_a_bias_and_no_norm():
    pooled = pyramid(None).pooled
    assert pooled.bias is not None and pooled.norm is None
    # One cell and one image: batch norm could not train on it.
    pyramid(None).train()(torch.randn(1, 4, 3, 3)).sum().backward()


def test_dropout_in_training_only():
    x = torch.rand(1, 4, 40, 40) + 1
    kept, dropping = pyramid(None), pyramid(None, dropout=0.25)
    torch.testing.assert_close(kept.eval()(x), dropping.eval()(x))
    torch.manual_seed(1)
    with_dropout, without = dropping.train()(x), kept.train()(x)
    alive = without > 0
    share = (with_dropout[alive] == 0).float().mean()
    assert 0.2 < share < 0.3
    survivors = alive & (with_dropout > 0)
    torch.testing.assert_close(with_dropout[survivors], without[survivors] / 0.75)


@pytest.mark.parametrize("size", [(64, 96), (53, 81), (16, 16), (5, 3)])
def test_every_size_gives_the_finest_map_and_a_gradient_everywhere(size):
    network = decoder(aspp_pool_size=(32, 48))
    inputs = {name: x.requires_grad_(True) for name, x in features(*size).items()}
    found = network(inputs)
    assert tuple(found.shape) == (2, 16, -(-size[0] // 4), -(-size[1] // 4))
    assert (network.out_channels, network.stride) == (16, 4)
    (found * torch.randn_like(found)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    used = {name for name, x in inputs.items() if x.grad is not None}
    assert used == {"res2", "res3", "res5"}


def test_last_fusion_is_the_last_in_its_dict():
    """Fine-tuning trains the last layer of the decoder, which it finds there."""
    assert list(decoder().fuse) == ["res3", "res2"]


def test_one_map_alone_is_the_pyramid():
    network = decoder(in_features=("res5",), project_channels=())
    maps = features(64, 64)
    network.eval()
    torch.testing.assert_close(network(maps), network.aspp(maps["res5"]))
    assert (network.out_channels, network.stride) == (8, 16)


@pytest.mark.parametrize("norm", ["BN", "GN", "FrozenBN", ""])
def test_norms(norm):
    network = decoder(norm=norm)
    network(features(32, 32)).sum().backward()
    has_bias = network.fuse["res2"].pointwise.bias is not None
    assert has_bias == (norm == "")


def test_sync_batch_norm_in_one_process():
    network = decoder(norm="SyncBN")
    assert isinstance(network.aspp.project.norm, nn.SyncBatchNorm)
    network.eval()(features(32, 32))


@pytest.mark.parametrize(
    "channels, groups", [(256, 32), (128, 32), (64, 16), (24, 6), (10, 2), (3, 1), (1, 1)]
)
def test_groups_divide_the_channels_and_have_at_least_four_of_them(channels, groups):
    norm = convolution(3, channels, 1, normalization("GN")).norm
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups
    assert channels % groups == 0 and (groups == 1 or channels // groups >= 4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"in_features": ("res2", "res6")}, r"must name maps of the backbone, which gives .*res5"),
        ({"in_features": ()}, r"must name maps"),
        ({"in_features": ("res5", "res3", "res2")}, r"strides \[16, 8, 4\]: order them ascending"),
        ({"project_channels": (2,)}, r"needs one number for each of \('res2', 'res3'\)"),
        ({"aspp_pool_size": (30, 32)}, r"must be two multiples of 16"),
        ({"aspp_pool_size": (0, 32)}, r"must be two multiples of 16"),
        ({"norm": "IN"}, r"norm is 'IN': use one of"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        decoder(**changes)


def test_a_branch_takes_all_maps_of_the_backbone_the_last_one_of_the_greatest_stride():
    cfg = thin_head_config()
    cfg.MODEL.COPS.SEMANTIC.PROJECT_CHANNELS = (2, 4, 3)
    backwards = dict(reversed(SHAPES.items()))
    built = DeepLabDecoder(cfg, backwards, "SEMANTIC")
    assert built.in_features == ("res2", "res3", "res4", "res5")
    assert [built.project[name].out_channels for name in ("res2", "res3", "res4")] == [2, 4, 3]
    with pytest.raises(ValueError, match="project_channels"):
        DeepLabDecoder(cfg, backwards, "AFFINITY")


# ------------------------------------------------------------------ depthwise convolutions on a CPU


def test_separable_convolution_is_detectron2s():
    torch.manual_seed(0)
    ours = separable_convolution(6, 8, 5, "BN")
    x = torch.randn(2, 6, 9, 7)
    expected = DepthwiseSeparableConv2d.forward(ours, x)
    assert ours(x).equal(expected)
    ours.eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).equal(DepthwiseSeparableConv2d.forward(ours, x))


def test_depthwise_part_trains_in_single_precision_on_a_cpu():
    torch.manual_seed(0)
    ours = separable_convolution(6, 8, 5, "BN")
    seen = {}
    for name in ("depthwise", "pointwise"):
        getattr(ours, name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.dtype})
        )
    x = torch.randn(2, 6, 9, 7, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = ours(x)
    assert seen == {"depthwise": torch.float32, "pointwise": torch.bfloat16}
    result.float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    gradient = ours.depthwise.weight.grad.clone()
    ours.zero_grad()
    ours(x.detach().float()).square().sum().backward()
    exact = ours.depthwise.weight.grad
    assert (gradient - exact).norm() < 0.03 * exact.norm()
