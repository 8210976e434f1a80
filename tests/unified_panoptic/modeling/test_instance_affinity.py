"""Dense instance affinity against the explicit pairwise matrix, and what it costs (Eq. 3, 4)."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from model_factory import assert_gradient_of_multilinear, unchecked_config
from placing import placed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from unified_panoptic.modeling.instance_affinity import (
    ACTIVATIONS,
    InstanceAffinityHead,
    activate,
    apply_affinity,
    coordinate_features,
    pixel_affinity,
    spread,
    summarise,
)

LEVELS = ("p2", "p3", "p4", "p5")


def head(**changes) -> InstanceAffinityHead:
    torch.manual_seed(0)
    keys = {f"MODEL.UNIFIED.AFFINITY.{name.upper()}": value for name, value in changes.items()}
    return InstanceAffinityHead(unchecked_config(keys), {n: ShapeSpec(channels=16) for n in LEVELS})


def random_case(channels=6, segments=4, height=5, width=7):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(segments, height, width, generator=generator),
        torch.randn(channels, height, width, generator=generator),
        torch.randn(channels, height, width, generator=generator),
    )


def pairwise(phi_0: torch.Tensor, phi_1: torch.Tensor) -> torch.Tensor:
    """A, (n, n), which the head never forms."""
    return phi_0.flatten(1).T @ phi_1.flatten(1)


def test_equals_the_explicit_pairwise_product(device):
    psi, phi_0, phi_1 = placed(device, *random_case())
    explicit = (pairwise(phi_0, phi_1) @ psi.flatten(1).T).T.view_as(psi)
    torch.testing.assert_close(apply_affinity(psi, phi_0, phi_1), explicit, rtol=1e-4, atol=1e-4)


def test_gradients(device):
    assert_gradient_of_multilinear(apply_affinity, *placed(device, *random_case(3, 2, 2, 3)))


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, torch.Tensor):
                self.numel = max(self.numel, part.numel())
        return result


def test_nothing_as_large_as_the_pairwise_matrix_is_made():
    inputs = [x.requires_grad_() for x in random_case(8, 5, 20, 30)]
    with LargestTensor() as seen:
        apply_affinity(*inputs).sum().backward()
    assert seen.numel == 8 * 600  # phi itself; A would have 600 * 600
    with LargestTensor() as seen:  # the measurement does see such a matrix
        pairwise(inputs[1], inputs[2])
    assert seen.numel == 600 * 600


def test_cost_at_the_papers_size():
    # (H, W) = (800, 1300), d = 4: n = 200 * 325 = 65000 cells; C = 128; S = 100 + 53 = 153.
    psi, phi_0, phi_1 = (torch.empty(c, 200, 325, device="meta") for c in (153, 128, 128))
    with FlopCounterMode(display=False) as counter:
        spread(summarise(psi, phi_1), phi_0)
    # 2 n C S multiply-adds = 2 * 65000 * 128 * 153 = 2.55e9, so 5.1e9 operations ("5 billion").
    operations = counter.get_total_flops()
    assert operations == 2 * (2 * 65000 * 128 * 153)
    # Explicitly n^2 C for A and n^2 S for A Psi: 65000^2 * 281 = 1.19e12 multiply-adds.
    explicit = 65000**2 * (128 + 153)
    assert 1 - operations / 2 / explicit == pytest.approx(0.998, abs=5e-4)
    assert pytest.approx(15.7, abs=0.05) == 65000**2 * 4 / 2**30  # GB of A in single precision


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_by_definition(activation, device):
    x = placed(device, torch.randn(4, 3, 5))
    function = {"linear": lambda v: v, "relu": torch.relu, "sigmoid": torch.sigmoid}
    if activation == "softmax":
        expected = [x.exp() / x.exp().sum(0), x.exp() / x.exp().sum((1, 2), keepdim=True)]
    else:
        expected = [function[activation](x), function[activation](x) / 15]
    for side in (0, 1):
        torch.testing.assert_close(activate(x, activation, side), expected[side])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("side", [0, 1])
def test_activation_gradcheck(activation, side):
    x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda v: activate(v, activation, side), x.requires_grad_())


def test_rows_of_the_softmax_pair_sum_to_one():
    phi_0, phi_1 = head(activation="softmax").factors(torch.randn(8, 5, 6) * 3)
    matrix = pairwise(phi_0, phi_1)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(30))
    # So the residual is a weighted mean of each channel: constants stay, extremes are not passed.
    constant = torch.arange(3.0)[:, None, None].expand(3, 5, 6)
    torch.testing.assert_close(apply_affinity(constant, phi_0, phi_1), constant)
    psi = torch.rand(3, 5, 6)
    residual = apply_affinity(psi, phi_0, phi_1)
    assert (residual.amax((1, 2)) <= psi.amax((1, 2)) + 1e-6).all()
    assert (residual.amin((1, 2)) >= psi.amin((1, 2)) - 1e-6).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_residual_does_not_grow_with_the_image(activation, device):
    module = head(activation=activation).to(device)
    query, psi = placed(device, torch.randn(8, 4, 6), torch.rand(3, 4, 6))
    once = apply_affinity(psi, *module.factors(query))
    # The same image six times over: every cell sees six copies of each sender at 1/6 the weight.
    tiled = apply_affinity(psi.repeat(1, 2, 3), *module.factors(query.repeat(1, 2, 3)))
    torch.testing.assert_close(tiled, once.repeat(1, 2, 3), rtol=1e-4, atol=1e-6)


def test_pixel_affinity_is_a_row_of_the_matrix(device):
    module = head(activation="softmax").to(device)
    phi_0, phi_1 = module.factors(placed(device, torch.randn(8, 5, 6)))
    matrix = pairwise(phi_0, phi_1)
    for row, column in [(0, 0), (4, 5), (2, 3)]:
        expected = matrix[row * 6 + column].view(5, 6) * 30
        found = pixel_affinity(phi_0, phi_1, row, column)
        torch.testing.assert_close(found, expected)
        assert found.mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (5, 0), (0, 6)])
def test_pixel_outside_the_grid_is_an_error(cell):
    with pytest.raises(IndexError, match="outside the grid of 5 x 6"):
        pixel_affinity(torch.zeros(2, 5, 6), torch.zeros(2, 5, 6), *cell)


def test_factors_and_residual_stay_in_single_precision():
    module = head()
    query, psi = torch.randn(8, 5, 6), torch.rand(3, 5, 6)
    expected = module.factors(query)
    residual = apply_affinity(psi, *expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.mm(torch.eye(2), torch.eye(2)).dtype == torch.bfloat16  # autocast is on
        found = module.factors(query)
        found_residual = apply_affinity(psi, *found)
        from_half = module.factors(query.bfloat16())
    for a, b in zip((*found, found_residual), (*expected, residual), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert from_half[0].dtype == torch.float32


def test_features_of_a_batch_equal_those_of_its_images(device):
    module = head().to(device)
    features = {
        name: placed(device, torch.randn(2, 16, 64 // s, 96 // s))
        for name, s in zip(LEVELS, (4, 8, 16, 32), strict=True)
    }
    batch = module(features)
    assert tuple(batch.shape) == (2, 8, 16, 24)
    for index in range(2):
        alone = module({name: level[index : index + 1] for name, level in features.items()})
        torch.testing.assert_close(batch[index : index + 1], alone, rtol=1e-4, atol=1e-5)


def test_coordinates_tell_equal_features_apart(device):
    waves = coordinate_features(3, 5, 2, torch.device("cpu"))
    assert tuple(waves.shape) == (8, 3, 5)
    # First sine and cosine of pi y: y = -1, 0, 1 over the rows.
    torch.testing.assert_close(waves[0, :, 2], torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(waves[1, :, 2], torch.tensor([-1.0, 1.0, -1.0]))
    # Sine of 2 pi x at x = -0.5 is 0, its cosine -1.
    torch.testing.assert_close(waves[7, 0, 1], torch.tensor(-1.0))
    flat = placed(device, torch.ones(8, 4, 6))
    plain = head().to(device).factors(flat)[0]
    informed = head(coordinate_frequencies=2).to(device).factors(flat)[0]
    assert plain.flatten(1).std(dim=1).max() < 1e-6
    assert informed.flatten(1).std(dim=1).min() > 1e-3
    module = head(coordinate_frequencies=1).to(device)
    assert torch.isfinite(module.factors(flat[:, :1, :1])[0]).all()


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        head(activation="tanh")
