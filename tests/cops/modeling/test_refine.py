"""Costs on a finer grid: where they are sampled, and what links the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cops.grid_graph import grid_graph
from cops.modeling.refine import refine_costs


def middles(graph, stride: float) -> np.ndarray:
    """(2 D, h, w, 2) (y, x) in pixels of the middle of the edge that each cell holds, else nan."""
    nodes = np.arange(graph.num_nodes)
    ends = np.stack([nodes // graph.width, nodes % graph.width], axis=1) + 0.5
    places = stride * ends[graph.edges].mean(axis=1)
    return np.stack(
        [graph.maps_from_edges(places[:, axis], fill=np.nan) for axis in (0, 1)], axis=-1
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("distances", [(1, 4), (1, 3), (1, 2, 5)])
def test_a_plane_of_costs_is_reproduced_where_the_edges_are(stride, distances):
    """Costs are linear in the place of an edge's middle. Interpolation must give them back
    exactly at the middles of the finer edges, except next to the frame, where they are held."""
    coarse = grid_graph(9, 12, distances)
    at = np.nan_to_num(middles(coarse, 4), nan=1e4)  # cells without an edge must not be read
    edge_costs = torch.from_numpy(3 + 0.5 * at[..., 0] - 0.25 * at[..., 1])
    rows, columns = np.mgrid[:9, :12] * 4 + 2.0
    class_costs = torch.from_numpy(np.stack([rows, columns]))
    size = (34, 45)
    found = refine_costs(class_costs, edge_costs, distances, size, stride)
    factor = 4 // stride
    assert found.distances == (1, *(factor * d for d in distances))
    graph = grid_graph(math.ceil(34 / stride), math.ceil(45 / stride), found.distances)
    at = middles(graph, stride)
    assert found.edge_costs.shape == at.shape[:3]
    expected = 3 + 0.5 * at[..., 0] - 0.25 * at[..., 1]
    expected[:2] = np.log(factor - 1 + factor * np.exp(expected[:2]))
    # Inside of all coarse middles nothing is held: at least 2 pixels from a frame and half an edge.
    reach = np.array([2 + 2 * d for d in (1, *distances)]).repeat(2)[:, None, None]
    inside = graph.valid.copy()
    for axis, extent in ((0, 36), (1, 48)):
        along = np.arange(len(reach))[:, None, None] % 2 == (1 if axis == 0 else 0)
        margin = np.where(along, reach, 2)
        inside &= (at[..., axis] >= margin) & (at[..., axis] <= extent - margin)
    assert inside.any(axis=(1, 2)).all()
    np.testing.assert_allclose(found.edge_costs.numpy()[2:][inside[2:]], expected[2:][inside[2:]])
    assert not found.edge_costs.numpy()[~graph.valid].any()
    assert found.edge_costs.abs().max() < 50  # 1e4 is nowhere in it
    y, x = np.mgrid[: graph.height, : graph.width] * float(stride) + stride / 2
    plane = np.stack([y.clip(2, 34), x.clip(2, 46)])
    np.testing.assert_allclose(found.class_costs.numpy(), plane)


@pytest.mark.parametrize("factor", [2, 4])
def test_neighbours_share_the_probability_of_a_cut(factor):
    probability = torch.tensor([1e-6, 0.1, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    for p in probability:
        cost = torch.log((1 - p) / p)  # paid for a cut: large where a cut is unlikely
        found = refine_costs(
            torch.zeros(1, 3, 3, dtype=torch.float64),
            cost.expand(2, 3, 3),
            (1,),
            (12, 12),
            4 // factor,
        ).edge_costs[:2, 1:-1, 1:-1]
        torch.testing.assert_close(1 / (1 + found.exp()), (p / factor).expand_as(found))
    huge = refine_costs(torch.zeros(1, 2, 2), torch.full((2, 2, 2), 1e4), (1,), (8, 8), 1)
    assert huge.edge_costs.isfinite().all()


def test_all_pixels_are_linked():
    """The distances f d alone would leave f x f grids that know nothing of one another."""
    found = refine_costs(torch.zeros(2, 4, 5), torch.zeros(4, 4, 5), (1, 2), (15, 18), 1)
    for distances, expected in ((found.distances, 1), (found.distances[1:], 16)):
        graph = grid_graph(15, 18, distances)
        ones = np.ones(graph.num_edges)
        matrix = coo_matrix((ones, graph.edges.T), shape=(graph.num_nodes, graph.num_nodes))
        assert connected_components(matrix, directed=False)[0] == expected


def test_the_networks_own_stride_only_cuts_off_the_padding():
    class_costs, edge_costs = torch.randn(3, 5, 6), torch.randn(4, 5, 6)
    found = refine_costs(class_costs, edge_costs, (1, 4), (17, 20), 4)
    assert found.distances == (1, 4)
    torch.testing.assert_close(found.class_costs, class_costs[:, :5, :5], rtol=0, atol=0)
    torch.testing.assert_close(found.edge_costs, edge_costs[:, :5, :5], rtol=0, atol=0)


def test_a_distance_that_does_not_fit_stays_empty():
    found = refine_costs(torch.zeros(1, 2, 9), torch.ones(4, 2, 9), (1, 4), (8, 36), 2)
    assert found.distances == (1, 2, 8)
    assert found.edge_costs[4].any() and not found.edge_costs[5].any()  # 8 columns, no 8 rows


@pytest.mark.parametrize(
    ("distances", "size", "stride", "message"),
    [
        ((1, 4), (16, 16), 3, "stride is 3"),
        ((1, 4), (16, 16), 8, "stride is 8"),
        ((2, 4), (16, 16), 1, "lack 1"),
        ((1, 4), (17, 16), 1, "do not cover"),
    ],
)
def test_bad_requests_are_refused(distances, size, stride, message):
    with pytest.raises(ValueError, match=message):
        refine_costs(torch.zeros(1, 4, 4), torch.zeros(4, 4, 4), distances, size, stride)
