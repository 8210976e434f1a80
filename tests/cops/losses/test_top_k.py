"""Top-k losses: hand-worked numbers, a slow twin, gradients, precision, and nothing to count."""

from __future__ import annotations

import math

import pytest
import torch
from placing import placed

from cops.losses.top_k import weighted_top_k_bce, weighted_top_k_cross_entropy


def semantic_case(seed: int = 0, dtype=torch.float64):
    """(2, 5, 6, 7) logits with ignored pixels and weights of 0, 1 and 3."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 5, 6, 7, dtype=dtype, generator=generator)
    target = torch.randint(0, 5, (2, 6, 7), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    choice = torch.randint(0, 4, target.shape, generator=generator)
    weights = torch.tensor([0, 1, 1, 3], dtype=dtype)[choice]
    return logits.requires_grad_(), target, weights


def edge_case(seed: int = 0, dtype=torch.float64):
    """(2, 6, 5, 4) edge logits; the last distance has no edge."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 6, 5, 4, dtype=dtype, generator=generator)
    target = torch.randint(0, 2, logits.shape, generator=generator).to(dtype)
    choice = torch.randint(0, 4, logits.shape, generator=generator)
    weights = torch.tensor([0, 1, 4, 12], dtype=dtype)[choice]
    weights[:, 4:] = 0
    return logits.requires_grad_(), target, weights


def mean_of_hardest(losses: list[float], share: float) -> float:
    kept = sorted(losses, reverse=True)[: max(round(share * len(losses)), 1)]
    return sum(kept) / len(kept)


# ------------------------------------------------------------------------------- semantic


def test_hand_worked_semantic_loss():
    # Two classes, logits (0, z) and target 0: a loss of log(1 + e^z). Five pixels, one ignored;
    # z = log 3, log 1, log 7, log 15 give log 4, log 2, log 8, log 16 = 2, 1, 3, 4 times log 2.
    z = torch.tensor([3.0, 1.0, 7.0, 15.0, 1e6]).log()
    logits = torch.stack([torch.zeros(5), z])[None, :, None]
    target = torch.tensor([0, 0, 0, 0, 255])[None, None]
    weights = torch.tensor([3.0, 1, 1, 1, 1])[None, None]
    # Weighted: 6, 1, 3, 4. Half of the four are 6 and 4, though 4 and 3 are the largest unweighted.
    for share, expected in [(0.25, 6), (0.5, 5), (0.75, 13 / 3), (1, 3.5), (0.01, 6)]:
        loss = weighted_top_k_cross_entropy(logits, target, weights, share)
        assert loss.item() == pytest.approx(expected * math.log(2))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_semantic_loss_equals_one_pixel_at_a_time(seed, share, device):
    logits, target, weights = placed(device, *semantic_case(seed))
    logits = logits.detach()
    losses = []
    for n in range(2):
        for i in range(6):
            for j in range(7):
                if target[n, i, j] != 255 and weights[n, i, j] > 0:
                    log_probabilities = logits[n, :, i, j].log_softmax(0)
                    picked = log_probabilities[target[n, i, j]]
                    losses.append(float(-picked * weights[n, i, j]))
    loss = weighted_top_k_cross_entropy(logits, target, weights, share)
    assert loss.item() == pytest.approx(mean_of_hardest(losses, share))


def test_ignored_pixels_change_nothing():
    logits, target, weights = semantic_case()
    loss = weighted_top_k_cross_entropy(logits, target, weights, 0.2)
    ignored = (target == 255) | (weights == 0)
    changed = torch.where(ignored[:, None], 1e4 * torch.randn_like(logits), logits)
    padded = torch.nn.functional.pad(changed, (0, 5, 0, 3))
    again = weighted_top_k_cross_entropy(
        padded,
        torch.nn.functional.pad(target, (0, 5, 0, 3), value=255),
        torch.nn.functional.pad(weights, (0, 5, 0, 3), value=1),
        0.2,
    )
    assert again.item() == loss.item()


def test_another_class_can_be_ignored():
    logits, target, weights = semantic_case()
    target[target == 255] = 4
    renamed = torch.where(target == 4, 255, target)
    expected = weighted_top_k_cross_entropy(logits, renamed, weights, 0.5)
    loss = weighted_top_k_cross_entropy(logits, target, weights, 0.5, ignore=4)
    assert loss.item() == expected.item()


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_semantic_gradient(share, device):
    logits, target, weights = placed(device, *semantic_case())
    torch.autograd.gradcheck(
        lambda x: weighted_top_k_cross_entropy(x, target, weights, share), logits
    )


def test_only_the_selected_pixels_get_a_gradient():
    logits, target, weights = semantic_case()
    weighted_top_k_cross_entropy(logits, target, weights, 0.2).backward()
    counting = int(((target != 255) & (weights > 0)).sum())
    reached = (logits.grad != 0).any(dim=1)
    assert int(reached.sum()) == round(0.2 * counting)
    assert (target[reached] != 255).all() and (weights[reached] > 0).all()


# ------------------------------------------------------------------------------- affinity


