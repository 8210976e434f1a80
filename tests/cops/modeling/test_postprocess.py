"""Labels of cells -> panoptic map, instances, semantics: alignment, limits, and the oracle."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cops.modeling.postprocess import (
    cut_edge_map,
    cut_probability_map,
    instances_from_segments,
    oracle_class_costs,
    segments_from_labels,
    semantic_probabilities,
)

IS_THING = (False, True, True)


def labelled(rows: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(classes, clusters) from letters: s stuff of class 0, a b things of class 1, c of class 2."""
    letters = np.array([list(row) for row in rows])
    order = list(dict.fromkeys(letters.ravel().tolist()))
    clusters = np.array([[order.index(x) for x in row] for row in letters], np.int32)
    classes = np.array([[{"s": 0, "c": 2}.get(x, 1) for x in row] for row in letters], np.int32)
    return classes, clusters


# ---- the panoptic map ---------------------------------------------------------------------------


def test_each_pixel_takes_the_label_of_its_cell():
    """An input of 6 x 10 pixels at stride 4 has 2 x 3 cells, of which the last ones are cut off."""
    ids, segments = segments_from_labels(
        *labelled(["ssa", "sba"]), IS_THING, (6, 10), (6, 10), scores=np.array([0.9, 0.7, 0.6])
    )
    expected = np.repeat(np.repeat([[1, 1, 2], [1, 3, 2]], 4, axis=0), 4, axis=1)[:6, :10]
    np.testing.assert_array_equal(ids, expected)
    assert ids.dtype == torch.int32
    # s: 4 rows of 8 pixels, 2 rows of 4; a: 6 rows of 2; b: 2 rows of 4.
    assert segments == [
        {"id": 1, "isthing": False, "category_id": 0, "area": 40},
        {"id": 2, "isthing": True, "category_id": 1, "area": 12, "score": 0.7},
        {"id": 3, "isthing": True, "category_id": 1, "area": 8, "score": 0.6},
    ]


@settings(max_examples=60, deadline=None)
@given(
    input_size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    output_size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    stride=st.sampled_from([1, 2, 4]),
    padding=st.integers(0, 2),
)
def test_cells_by_exact_fractions(input_size, output_size, stride, padding):
    """Every cell is a segment of its own, so the map tells from which cell a pixel came."""
    height, width = (-(-n // stride) + padding for n in input_size)
    clusters = np.arange(height * width).reshape(height, width)
    ids, segments = segments_from_labels(
        np.zeros_like(clusters), clusters, (True,), input_size, output_size, stride=stride
    )
    centre = [
        [int(Fraction(2 * i + 1, 2) * Fraction(inside, outside) / stride) for i in range(outside)]
        for inside, outside in zip(input_size, output_size, strict=True)
    ]
    expected = clusters[np.ix_(*centre)]
    _, number = np.unique(expected, return_inverse=True)
    np.testing.assert_array_equal(ids, number.reshape(expected.shape) + 1)
    assert sum(s["area"] for s in segments) == ids.numel()
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))


def test_a_grid_that_ends_before_the_input_is_refused():
    with pytest.raises(ValueError, match="2 x 3 cells of 4 pixels does not cover an input of 9"):
        segments_from_labels(*labelled(["sss", "sss"]), IS_THING, (9, 12), (9, 12))


def test_small_segments_become_void_and_numbers_stay_dense():
    """At stride 1: stuff of 5 pixels, things of 3, 2 and 5; a segment at its limit stays."""
    classes, clusters = labelled(["ssaab", "sssca", "ccccb"])
    sizes = {"s": 5, "a": 3, "b": 2, "c": 5}
    for thing_limit, stuff_limit in [(0, 0), (3, 0), (2, 5), (4, 6), (99, 99)]:
        ids, segments = segments_from_labels(
            classes,
            clusters,
            IS_THING,
            (3, 5),
            (3, 5),
            stride=1,
            thing_area_limit=thing_limit,
            stuff_area_limit=stuff_limit,
        )
        kept = [x for x in "sabc" if sizes[x] >= (stuff_limit if x == "s" else thing_limit)]
        assert [s["area"] for s in segments] == [sizes[x] for x in kept]
        assert sorted(set(ids.flatten().tolist()) - {0}) == list(range(1, len(kept) + 1))
        assert int((ids == 0).sum()) == 15 - sum(sizes[x] for x in kept)
        for segment in segments:
            assert int((ids == segment["id"]).sum()) == segment["area"]


def test_limits_count_pixels_of_the_result():
    labels = labelled(["sa"])
    few, _ = segments_from_labels(*labels, IS_THING, (4, 8), (2, 4), thing_area_limit=5)
    many, _ = segments_from_labels(*labels, IS_THING, (4, 8), (8, 16), thing_area_limit=5)
    assert 2 not in few and int((many == 2).sum()) == 64


def test_segments_of_wrong_shapes_are_refused():
    classes, clusters = labelled(["sa"])
    with pytest.raises(ValueError, match="clusters"):
        segments_from_labels(classes, clusters.T, IS_THING, (4, 8), (4, 8))
    with pytest.raises(ValueError, match="2 clusters with scores of shape"):
        segments_from_labels(classes, clusters, IS_THING, (4, 8), (4, 8), scores=np.zeros(3))


