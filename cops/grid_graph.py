"""The graph of an image's grid: from maps, as a network makes them, to edge lists and back.

COPS solves on the cells of a stride-4 grid, joined by horizontal and vertical edges at a few
distances (Abbas, Swoboda, NeurIPS 2021, 3.1). The network predicts one map of edge costs per
distance and direction. In it each edge sits at the cell in its middle (Eq. 10, 11, Fig. 8):

    d = 1   horizontal (i, j) - (i, j + 1)                  vertical (i, j) - (i + 1, j)
    d > 1   horizontal (i, j - ceil(d/2)) - (i, j + floor(d/2))       vertical likewise on rows

so a horizontal and a vertical edge of one cell cross there. A cell whose edge would leave the grid
has none. Everything is slices: the ends of all edges of a map are two shifted views of the grid.

Shapes: h, w cells of the grid, V = h w nodes in raster order; D distances; E edges; K classes.
Channel 2 i of a (2 D, h, w) map holds the horizontal edges of distances[i], channel 2 i + 1 the
vertical ones. Edges are listed by channel, within a channel in raster order.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

# At stride 1 the edges of a 1024 x 2048 image are 200 MB, so only a few graphs are kept.
_CACHED_GRAPHS = 4

DIRECTIONS = ("horizontal", "vertical")


class ChannelEdges(NamedTuple):
    """Where the edges of one channel are.

    Each of `cells`, `first` and `second` is a pair of slices, of rows and of columns, and all three
    have the same extent.

    Attributes:
        channel: index into the first axis of a (2 D, h, w) map.
        cells: the cells of that channel that hold an edge.
        first: the edges' upper or left ends, in the same order as the cells.
        second: their lower or right ends.
        edges: where they stand in the list of all edges.
    """

    channel: int
    cells: tuple[slice, slice]
    first: tuple[slice, slice]
    second: tuple[slice, slice]
    edges: slice


@dataclass(frozen=True)
class GridGraph:
    """A grid and its edges. Make it by `grid_graph`, which checks and caches.

    Attributes:
        height, width: h and w, in cells.
        all_distances: the D distances in the order of the maps' channels, in cells.
    """

    height: int
    width: int
    all_distances: tuple[int, ...]

    @property
    def num_nodes(self) -> int:
        """V = h w."""
        return self.height * self.width

    @property
    def num_channels(self) -> int:
        """2 D, the channels of an edge map; distances that do not fit have theirs too."""
        return 2 * len(self.all_distances)

    @cached_property
    def channels(self) -> tuple[ChannelEdges, ...]:
        """The channels that have an edge, ascending."""
        found: list[ChannelEdges] = []
        start = 0
        for index, distance in enumerate(self.all_distances):
            for axis in (1, 0):
                extent = [self.height, self.width]
                extent[axis] = max(extent[axis] - distance, 0)
                count = extent[0] * extent[1]
                if count == 0:
                    continue
                before = 0 if distance == 1 else (distance + 1) // 2
                cells, first, second = (
                    _shifted(extent, axis, offset) for offset in (before, 0, distance)
                )
                edges = slice(start, start + count)
                found.append(ChannelEdges(2 * index + 1 - axis, cells, first, second, edges))
                start += count
        return tuple(found)

    @cached_property
    def distances(self) -> tuple[int, ...]:
        """The distances that have at least one edge."""
        present = {channel.channel // 2 for channel in self.channels}
        return tuple(d for index, d in enumerate(self.all_distances) if index in present)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.channels[-1].edges.stop if self.channels else 0

    @cached_property
    def edges(self) -> npt.NDArray[np.int32]:
        """(E, 2) int32 nodes of each edge, the upper or left one first.

        The array is shared by all users of a graph: do not write into it. It is not marked
        read-only because Numba compiles every function anew for read-only arrays.
        """
        nodes = np.arange(self.num_nodes, dtype=np.int32).reshape(self.height, self.width)
        edges = np.empty((self.num_edges, 2), dtype=np.int32)
        for channel in self.channels:
            extent = nodes[channel.cells].shape
            edges[channel.edges, 0].reshape(extent)[...] = nodes[channel.first]
            edges[channel.edges, 1].reshape(extent)[...] = nodes[channel.second]
        return edges

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(2 D, h, w) bool, whether a cell holds an edge; read-only."""
        valid = np.zeros((self.num_channels, self.height, self.width), dtype=bool)
        for channel in self.channels:
            valid[channel.channel][channel.cells] = True
        valid.flags.writeable = False
        return valid

    def edge_costs_from_maps(self, maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Read the values of all edges, in the order of `edges`.

        Args:
            maps: (2 D, h, w) values; those of cells without an edge are not read.

        Returns:
            (E,) of the same dtype.

        Raises:
            ValueError: the maps have another shape.
        """
        self._check("edge maps", maps.shape, (self.num_channels, self.height, self.width))
        values = np.empty(self.num_edges, dtype=maps.dtype)
        for channel in self.channels:
            block = maps[channel.channel][channel.cells]
            values[channel.edges].reshape(block.shape)[...] = block
        return values

    def maps_from_edges(self, values: npt.NDArray[Any], fill: float = 0) -> npt.NDArray[Any]:
        """Invert `edge_costs_from_maps`.

        Args:
            values: (E,) a value of each edge.
            fill: the value of cells without an edge; it must fit the dtype of `values`.

        Returns:
            (2 D, h, w) of the same dtype.

        Raises:
            ValueError: there is not one value per edge.
        """
        self._check("edge values", values.shape, (self.num_edges,))
        shape = (self.num_channels, self.height, self.width)
        maps = np.full(shape, fill, dtype=values.dtype)
        for channel in self.channels:
            block = maps[channel.channel][channel.cells]
            block[...] = values[channel.edges].reshape(block.shape)
        return maps

    def node_costs_from_maps(self, maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Make (V, K) C-contiguous node values of (K, h, w) maps; each cell is a node.

        Raises:
            ValueError: the maps are not of this grid.
        """
        self._check("class maps", maps.shape, (*maps.shape[:1], self.height, self.width))
        return np.ascontiguousarray(maps.reshape(len(maps), self.num_nodes).T)

    def maps_from_nodes(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Invert `node_costs_from_maps`: (V, K) -> (K, h, w), C-contiguous.

        Raises:
            ValueError: there is not one row per node.
        """
        self._check("node values", values.shape, (self.num_nodes, *values.shape[1:2]))
        if values.ndim != 2:
            raise ValueError(f"node values have shape {values.shape}, expected (V, K)")
        return np.ascontiguousarray(values.T).reshape(-1, self.height, self.width)

    def _check(self, what: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if tuple(shape) != expected:
            raise ValueError(
                f"{what} have shape {tuple(shape)}, but a grid of {self.height} x {self.width} "
                f"cells with the distances {self.all_distances} needs {expected}"
            )


def _shifted(extent: Sequence[int], axis: int, offset: int) -> tuple[slice, slice]:
    """Slices of rows and columns of the given extent, moved along one axis."""
    rows, columns = (
        slice(offset, offset + size) if index == axis else slice(0, size)
        for index, size in enumerate(extent)
    )
    return rows, columns


def grid_graph(height: int, width: int, distances: Sequence[int]) -> GridGraph:
    """Make the graph of a grid, or take it from a small cache.

    A distance that does not fit into the grid gets no edges, and is logged once per grid size. A
    crop of 512 pixels has 128 rows at stride 4, so no vertical edge of distance 128.

    Args:
        height: h, in cells.
        width: w, in cells.
        distances: D distances of edges, in cells, in the order of the edge maps.

    Raises:
        ValueError: an empty grid, or distances that are not different positive integers.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a grid needs at least one cell, got {height} x {width}")
    return _cached_graph(int(height), int(width), _whole_distances(distances))


def _whole_distances(distances: Sequence[int]) -> tuple[int, ...]:
    """Return distances as integers, or refuse them, whatever they are."""
    given: Any = distances
    try:
        given = tuple(distances)
        numbers = tuple(int(d) for d in given)
        good = all(n == d and n > 0 for n, d in zip(numbers, given, strict=True))
    except (TypeError, ValueError, OverflowError):  # one number, text, NaN, infinity
        numbers, good = (), False
    if not good or len(set(numbers)) < len(numbers):
        raise ValueError(f"the distances {given} are not different positive integers")
    return numbers


@lru_cache(maxsize=_CACHED_GRAPHS)
def _cached_graph(height: int, width: int, distances: tuple[int, ...]) -> GridGraph:
    graph = GridGraph(height, width, distances)
    for index, distance in enumerate(distances):
        present = {c.channel - 2 * index for c in graph.channels}
        missing = tuple(name for i, name in enumerate(DIRECTIONS) if i not in present)
        if missing:
            _log_missing(height, width, distance, missing)
    return graph


@lru_cache(maxsize=1024)
def _log_missing(height: int, width: int, distance: int, missing: tuple[str, ...]) -> None:
    """Log it, by a cache so that each grid size and distance is logged once."""
    logger.info(
        "a grid of %d x %d cells has no %s edges of distance %d: they are left out",
        height,
        width,
        " and no ".join(missing),
        distance,
    )