def test_hand_worked_affinity_loss():
    # A logit z on an uncut edge costs log(1 + e^z): 2, 1 and 3, 4 times log 2 as above.
    z = torch.tensor([3.0, 1.0, 7.0, 15.0]).log()
    logits = z.reshape(1, 4, 1, 1)  # two distances, of one horizontal and one vertical edge each
    target = torch.zeros_like(logits)
    weights = torch.tensor([1.0, 4, 1, 1]).reshape(1, 4, 1, 1)
    # Weighted 2, 4 | 3, 4. The harder of each distance: mean of 4 and 4; all: mean of 3 and 3.5.
    # (The harder half of all four together would be 4 too, but not 4 and 3.)
    assert weighted_top_k_bce(logits, target, weights, 0.5).item() == pytest.approx(4 * math.log(2))
    assert weighted_top_k_bce(logits, target, weights, 1).item() == pytest.approx(
        3.25 * math.log(2)
    )
    # A cut edge costs log(1 + e^-z).
    flipped = weighted_top_k_bce(-logits, 1 - target, weights, 1)
    assert flipped.item() == pytest.approx(3.25 * math.log(2))


@pytest.mark.parametrize("share", [0.01, 0.25, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_affinity_loss_equals_one_edge_at_a_time(seed, share, device):
    logits, target, weights = placed(device, *edge_case(seed))
    logits = logits.detach()
    means = []
    for first in range(0, 6, 2):
        losses = []
        for n in range(2):
            for channel in (first, first + 1):
                for i in range(5):
                    for j in range(4):
                        z, t = float(logits[n, channel, i, j]), float(target[n, channel, i, j])
                        w = float(weights[n, channel, i, j])
                        if w > 0:
                            losses.append(w * math.log1p(math.exp(-z if t == 1 else z)))
        if losses:
            means.append(mean_of_hardest(losses, share))
    assert len(means) == 2
    loss = weighted_top_k_bce(logits, target, weights, share)
    assert loss.item() == pytest.approx(sum(means) / 2)


def test_distance_without_an_edge_is_not_counted():
    logits, target, weights = edge_case()
    all_three = weighted_top_k_bce(logits, target, weights, 0.25)
    first_two = weighted_top_k_bce(logits[:, :4], target[:, :4], weights[:, :4], 0.25)
    assert all_three.item() == first_two.item()
    all_three.backward()
    assert (logits.grad[:, 4:] == 0).all() and (logits.grad[:, :4] != 0).any()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_affinity_gradient(share, device):
    logits, target, weights = placed(device, *edge_case())
    torch.autograd.gradcheck(lambda x: weighted_top_k_bce(x, target, weights, share), logits)


# ------------------------------------------------------------------------------- both


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_nothing_to_count_is_zero_with_a_gradient_of_zero(share, device):
    logits, target, weights = placed(device, *semantic_case())
    edge_logits, edge_target, edge_weights = placed(device, *edge_case())
    for loss, x in [
        (
            weighted_top_k_cross_entropy(logits, torch.full_like(target, 255), weights, share),
            logits,
        ),
        (weighted_top_k_cross_entropy(logits, target, 0 * weights, share), logits),
        (weighted_top_k_bce(edge_logits, edge_target, 0 * edge_weights, share), edge_logits),
    ]:
        assert loss.item() == 0
        x.grad = None
        loss.backward()
        assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    logits, target, weights = semantic_case(dtype=torch.float32)
    edge_logits, edge_target, edge_weights = edge_case(dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for loss, x, t, w in [
            (weighted_top_k_cross_entropy, logits, target, weights),
            (weighted_top_k_bce, edge_logits, edge_target, edge_weights),
        ]:
            half = x.to(dtype)
            computed = loss(half, t, w, 0.25)
            assert computed.dtype == torch.float32
            assert computed.item() == pytest.approx(loss(half.double(), t, w.double(), 0.25).item())


def test_large_logits_stay_finite():
    logits = torch.tensor([[[[3e4, -3e4]], [[-3e4, 3e4]]]], dtype=torch.float16)
    target, weights = torch.tensor([[[1, 1]]]), torch.ones(1, 1, 2)
    assert weighted_top_k_cross_entropy(logits, target, weights, 1).item() == pytest.approx(
        3e4, rel=1e-3
    )
    loss = weighted_top_k_bce(logits, torch.ones_like(logits), torch.ones_like(logits), 1)
    assert loss.item() == pytest.approx(1.5e4, rel=1e-3)


def test_bad_input_is_refused():
    logits, target, weights = semantic_case()
    edges = edge_case()
    for share in (0, -0.1, 1.1, 20):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            weighted_top_k_cross_entropy(logits, target, weights, share)
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            weighted_top_k_bce(*edges, share)
    with pytest.raises(ValueError, match=r"not \(N, K, H, W\)"):
        weighted_top_k_cross_entropy(logits, target[:, :-1], weights, 0.5)
    with pytest.raises(ValueError, match=r"not \(N, K, H, W\)"):
        weighted_top_k_cross_entropy(logits, target, weights[:1], 0.5)
    with pytest.raises(ValueError, match=r"not all \(N, 2 D, h, w\)"):
        weighted_top_k_bce(edges[0], edges[1][:1], edges[2], 0.5)
    with pytest.raises(ValueError, match=r"not all \(N, 2 D, h, w\)"):
        weighted_top_k_bce(*(x[:, :5] for x in edges), 0.5)
