"""Deformable convolution: torchvision's operator as the twin, closed forms, gradients, memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from placing import placed
from torch import nn
from torchvision.ops import deform_conv2d

from unified_panoptic.modeling import deformable
from unified_panoptic.modeling.deformable import DeformableConv3x3, deformable_by_rows

CHANNELS_LAST = torch.channels_last


def problem(size: tuple[int, int], spread: float, *, images: int = 2, dtype=torch.float32):
    """Make input, offsets with a deviation of `spread` cells, weights and bias."""
    torch.manual_seed(0)
    x = torch.randn(images, 12, *size, dtype=dtype)
    offset = torch.randn(images, 18, *size, dtype=dtype) * spread
    weight, bias = torch.randn(7, 12, 3, 3, dtype=dtype) / 10, torch.randn(7, dtype=dtype)
    return x, offset, weight, bias


@pytest.mark.parametrize("bias", [True, False])
def test_deformable_convolution_starts_as_a_plain_one(bias, device):
    torch.manual_seed(0)
    layer = DeformableConv3x3(4, 6, bias=bias).to(device)
    if bias:
        nn.init.normal_(layer.bias)
    x = placed(device, torch.randn(2, 4, 7, 9))
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


def test_constant_offsets_shift_the_input(device):
    torch.manual_seed(0)
    layer = DeformableConv3x3(4, 6, bias=False).to(device)
    # Offsets come as (y, x) for each of the 9 taps: one row down and two columns to the right.
    layer.offset.bias.data.copy_(torch.tensor([1.0, 2.0]).repeat(9))
    x = placed(device, torch.randn(1, 4, 8, 10))
    shifted = F.pad(x, (0, 2, 0, 1))[..., 1:, 2:]
    expected = F.conv2d(shifted, layer.weight, padding=1)
    # The taps that leave the image differ at its border, where the shifted copy is padded.
    torch.testing.assert_close(layer(x)[..., 1:, 1:], expected[..., 1:, 1:])


def test_deformable_convolution_gradcheck(device):
    torch.manual_seed(0)
    layer = DeformableConv3x3(2, 2, bias=True).double().to(device)
    nn.init.uniform_(layer.offset.bias, 0.2, 0.4)  # away from the kinks at whole numbers
    nn.init.normal_(layer.offset.weight, std=0.01)
    x = placed(device, torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradcheck(
        lambda weight, offset_bias: torch.func.functional_call(
            layer, {"weight": weight, "offset.bias": offset_bias}, x.detach()
        ),
        (layer.weight, layer.offset.bias),
    )


@pytest.mark.parametrize("size", [(20, 31), (5, 4), (1, 1), (1, 9)])
@pytest.mark.parametrize("spread", [0.0, 0.7, 30.0, 1e30])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
def test_values_are_the_operators(size, spread, memory_format):
    """With whole offsets, with fractions, mostly outside the image, and beyond any index."""
    x, offset, weight, bias = problem(size, spread)
    expected = deform_conv2d(x, offset, weight, bias, padding=1)
    found = deformable_by_rows(x.contiguous(memory_format=memory_format), offset, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    without = deformable_by_rows(x, offset, weight, None)
    torch.testing.assert_close(without + bias[:, None, None], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 0.7, 30.0])
def test_gradients_are_the_operators(spread):
    """Also where an offset is whole, as all are at the start: the slope towards the next cell."""
    given = problem((20, 31), spread)
    gradients = []
    for convolve in (deform_conv2d, deformable_by_rows):
        tensors = [tensor.clone().requires_grad_() for tensor in given]
        extra = {"padding": 1} if convolve is deform_conv2d else {}
        result = convolve(*tensors, **extra)
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad((result * torch.randn(result.shape)).sum(), tensors))
    for expected, found in zip(*gradients, strict=True):
        scale = max(float(expected.abs().max()), 1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("refused", [False, True])
def test_offsets_and_weights_learn_from_a_frozen_input(monkeypatch, refused):
    """As below a frozen backbone; torch 2.4 refuses a table that needs no gradient."""
    x, offset, weight, bias = problem((5, 4), 0.7)
    if refused:
        monkeypatch.setattr(deformable, "_shares_alone_can_learn", lambda: False)
    learning = [tensor.requires_grad_() for tensor in (offset, weight)]
    found = torch.autograd.grad(deformable_by_rows(x, *learning, bias).square().sum(), learning)
    expected = torch.autograd.grad(
        deform_conv2d(x, *learning, bias, padding=1).square().sum(), learning
    )
    for own, operator in zip(found, expected, strict=True):
        torch.testing.assert_close(own, operator, rtol=1e-4, atol=1e-4)
    assert not x.requires_grad and x.grad is None


def test_blocks_change_nothing(monkeypatch):
    """7 places divide neither an image's 620 nor the batch's 1240: the last block has one place."""
    x, offset, weight, bias = problem((20, 31), 0.7)
    whole = deformable_by_rows(x, offset, weight, bias)
    monkeypatch.setattr(deformable, "PLACES_AT_A_TIME", 7)
    monkeypatch.setattr(deformable, "PLACES_AT_A_TIME_WITH_GRADIENTS", 7)
    torch.testing.assert_close(deformable_by_rows(x, offset, weight, bias), whole)
    learnt = weight.requires_grad_()
    torch.testing.assert_close(deformable_by_rows(x, offset, learnt, bias), whole)


def test_backward_keeps_no_columns():
    """What the taps read is 9 times the input; none of it is kept for the backward pass."""
    x, offset, weight, bias = (t.requires_grad_() for t in problem((40, 50), 0.7, images=1))
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float32:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        deformable_by_rows(x, offset, weight, bias)
    # The shares of the four cells of each tap are the largest: 9 * 4 for each of 2000 places.
    assert 0 < max(kept) <= 9 * 4 * 40 * 50 < 9 * x.numel()


def test_an_offset_that_is_no_number_spoils_its_place_alone():
    x, offset, weight, bias = problem((6, 8), 0.7, images=1)
    expected = deformable_by_rows(x, offset, weight, bias)
    offset[0, 4, 2, 3] = float("nan")
    found = deformable_by_rows(x, offset, weight, bias)
    assert found[0, :, 2, 3].isnan().all()
    found[0, :, 2, 3] = expected[0, :, 2, 3]
    torch.testing.assert_close(found, expected)


def test_under_autocast_only_the_product_is_rounded():
    """Positions at column 300 keep their fractions, which bfloat16 would lose beyond 256."""
    x, _, weight, bias = problem((1, 310), 0.0, images=1)
    offset = torch.full((1, 18, 1, 310), 0.5)
    expected = deformable_by_rows(x, offset, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = deformable_by_rows(x, offset, weight, bias)
    assert found.dtype == torch.bfloat16
    # Sums of 108 products, each factor rounded by at most 2^-9.
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.05)
    whole = deformable_by_rows(x, torch.zeros_like(offset), weight, bias)
    assert (found[..., 257:300].float() - whole[..., 257:300]).abs().mean() > 0.2


def test_a_model_of_half_precision_is_taken_on_a_cpu():
    """torchvision's operator has no bfloat16 there."""
    torch.manual_seed(0)
    layer = DeformableConv3x3(12, 7, bias=True)
    x = torch.randn(1, 12, 6, 8)
    with torch.no_grad():
        expected = layer(x)
        found = layer.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
