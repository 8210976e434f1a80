"""Feature decoder and semantic head: widths, sharing, the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from fvcore.nn.weight_init import c2_msra_fill
from model_factory import tiny_config
from placing import placed
from torch import nn

from unified_panoptic.losses.lovasz import lovasz_softmax
from unified_panoptic.modeling.semantic_head import FeatureDecoder, PerLevelDecoder, SemanticHead

LEVELS = ("p2", "p3", "p4", "p5")


def decoder(**changes) -> FeatureDecoder:
    arguments = {
        "in_channels": 16,
        "in_features": LEVELS,
        "num_convs": 2,
        "hidden_channels": 24,
        "channels": 8,
        "deformable": True,
        "norm": "GN",
    }
    return FeatureDecoder(**{**arguments, **changes})


def head(**changes) -> SemanticHead:
    arguments = {"num_classes": 5, "loss": "cross_entropy", "loss_weight": 1.0, "loss_stride": 4}
    return SemanticHead(decoder=decoder(), **{**arguments, **changes})


def pyramid(height: int = 64, width: int = 96) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(2, 16, height // stride, width // stride)
        for name, stride in zip(LEVELS, (4, 8, 16, 32), strict=True)
    }


@pytest.mark.parametrize(
    "num_convs,widths",
    [(1, [16, 8]), (2, [16, 8, 8]), (3, [16, 24, 8, 8]), (4, [16, 24, 24, 8, 8])],
)
@pytest.mark.parametrize("deformable", [True, False])
def test_widths(num_convs, widths, deformable):
    made = decoder(num_convs=num_convs, deformable=deformable)
    shapes = [tuple(block[0].weight.shape[:2]) for block in made.subnet]
    assert shapes == list(zip(widths[1:], widths[:-1], strict=True))
    assert all(type(block[1]) is nn.GroupNorm for block in made.subnet)
    assert made.out_channels == 4 * 8


def test_paper_sized_decoder_has_32_groups():
    made = decoder(hidden_channels=256, channels=128, num_convs=3)
    assert [block[1].num_groups for block in made.subnet] == [32, 32, 32]
    assert made.out_channels == 512


def test_levels_share_the_subnet(device):
    torch.manual_seed(0)
    made = decoder().to(device)
    features = placed(device, pyramid())
    # The same map as every level comes out four times, and there are no weights for a level.
    same = made(dict.fromkeys(LEVELS, features["p2"]))
    for number in range(1, 4):
        torch.testing.assert_close(same[:, :8], same[:, 8 * number : 8 * number + 8])
    assert sum(p.numel() for p in made.parameters()) == sum(
        p.numel() for p in decoder(in_features=("p2",)).parameters()
    )


def test_output_is_at_the_finest_stride_with_the_levels_side_by_side():
    torch.manual_seed(0)
    made = decoder()
    features = pyramid()
    result = made(features)
    assert tuple(result.shape) == (2, 32, 16, 24)
    torch.testing.assert_close(result[:, :8], made.subnet(features["p2"]))
    coarse = made.subnet(features["p5"])  # stride 32: 8 cells of stride 4 to a side
    # Column 12's centre is 12.5 / 8 = 1.5625 coarse cells from the left, so 0.0625 beyond the
    # centre of coarse cell 1. Row 0 lies above the centre of coarse row 0 and takes its value.
    expected = 0.9375 * coarse[:, :, 0, 1] + 0.0625 * coarse[:, :, 0, 2]
    torch.testing.assert_close(result[:, 24:, 0, 12], expected)


def test_per_level_decoder_is_panoptic_fpns():
    """With one predictor for both, the logits are those of Detectron2's head."""
    torch.manual_seed(0)
    shapes = {
        name: ShapeSpec(channels=16, stride=stride)
        for name, stride in zip(LEVELS, (4, 8, 16, 32), strict=True)
    }
    theirs = SemSegFPNHead(shapes, num_classes=5, conv_dims=32, common_stride=4, norm="GN")
    made = PerLevelDecoder(shapes, 32, "GN")
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("predictor")}
    made.head.load_state_dict(weights)
    features = pyramid()
    expected = theirs.layers(features)
    torch.testing.assert_close(theirs.predictor(made(features)), expected)
    # Level p5 rises from stride 32 to 4 in three steps, each with a convolution of its own.
    assert sum(isinstance(m, nn.Conv2d) for m in made.head.p5) == 3
    assert sum(isinstance(m, nn.Conv2d) for m in made.head.p2) == 1
    with pytest.raises(ValueError, match="channels is 48: use a multiple of 32"):
        PerLevelDecoder(shapes, 48, "GN")


