"""Grid graphs: hand-counted edges, a loop over cells as twin, and round trips."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from cops.grid_graph import grid_graph

SHAPES = [(1, 1), (1, 7), (6, 1), (3, 4), (5, 5), (9, 17), (16, 8)]
DISTANCES = [(1,), (1, 4), (1, 2, 3), (5, 1, 16), (16, 32), ()]


def edges_by_loop(height, width, distances):
    """Edges and their (channel, i, j), written as Eq. 10 and 11 are, one cell at a time."""
    edges, places = [], []
    for index, d in enumerate(distances):
        back, ahead = (0, 1) if d == 1 else (-(-d // 2), d // 2)
        for direction in range(2):
            for i in range(height):
                for j in range(width):
                    if direction == 0:
                        first, second = (i, j - back), (i, j + ahead)
                    else:
                        first, second = (i - back, j), (i + ahead, j)
                    if first[0] < 0 or first[1] < 0 or second[0] >= height or second[1] >= width:
                        continue
                    edges.append([first[0] * width + first[1], second[0] * width + second[1]])
                    places.append((2 * index + direction, i, j))
    return np.array(edges, dtype=np.int32).reshape(-1, 2), places


def test_hand_worked_edges():
    # Nodes 0 1 2 3     d = 1: 0-1 1-2 2-3, 4-5 5-6 6-7 across, 0-4 1-5 2-6 3-7 down.
    #       4 5 6 7     d = 3: 0-3 and 4-7 across, at column ceil(3 / 2) = 2; none down.
    graph = grid_graph(2, 4, (1, 3))
    across, down = (
        [[0, 1], [1, 2], [2, 3], [4, 5], [5, 6], [6, 7]],
        [[0, 4], [1, 5], [2, 6], [3, 7]],
    )
    assert graph.edges.tolist() == across + down + [[0, 3], [4, 7]]
    assert (graph.num_nodes, graph.num_edges, graph.distances) == (8, 12, (1, 3))
    assert graph.edges.dtype == np.int32
    assert graph.valid.astype(int).tolist() == [
        [[1, 1, 1, 0], [1, 1, 1, 0]],
        [[1, 1, 1, 1], [0, 0, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 1, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
    ]


def test_even_distances_cross_in_the_middle():
    # d = 4 around the centre (4, 4) of 9 x 9: columns 2 and 6 of row 4, rows 2 and 6 of column 4.
    graph = grid_graph(9, 9, (4,))
    maps = np.zeros((2, 9, 9), dtype=np.int64)
    maps[:, 4, 4] = 1
    ends = graph.edges[graph.edge_costs_from_maps(maps) == 1]
    assert ends.tolist() == [[4 * 9 + 2, 4 * 9 + 6], [2 * 9 + 4, 6 * 9 + 4]]


@pytest.mark.parametrize("distances", DISTANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_loop_over_cells(shape, distances):
    graph = grid_graph(*shape, distances)
    edges, places = edges_by_loop(*shape, distances)
    np.testing.assert_array_equal(graph.edges, edges)
    assert graph.num_edges == len(edges)
    assert [tuple(place) for place in np.argwhere(graph.valid)] == places
    maps = np.random.default_rng(0).normal(size=(2 * len(distances), *shape)).astype(np.float32)
    values = graph.edge_costs_from_maps(maps)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array([maps[p] for p in places], dtype=np.float32))
    back = graph.maps_from_edges(values, fill=-7)
    np.testing.assert_array_equal(back, np.where(graph.valid, maps, -7))
    np.testing.assert_array_equal(graph.edge_costs_from_maps(back), values)


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_simple(shape):
    edges = grid_graph(*shape, (1, 2, 3, 4)).edges
    assert (edges[:, 0] < edges[:, 1]).all()
    assert len(np.unique(edges, axis=0)) == len(edges)


def test_node_values_round_trip():
    graph = grid_graph(3, 5, (1,))
    maps = np.random.default_rng(0).normal(size=(4, 3, 5))
    values = graph.node_costs_from_maps(maps)
    assert values.shape == (15, 4) and values.flags.c_contiguous
    for i in range(3):
        for j in range(5):
            np.testing.assert_array_equal(values[5 * i + j], maps[:, i, j])
    np.testing.assert_array_equal(graph.maps_from_nodes(values), maps)


def test_maps_need_not_be_contiguous():
    graph = grid_graph(4, 6, (1, 2))
    maps = np.random.default_rng(0).normal(size=(4, 6, 4))
    transposed = maps.transpose(0, 2, 1)
    expected = graph.edge_costs_from_maps(transposed.copy())
    np.testing.assert_array_equal(graph.edge_costs_from_maps(transposed), expected)


def test_number_of_edges_of_the_paper():
    # 256 x 512 cells: 256 (512 - d) across and (256 - d) 512 down.
    distances = (1, 4, 16, 32, 64, 128)
    expected = sum(256 * (512 - d) + (256 - d) * 512 for d in distances)
    assert grid_graph(256, 512, distances).num_edges == expected == 1_384_704


def test_distance_that_does_not_fit_is_left_out_and_logged_once(caplog):
    with caplog.at_level(logging.INFO, logger="cops.grid_graph"):
        graph = grid_graph(11, 23, (1, 16, 32))
        grid_graph(11, 23, (16, 32))
    assert graph.distances == (1, 16)
    assert graph.num_channels == 6
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "a grid of 11 x 23 cells has no vertical edges of distance 16: they are left out",
        "a grid of 11 x 23 cells has no horizontal and no vertical edges of distance 32: "
        "they are left out",
    ]
    maps = graph.maps_from_edges(np.ones(graph.num_edges), fill=3)
    assert (maps[3:] == 3).all() and (maps[2] == 1).sum() == 11 * 7


def test_is_cached_and_can_be_pickled():
    graph = grid_graph(6, 7, [1, 2])
    assert grid_graph(6, 7, (1, 2)) is graph
    copy = pickle.loads(pickle.dumps(graph))
    assert copy == graph
    np.testing.assert_array_equal(copy.edges, graph.edges)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one cell"):
        grid_graph(0, 5, (1,))
    for distances in [(0,), (1, -2), (1.5,), (4, 4)]:
        with pytest.raises(ValueError, match="different positive integers"):
            grid_graph(3, 5, distances)
    graph = grid_graph(3, 5, (1, 2))
    for shape in [(2, 3, 5), (4, 5, 3), (4, 15)]:
        with pytest.raises(ValueError, match=r"needs \(4, 3, 5\)"):
            graph.edge_costs_from_maps(np.zeros(shape))
    with pytest.raises(ValueError, match="edge values"):
        graph.maps_from_edges(np.zeros(graph.num_edges - 1))
    for shape in [(2, 5, 3), (15,), ()]:
        with pytest.raises(ValueError, match="class maps"):
            graph.node_costs_from_maps(np.zeros(shape))
    for shape in [(14, 2), (15,), (15, 2, 2)]:
        with pytest.raises(ValueError, match="node values"):
            graph.maps_from_nodes(np.zeros(shape))
