"""What a network says about edges of each kind: inside a thing, between two, and so on.

Shapes: D distances; h, w cells of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from cops.grid_graph import grid_graph
from cops.targets import NO_SEGMENT, CopsTarget

KINDS = ("inside a thing", "between two things", "thing and stuff", "stuff")


class EdgeSums:
    """Counts of edges by distance and kind, over any number of images.

    Args:
        distances: D, in cells.
        is_thing: K flags.
    """

    def __init__(self, distances: Sequence[int], is_thing: Sequence[bool]) -> None:
        self.distances = tuple(distances)
        self.is_thing = np.array(is_thing, dtype=bool)
        # Edges, sum of costs, edges with a cost above 0.
        self._sums = np.zeros((len(self.distances), len(KINDS), 3))

    def add(self, target: CopsTarget, edge_costs: npt.NDArray[np.floating]) -> None:
        """Count the edges of one image.

        Edges that touch void or a crowd are left out.

        Args:
            target: the truth on the grid.
            edge_costs: (2 D, h', w') with h' >= h, w' >= w; above 0 joins.

        Raises:
            ValueError: the costs cover less than the truth, or have other channels.
        """
        segments = target.segment_map.numpy()
        height, width = segments.shape
        channels, *covered = edge_costs.shape
        if channels != 2 * len(self.distances) or covered[0] < height or covered[1] < width:
            raise ValueError(
                f"edge costs {edge_costs.shape} do not cover {len(self.distances)} distances on "
                f"{height} x {width} cells"
            )
        things = np.append(self.is_thing[target.classes.numpy()], False)[segments]
        for channel in grid_graph(height, width, self.distances).channels:
            ends = segments[channel.first], segments[channel.second]
            counts = (ends[0] != NO_SEGMENT) & (ends[1] != NO_SEGMENT)
            number = things[channel.first].astype(int) + things[channel.second]
            kind = np.select([number == 0, number == 1, ends[0] != ends[1]], [3, 2, 1], default=0)
            costs = edge_costs[channel.channel, :height, :width][channel.cells][counts]
            for column, values in enumerate((np.ones_like(costs), costs, costs > 0)):
                self._sums[channel.channel // 2, :, column] += np.bincount(
                    kind[counts], values, len(KINDS)
                )

    def rows(self) -> Iterator[tuple[int, str, int, float, float]]:
        """Give distance, kind, edges, mean cost and share with a cost above 0, where there are."""
        for distance, of_kinds in zip(self.distances, self._sums, strict=True):
            for kind, (count, total, joined) in zip(KINDS, of_kinds, strict=True):
                if count:
                    yield distance, kind, int(count), total / count, joined / count
