"""The gradient through the solver against an independent Algorithm 1, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cops_factory import GRID_DISTANCES, GRID_THINGS, grid_costs, grid_settings, grid_truth, seeded
from naive_solver import greedy
from placing import placed

from cops.layers.amwc import AmwcLayer
from cops.layers.lifting import TIE_BREAK
from cops.losses.panoptic_quality import smooth_panoptic_quality
from cops.targets import make_cops_targets


def linear_loss(predictions, rng) -> tuple[torch.Tensor, list[np.ndarray]]:
    """<G, z>, whose gradient is G, for random G in multiples of 1/8."""
    weights = [rng.integers(-8, 9, tuple(p.masks.shape)) / 8 for p in predictions]
    pairs = zip(predictions, weights, strict=True)
    return sum((p.masks * p.masks.new_tensor(g)).sum() for p, g in pairs), weights


# ---- an independent Algorithm 1 -----------------------------------------------------------------


def naive_gradient(class_costs, edge_costs, truth, mask_classes, mask_gradient, interpolation):
    """Algorithm 1 with loops, on the solver of `tests/support/naive_solver.py`."""
    num_classes, height, width = class_costs.shape
    cells = [(i, j) for i in range(height) for j in range(width)]
    c_v = [[float(class_costs[k, i, j]) for k in range(num_classes)] for i, j in cells]
    edges, where = [], []
    for index, d in enumerate(GRID_DISTANCES):
        for channel, (down, right) in ((2 * index, (0, d)), (2 * index + 1, (d, 0))):
            for i, j in cells:
                if i + down < height and j + right < width:
                    edges.append((i * width + j, (i + down) * width + j + right))
                    # A long edge sits at the cell ceil(d / 2) after its first end.
                    back = 0 if d == 1 else -(-d // 2)
                    where.append((channel, i + (down > 0) * back, j + (right > 0) * back))
    c_e = [float(edge_costs[place]) for place in where]
    x, clusters = greedy(c_v, edges, c_e, GRID_THINGS)

    labels = list(mask_classes) + [k for k in range(num_classes) if k not in set(mask_classes)]
    void = [int(truth.segment_map[cell]) < 0 for cell in cells]
    lifted = [
        [
            c_v[v][k]
            + (
                interpolation * mask_gradient[label][cell]
                if label < len(mask_classes) and not void[v]
                else 0
            )
            for label, k in enumerate(labels)
        ]
        for v, cell in enumerate(cells)
    ]
    names = {cluster: label for label, cluster in enumerate(dict.fromkeys(clusters))}
    for v, cluster in enumerate(clusters):
        lifted[v][names[cluster]] -= TIE_BREAK
    z_p, _ = greedy(lifted, edges, c_e, [False] * len(labels))

    class_gradient, edge_gradient = np.zeros(class_costs.shape), np.zeros(edge_costs.shape)
    for v, (i, j) in enumerate(cells):
        if not void[v]:
            class_gradient[labels[z_p[v]], i, j] += 1 / interpolation
            class_gradient[x[v], i, j] -= 1 / interpolation
    for (a, b), place in zip(edges, where, strict=True):
        if not void[a] and not void[b]:
            change = int(z_p[a] != z_p[b]) - int(clusters[a] != clusters[b])
            edge_gradient[place] = change / interpolation
    return class_gradient, edge_gradient


@pytest.mark.parametrize("interpolation", [0.5, 2.0, 8.0, 64.0])
@pytest.mark.parametrize("seed", range(5))
def test_against_an_independent_algorithm_1(seed, interpolation, device):
    rng = np.random.default_rng(seed)
    class_costs, edge_costs = grid_costs(rng, device=device)
    truth = grid_truth(rng, device=device)
    layer = AmwcLayer(grid_settings(interpolation, interpolation))
    predictions = layer(class_costs, edge_costs, [truth], seeded())
    loss, weights = linear_loss(predictions, rng)
    loss.backward()
    expected = naive_gradient(
        class_costs.detach().cpu().numpy()[0],
        edge_costs.detach().cpu().numpy()[0],
        truth,
        predictions[0].classes.tolist(),
        weights[0],
        interpolation,
    )
    np.testing.assert_allclose(class_costs.grad[0].cpu(), expected[0], atol=1e-6)
    np.testing.assert_allclose(edge_costs.grad[0].cpu(), expected[1], atol=1e-6)
    # The comparison is not empty: large perturbations do move the solution.
    assert interpolation < 8 or np.abs(expected[0]).sum() > 0


# ---- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize(("interpolation", "size"), [(0.5, 0.0), (5.0, 0.2), (50.0, 0.02)])
def test_one_node(interpolation, size, device):
    # Costs (0, 1) give class 0. The loss makes it dearer by lambda. At 0.5 it still wins, at 5 the
    # costs are (5, 1), class 1 wins, and the gradient is (0 - 1, 1 - 0) / 5. Descending along it
    # raises the cost of class 0, as the loss wants.
    costs = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).requires_grad_()
    edges = torch.zeros(1, 2, 1, 1, requires_grad=True)
    truth = make_cops_targets(
        np.ones((1, 1), int), [{"id": 1, "category_id": 0}], (False, False), (1,), stride=1
    )["cops_target"]
    layer = AmwcLayer(
        grid_settings(interpolation, interpolation, partitionable=(False, False), distances=(1,))
    )
    costs, edges, truth = placed(device, costs, edges, truth)
    (prediction,) = layer(costs, edges, [truth], seeded())
    assert prediction.masks.tolist() == [[[1.0]]] and prediction.classes.tolist() == [0]
    prediction.masks.sum().backward()
    np.testing.assert_allclose(costs.grad.flatten().tolist(), [-size, size], atol=1e-7)
    assert layer.statistics.reacted.tolist() == [[size > 0]]
    assert edges.grad.flatten().tolist() == [0.0, 0.0]


def test_one_edge():
    # Two cells of one thing class, joined by an edge cost of 1; the truth is two things. The one
    # segment matches the left truth; the right one has an empty mask. With dL/dz = 1 for the first
    # mask at the right cell and the second at the left cell, each label costs lambda = 4 at one
    # cell. Cutting the edge costs 1. So it is cut, dL/dc_E = (1 - 0) / 4, and no class changes.
    class_costs = torch.tensor([5.0, 0.0]).reshape(1, 2, 1, 1).repeat(1, 1, 1, 2).requires_grad_()
    edge_costs = torch.ones(1, 2, 1, 2, requires_grad=True)
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 1}]
    truth = make_cops_targets(np.array([[1, 2]]), segments, (False, True), (1,), stride=1)
    layer = AmwcLayer(grid_settings(partitionable=(False, True), distances=(1,)))
    (prediction,) = layer(class_costs, edge_costs, [truth["cops_target"]], seeded())
    assert prediction.num_predicted == 1
    assert prediction.masks.tolist() == [[[1.0, 1.0]], [[0.0, 0.0]]]
    assert prediction.classes.tolist() == [1, 1] and prediction.match.tolist() == [0, 1]
    (prediction.masks[0, 0, 1] + prediction.masks[1, 0, 0]).backward()
    assert class_costs.grad.abs().sum() == 0
    assert edge_costs.grad.flatten().tolist() == [0.25, 0.0, 0.0, 0.0]


# ---- what holds for every gradient --------------------------------------------------------------


def gradients(costs, truths, layer_settings, seed=0):
    """Gradients of the surrogate, and the layer."""
    class_costs, edge_costs = (c.detach().clone().requires_grad_() for c in costs)
    layer = AmwcLayer(layer_settings)
    predictions = layer(class_costs, edge_costs, truths, seeded(seed))
    limits = class_costs.new_full((3,), 2.0)
    loss, _ = smooth_panoptic_quality(predictions, truths, limits, linear_share=0.2)
    (1000 * loss).backward()
    return class_costs.grad, edge_costs.grad, layer


def test_batch_against_loop_of_a_loss_without_common_terms():
    rng = np.random.default_rng(3)
    costs, truths = grid_costs(rng, num=3), [grid_truth(rng) for _ in range(3)]
    layer = AmwcLayer(grid_settings(1.0, 50.0, samples=3))
    predictions = layer(*costs, truths, seeded(5))
    loss, weights = linear_loss(predictions, rng)
    loss.backward()
    generator = seeded(5)
    for index in range(3):
        one = [c.detach()[index : index + 1].clone().requires_grad_() for c in costs]
        (prediction,) = layer(*one, truths[index : index + 1], generator)
        (prediction.masks * torch.tensor(weights[index])).sum().backward()
        for single, batch in zip(one, costs, strict=True):
            assert torch.equal(single.grad[0], batch.grad[index])


def test_average_over_lambdas():
    rng = np.random.default_rng(4)
    costs, truths = grid_costs(rng), [grid_truth(rng)]
    averaged = gradients(costs, truths, grid_settings(1.0, 200.0, samples=4))
    lambdas = averaged[2].statistics.lambdas
    assert lambdas.shape == (1, 4) and len(np.unique(lambdas)) == 4
    assert (lambdas >= 1).all() and (lambdas <= 200).all()
    singles = [gradients(costs, truths, grid_settings(value, value)) for value in lambdas[0]]
    for index in range(2):
        mean = torch.stack([single[index] for single in singles]).mean(dim=0)
        torch.testing.assert_close(averaged[index], mean, rtol=1e-5, atol=1e-7)
    norms = [float(single[0].abs().sum()) for single in singles]
    np.testing.assert_allclose(averaged[2].statistics.class_l1[0], norms, rtol=1e-5)


def test_seeds_and_threads():
    rng = np.random.default_rng(6)
    costs, truths = grid_costs(rng, num=4), [grid_truth(rng) for _ in range(4)]
    one = gradients(costs, truths, grid_settings(1.0, 100.0, samples=3))
    many = gradients(costs, truths, grid_settings(1.0, 100.0, samples=3, num_threads=4))
    cores = gradients(costs, truths, grid_settings(1.0, 100.0, samples=3, num_threads=0))
    other = gradients(costs, truths, grid_settings(1.0, 100.0, samples=3), seed=1)
    assert one[0].abs().sum() > 0 and one[1].abs().sum() > 0
    for index in range(2):
        assert torch.equal(one[index], many[index]) and torch.equal(one[index], cores[index])
    assert not torch.equal(one[0], other[0])


def test_values_lie_within_one_over_lambda():
    rng = np.random.default_rng(7)
    for low in (0.5, 10.0):
        costs, truths = grid_costs(rng, num=2), [grid_truth(rng) for _ in range(2)]
        for gradient in gradients(costs, truths, grid_settings(low, 2 * low, samples=3))[:2]:
            assert gradient.abs().max() <= 1 / low


def test_void_and_crowd_get_no_gradient(device):
    rng = np.random.default_rng(8)
    for _ in range(5):
        costs, truths = grid_costs(rng, device=device), [grid_truth(rng, device=device)]
        class_gradient, edge_gradient, _ = gradients(costs, truths, grid_settings(50.0, 50.0))
        assert (class_gradient[0, :, truths[0].segment_map < 0] == 0).all()
        assert (edge_gradient[0][truths[0].edge_weights == 0] == 0).all()


def test_only_costs_get_gradients_and_dtypes_return(device):
    rng = np.random.default_rng(9)
    class_costs, edge_costs = grid_costs(rng, device=device)
    truth = grid_truth(rng, device=device)
    halves = class_costs.detach().half().requires_grad_(), edge_costs.detach().double()
    (prediction,) = AmwcLayer(grid_settings())(*halves, [truth], seeded())
    loss, _ = linear_loss([prediction], rng)
    loss.backward()
    assert halves[0].grad.dtype == torch.float16 and halves[1].grad is None


def test_no_second_derivative():
    rng = np.random.default_rng(10)
    class_costs, edge_costs = grid_costs(rng)
    (prediction,) = AmwcLayer(grid_settings())(class_costs, edge_costs, [grid_truth(rng)], seeded())
    (gradient,) = torch.autograd.grad((prediction.masks**2).sum(), class_costs, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


@pytest.mark.parametrize("method", ["greedy", "multilevel"])
def test_without_a_gradient_two_cars_stay_two(method):
    # Four cells of class 1 in a row, cut in the middle: two segments. Their labels cost the same in
    # the lifted problem, and merging them would save nothing but a label: energy -1 against 0.
    class_costs = torch.tensor([5.0, 0.0]).reshape(1, 2, 1, 1).repeat(1, 1, 1, 4).requires_grad_()
    edge_costs = torch.tensor([2.0, -1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]).reshape(1, 2, 1, 4)
    edge_costs.requires_grad_()
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 1}]
    truth = make_cops_targets(np.array([[1, 1, 2, 2]]), segments, (False, True), (1,), stride=1)
    layer = AmwcLayer(
        grid_settings(1.0, 1.0, partitionable=(False, True), distances=(1,), method=method)
    )
    (prediction,) = layer(class_costs, edge_costs, [truth["cops_target"]], seeded())
    assert prediction.num_predicted == 2
    (0 * prediction.masks.sum()).backward()
    assert layer.statistics.reacted.tolist() == [[False]]
    assert edge_costs.grad.abs().sum() == 0 and class_costs.grad.abs().sum() == 0


# ---- odd input ----------------------------------------------------------------------------------


def test_smaller_images_of_a_padded_batch(device):
    rng = np.random.default_rng(12)
    costs = grid_costs(rng, num=2, height=5, width=6, device=device)
    truths = [grid_truth(rng, 5, 6, device), grid_truth(rng, 3, 4, device)]
    layer = AmwcLayer(grid_settings(50.0, 50.0))
    predictions = layer(*costs, truths, seeded())
    assert predictions[1].masks.shape[1:] == (3, 4)
    linear_loss(predictions, rng)[0].backward()
    assert (costs[0].grad[1, :, 3:] == 0).all() and (costs[0].grad[1, :, :, 4:] == 0).all()
    alone = layer(*(c.detach()[1:, :, :3, :4] for c in costs), truths[1:], seeded())
    assert torch.equal(alone[0].masks, predictions[1].masks)


@pytest.mark.parametrize("case", ["all void", "one cell", "one class"])
def test_degenerate_images(case):
    rng = np.random.default_rng(13)
    shape = (1, 1) if case == "one cell" else (3, 4)
    id_map = np.zeros(shape, int) if case == "all void" else np.ones(shape, int)
    is_thing = (True,) if case == "one class" else GRID_THINGS
    truth = make_cops_targets(
        id_map, [{"id": 1, "category_id": 0}], is_thing, GRID_DISTANCES, stride=1
    )["cops_target"]
    class_costs, edge_costs = grid_costs(rng, 1, *shape)
    class_costs = class_costs.detach()[:, : len(is_thing)].requires_grad_()
    layer = AmwcLayer(grid_settings(partitionable=is_thing))
    predictions = layer(class_costs, edge_costs, [truth], seeded())
    limits = torch.zeros(len(is_thing))
    smooth_panoptic_quality(predictions, [truth], limits)[0].backward()
    assert class_costs.grad.isfinite().all() and edge_costs.grad.isfinite().all()
    if case == "all void":
        assert class_costs.grad.abs().sum() == 0


def test_bad_input_is_refused():
    rng = np.random.default_rng(14)
    class_costs, edge_costs = grid_costs(rng)
    truth = grid_truth(rng)
    layer = AmwcLayer(grid_settings())
    with pytest.raises(ValueError, match="class costs of image 0 .* not finite"):
        layer(class_costs.detach() * float("nan"), edge_costs, [truth], seeded())
    with pytest.raises(ValueError, match="edge costs of image 0 .* not finite"):
        layer(class_costs, edge_costs.detach() / 0, [truth], seeded())
    with pytest.raises(ValueError, match="2 classes, but 3"):
        layer(class_costs[:, :2], edge_costs, [truth], seeded())
    with pytest.raises(ValueError, match="edge costs have shape"):
        layer(class_costs, edge_costs[:, :2], [truth], seeded())
    with pytest.raises(ValueError, match="costs of 1 images, truths of 2"):
        layer(class_costs, edge_costs, [truth, truth], seeded())
    with pytest.raises(ValueError, match="4 x 5 cells of truth"):
        layer(class_costs, edge_costs, [grid_truth(rng, 4, 5)], seeded())
    (prediction,) = layer(class_costs, edge_costs, [truth], seeded())
    with pytest.raises(ValueError, match="gradient at the masks of image 0"):
        (prediction.masks * float("nan")).sum().backward()


@pytest.mark.parametrize("warm_start", [False, True])
def test_multilevel_solves_both_passes(warm_start):
    rng = np.random.default_rng(15)
    costs, truths = grid_costs(rng, num=2), [grid_truth(rng) for _ in range(2)]
    options = grid_settings(50.0, 50.0, method="multilevel", warm_start=warm_start)
    first, second = (gradients(costs, truths, options) for _ in range(2))
    assert first[0].abs().sum() > 0
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


# ---- the solver's own changes -------------------------------------------------------------------


def gradients_of_no_loss(zero: str, seed: int):
    """Gradients of 0 times the labels on a larger grid, and the layer's statistics."""
    rng = np.random.default_rng(seed)
    costs = grid_costs(rng, height=12, width=12)
    layer = AmwcLayer(grid_settings(zero=zero))
    layer.measure_residual = True
    (prediction,) = layer(*costs, [grid_truth(rng, 12, 12)], seeded())
    (0 * prediction.masks.sum()).backward()
    return float(sum(c.grad.abs().sum() for c in costs)), layer.statistics


def test_what_changes_without_a_loss_is_measured_and_can_be_left_out():
    measured = []
    for seed in range(10):
        size, statistics = gradients_of_no_loss("forward", seed)
        measured.append(statistics.residual)
        # With no loss there is no perturbation: whatever changes is the residual.
        assert (size > 0) == (statistics.residual > 0) == bool(statistics.reacted.any())
        size, statistics = gradients_of_no_loss("solved", seed)
        assert size == 0 and not statistics.reacted.any()
        assert statistics.residual == measured[-1]
    assert max(measured) > 0  # greedy contraction of the lifted problem takes another way


def test_zero_makes_no_difference_where_nothing_changes_without_a_loss():
    # Forward and lifted problem agree here, so both ways are Eq. 3.
    rng = np.random.default_rng(4)
    costs, truths = grid_costs(rng), [grid_truth(rng)]
    results = [
        gradients(costs, truths, grid_settings(1.0, 200.0, samples=4, zero=zero))
        for zero in ("forward", "solved")
    ]
    assert results[1][2].statistics.residual == 0
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert results[0][0].abs().sum() > 0