# ---- instances ----------------------------------------------------------------------------------


def test_instances_are_the_things_best_first():
    panoptic = segments_from_labels(
        *labelled(["saac", "saac", "sbss"]),
        IS_THING,
        (12, 16),
        (6, 8),
        scores=np.array([0.99, 0.3, 0.8, 0.5]),
    )
    instances = instances_from_segments(panoptic, IS_THING)
    assert instances.image_size == (6, 8)
    np.testing.assert_allclose(instances.scores, [0.8, 0.5, 0.3])
    assert instances.pred_classes.tolist() == [1, 0, 0]  # thing indices: class 2 is thing 1
    assert instances.pred_boxes.tensor.tolist() == [[6, 0, 8, 4], [2, 4, 4, 6], [2, 0, 6, 4]]
    assert instances.pred_masks.dtype == torch.bool
    for mask, box in zip(instances.pred_masks, instances.pred_boxes.tensor.int(), strict=True):
        x0, y0, x1, y1 = box.tolist()
        assert mask[y0:y1, x0:x1].all() and int(mask.sum()) == (x1 - x0) * (y1 - y0)
    assert len(instances_from_segments(panoptic, IS_THING, max_instances=2)) == 2


def test_no_things_no_instances():
    panoptic = segments_from_labels(*labelled(["ss"]), IS_THING, (4, 8), (4, 8), scores=np.ones(1))
    instances = instances_from_segments(panoptic, IS_THING)
    assert len(instances) == 0 and instances.pred_masks.shape == (0, 4, 8)
    assert instances.pred_boxes.tensor.shape == (0, 4)
    void = segments_from_labels(
        *labelled(["aa"]), IS_THING, (4, 8), (4, 8), scores=np.ones(1), thing_area_limit=99
    )
    assert not void[0].any() and len(instances_from_segments(void, IS_THING)) == 0


# ---- semantics ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input_size", "output_size"), [((13, 22), (13, 22)), ((13, 22), (40, 31))]
)
def test_semantic_output_is_aligned_and_sums_to_one(input_size, output_size):
    """Class 1's probability is a ramp along x, which interpolation between centres reproduces."""
    centres = torch.arange(6) * 4 + 2.0
    probability = (0.1 + 0.03 * centres).expand(4, 6)
    logits = torch.stack([1 - probability, probability]).log()
    found = semantic_probabilities(logits, input_size, output_size)
    assert found.shape == (2, *output_size)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(output_size))
    x = (torch.arange(output_size[1]) + 0.5) * input_size[1] / output_size[1]
    expected = 0.1 + 0.03 * x.clamp(2, 22)
    torch.testing.assert_close(found[1], expected.expand(output_size), atol=1e-5, rtol=0)


# ---- what is drawn ------------------------------------------------------------------------------


def test_cut_edge_map_by_hand():
    """0 0 1 / 0 2 1, each cell with its edges to the right and down."""
    found = cut_edge_map(np.array([[0, 0, 1], [0, 2, 1]]))
    np.testing.assert_allclose(found, [[0, 1, 0], [1, 1, 0]])
    assert cut_edge_map(np.array([[0, 0], [0, 1], [2, 2]])).tolist() == [[0, 1], [1, 1], [0, 0]]
    assert cut_edge_map(np.array([[0, 1], [0, 1]])).tolist() == [[0.5, 0], [1, 0]]
    assert cut_edge_map(np.zeros((1, 1), np.int32)).tolist() == [[0]]


def test_cut_probability_takes_the_larger_of_two_edges():
    logits = torch.zeros(4, 2, 2)
    logits[0] = torch.tensor([[2.0, 50], [-9, 50]])  # no edges leave to the right at column 1
    logits[1] = torch.tensor([[1.0, 3], [50, 50]])  # nor downwards at row 1
    logits[2:] = 50
    expected = torch.tensor([[2.0, 3], [-9, -torch.inf]]).sigmoid()
    torch.testing.assert_close(cut_probability_map(logits), expected)


# ---- oracle -------------------------------------------------------------------------------------


def test_oracle_costs_make_the_truth_the_only_choice():
    """By brute force over all labellings of a 2 x 2 grid whose edges pull towards other classes."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([[0, 1], [2, 255]])
    edge_costs = 40 * torch.randn(2, 2, 2, generator=generator)
    network = torch.randn(3, 2, 2, generator=generator)
    before = network.clone()
    costs = oracle_class_costs(network, edge_costs, truth)
    torch.testing.assert_close(network, before, rtol=0, atol=0)
    torch.testing.assert_close(costs[:, 1, 1], network[:, 1, 1], rtol=0, atol=0)
    edges = [(0, 1, edge_costs[0, 0, 0]), (2, 3, edge_costs[0, 1, 0])]
    edges += [(0, 2, edge_costs[1, 0, 0]), (1, 3, edge_costs[1, 0, 1])]

    def energy(labels):
        node = sum(float(costs[label, v // 2, v % 2]) for v, label in enumerate(labels))
        return node + sum(float(c) for a, b, c in edges if labels[a] != labels[b])

    best = min(itertools.product(range(3), repeat=4), key=energy)
    assert best[:3] == (0, 1, 2)
    with pytest.raises(ValueError, match="truth of"):
        oracle_class_costs(network, edge_costs, truth[:1])