def test_the_semantic_decoder_is_a_choice_and_the_affinitys_is_not():
    keys = {"MODEL.UNIFIED.SEMANTIC.DECODER": "per_level", "MODEL.UNIFIED.DECODER.NORM": "GN"}
    cfg = tiny_config({**keys, "MODEL.UNIFIED.SEMANTIC.DECODER_CHANNELS": 32})
    model = build_model(cfg)
    assert isinstance(model.sem_seg_head.decoder, PerLevelDecoder)
    assert isinstance(model.affinity_head.decoder, FeatureDecoder)
    logits = model.sem_seg_head(
        {name: x[:, :1].expand(-1, 16, -1, -1) for name, x in pyramid().items()}
    )
    assert logits.shape == (2, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 16, 24)
    cfg.MODEL.UNIFIED.SEMANTIC.DECODER = "none"
    with pytest.raises(ValueError, match="SEMANTIC.DECODER is 'none': use 'shared' or 'per_level'"):
        build_model(cfg)


@pytest.mark.parametrize(("init", "deviation"), [("small", 0.01), ("msra", 0.2**0.5)])
def test_first_weights_of_the_classifier(init, deviation):
    """He's deviation for 10 classes is sqrt(2 / 10), as in Detectron2's heads (c2_msra_fill)."""
    torch.manual_seed(0)
    made = SemanticHead(
        decoder=decoder(channels=128),
        **{"num_classes": 10, "loss": "cross_entropy", "loss_weight": 1.0, "loss_stride": 4},
        predictor_init=init,
    )
    # 5120 numbers: their deviation is within 1 / sqrt(2 * 5120), 1 %, of the true one.
    assert made.predictor.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert not made.predictor.bias.any()
    if init == "msra":
        theirs = nn.Conv2d(512, 10, 1)
        c2_msra_fill(theirs)
        assert theirs.weight.std().item() == pytest.approx(deviation, rel=0.05)
    with pytest.raises(ValueError, match="predictor_init is 'large': use 'small' or 'msra'"):
        head(predictor_init="large")


@pytest.mark.parametrize("stride", [4, 1])
@pytest.mark.parametrize("size", [(64, 96), (61, 94)])
def test_cross_entropy_is_the_mean_over_labelled_pixels(stride, size, device):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 16, 24)
    truth = torch.full((2, 64, 96), 255)
    truth[:, : size[0], : size[1]] = torch.randint(0, 5, (2, *size))
    truth[1, 20:40] = 255
    logits, truth = placed(device, logits, truth)
    pairs = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    first = 2 if stride == 4 else 0
    pairs, compared = (x[..., first::stride, first::stride] for x in (pairs, truth))
    labelled = compared != 255
    chosen = pairs.log_softmax(1).gather(1, compared.clamp(max=4)[:, None])[:, 0]
    expected = -chosen[labelled].mean() * 0.2
    loss = head(loss_stride=stride, loss_weight=0.2).to(device).losses(logits, truth)
    assert set(loss) == {"loss_sem_seg"}
    torch.testing.assert_close(loss["loss_sem_seg"], expected)


@pytest.mark.parametrize("stride", [4, 1])
def test_lovasz_softmax_by_config(stride):
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 5, 16, 24), torch.randint(0, 5, (2, 64, 96))
    truth[:, 30:] = 255
    loss = head(loss="lovasz_softmax", loss_stride=stride, loss_weight=3.0).losses(logits, truth)
    fine = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    if stride == 4:
        fine, truth = fine[:, :, 2::4, 2::4], truth[:, 2::4, 2::4]
    expected = lovasz_softmax(fine.softmax(1), truth)
    torch.testing.assert_close(loss["loss_sem_seg"], 3 * expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "lovasz_softmax"])
def test_all_void_costs_nothing_and_keeps_its_graph(loss):
    logits = torch.randn(1, 5, 8, 8, requires_grad=True)
    value = head(loss=loss).losses(logits, torch.full((1, 32, 32), 255))["loss_sem_seg"]
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().sum() == 0


def test_head_predicts_all_classes_at_stride_4_with_the_configured_widths():
    shapes = {name: ShapeSpec(channels=16) for name in LEVELS}
    made = SemanticHead(tiny_config(), shapes)
    assert tuple(made(pyramid()).shape) == (2, 5, 16, 24)
    assert made.predictor.bias.abs().sum() == 0
    assert made.decoder.subnet[0][0].weight.shape == (8, 16, 3, 3)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"loss": "dice"}, "loss is 'dice'"),
        ({"loss_stride": 2}, "loss_stride is 2"),
    ],
)
def test_unknown_losses_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        head(**changes)


@pytest.mark.parametrize(
    "changes,message", [({"num_convs": 0}, "num_convs is 0"), ({"norm": "BN"}, "norm is 'BN'")]
)
def test_unknown_decoders_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        decoder(**changes)


def test_levels_of_different_widths_are_refused():
    shapes = {name: ShapeSpec(channels=c) for name, c in zip(LEVELS, (16, 16, 16, 8), strict=True)}
    with pytest.raises(ValueError, match="differ in channels"):
        SemanticHead(tiny_config(), shapes)
