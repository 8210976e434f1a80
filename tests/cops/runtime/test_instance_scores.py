"""Eq. 12 by hand, against a loop over edges, and the properties that a ranking needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cops.grid_graph import grid_graph
from cops.runtime.instance_scores import instance_scores


def unsquashed(scores: np.ndarray) -> np.ndarray:
    """Eq. 12 before it is squashed: the inverse of (1 + s / (1 + |s|)) / 2."""
    t = 2 * scores - 1
    return t / (1 - np.abs(t))


def naive_scores(classes, clusters, class_logits, edge_logits, distances) -> list[float]:
    """Eq. 12 cluster by cluster and edge by edge, with the edge geometry written out again."""
    height, width = clusters.shape
    result = []
    for cluster in range(clusters.max() + 1):
        cells = [(i, j) for i, j in np.ndindex(height, width) if clusters[i, j] == cluster]
        node = [class_logits[classes[i, j], i, j] for i, j in cells]
        cut, inner = [], []
        for index, d in enumerate(distances):
            back, ahead = (0, 1) if d == 1 else (-(-d // 2), d // 2)
            for i, j in np.ndindex(height, width):
                for channel, (di, dj) in ((2 * index, (0, 1)), (2 * index + 1, (1, 0))):
                    a = (i - back * di, j - back * dj)
                    b = (i + ahead * di, j + ahead * dj)
                    if min(a) < 0 or b[0] >= height or b[1] >= width:
                        continue
                    ends = int(clusters[a] == cluster) + int(clusters[b] == cluster)
                    if ends:
                        (inner if ends == 2 else cut).append(edge_logits[channel, i, j])
        result.append(np.mean(node) + (np.mean(cut or [0])) - np.mean(inner or [0]))
    return result


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 7),
    width=st.integers(1, 9),
    distances=st.sampled_from([(1,), (1, 2), (1, 3, 4), (2, 5), (1, 20)]),
)
def test_equals_a_loop_over_edges(seed, height, width, distances):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (height, width))
    clusters = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    classes = np.array([2, 0, 1, 2])[clusters]
    class_logits = rng.normal(0, 5, (3, height, width)).astype(np.float32)
    edge_logits = rng.normal(0, 5, (2 * len(distances), height, width)).astype(np.float32)
    graph = grid_graph(height, width, distances)
    scores = instance_scores(classes, clusters, class_logits, edge_logits, graph)
    expected = naive_scores(classes, clusters, class_logits, edge_logits, distances)
    assert ((scores > 0) & (scores < 1)).all()
    np.testing.assert_allclose(unsquashed(scores), expected, rtol=1e-5, atol=1e-5)


def test_by_hand():
    """Cells 0 0 1 in a row. Class logits 3, 5 and 1; edges 0-0 logit -4, 0-1 logit 6. Cluster 0:
    (3 + 5) / 2 + 6 - (-4) = 14, cluster 1: 1 + 6 - nothing = 7."""
    graph = grid_graph(1, 3, (1,))
    edges = np.array([[[-4.0, 6, 99]], [[99, 99, 99]]])  # 99: no edge there
    logits = np.array([[[3.0, 5, 99]], [[99, 99, 1]]])
    labels = np.array([[0, 0, 1]])
    scores = instance_scores(labels, labels, logits, edges, graph)
    np.testing.assert_allclose(scores, [(1 + 14 / 15) / 2, (1 + 7 / 8) / 2])


def test_a_lone_cell_has_no_edges():
    logits = np.full((1, 1, 1), -1.0)
    labels = np.zeros((1, 1), np.int32)
    scores = instance_scores(
        labels, labels, logits, np.full((2, 1, 1), 9.0), grid_graph(1, 1, (1,))
    )
    np.testing.assert_allclose(scores, [0.25])


def test_sure_instances_are_not_tied_in_single_precision():
    """Where a sigmoid would be 1 for all of them."""
    levels = np.arange(20.0, 90.0)
    graph = grid_graph(1, len(levels), (1,))
    clusters = np.arange(len(levels))[None]
    edges = np.zeros((2, 1, len(levels)))
    scores = instance_scores(np.zeros_like(clusters), clusters, levels[None, None], edges, graph)
    single = scores.astype(np.float32)
    assert (np.diff(single) > 0).all() and single[-1] < 1
    assert len(set((1 / (1 + np.exp(-levels))).astype(np.float32))) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node_classes", np.zeros((3, 3), int)),
        ("clusters", np.zeros((2, 4), int)),
        ("class_logits", np.zeros((2, 2, 2))),
        ("edge_logits", np.zeros((4, 2, 3))),
    ],
)
def test_wrong_shapes_are_named(name, value):
    arguments = {
        "node_classes": np.zeros((2, 3), int),
        "clusters": np.zeros((2, 3), int),
        "class_logits": np.zeros((2, 2, 3)),
        "edge_logits": np.zeros((2, 2, 3)),
    }
    with pytest.raises(ValueError, match=name):
        instance_scores(**{**arguments, name: value}, graph=grid_graph(2, 3, (1,)))
