"""AMWC straight from the maps of a network, on the graph of `cops.grid_graph`.

The result is that of `solve_amwc(..., method="multilevel")` for the lists that the maps stand for,
with the edges in the order of `GridGraph.edges`. A convenience more than a gain: the edges are not
checked anew for each image, which is the smallest part of the time (docs/benchmark/solver.md).

Shapes: K classes, h, w cells, V = h w nodes in raster order, D distances, E edges.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cops.grid_graph import GridGraph, grid_graph
from cops.solver.arguments import float_array
from cops.solver.labelling import Result
from cops.solver.methods import check_options, solve_checked
from cops.solver.parallel import Workers, call_beside
from cops.solver.problem import Problem, check_partitionable, survey_values
from cops.solver.stencil import Stencil, find_stencil


def solve_amwc_grid(
    class_costs: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    distances: Sequence[int],
    partitionable: npt.ArrayLike,
    *,
    refine: int = 1,
    num_threads: int = 1,
) -> Result:
    """Solve AMWC on a grid by local moves (`method="multilevel"`).

    Args:
        class_costs: (K, h, w), what each cell pays for each class; +inf means "never".
        edge_costs: (2 D, h, w), what is paid if an edge is cut, at the cells that `cops.grid_graph`
            says: channel 2 i holds the horizontal edges of distances[i], channel 2 i + 1 the
            vertical ones. Cells without an edge are not read.
        distances: D distances, in cells.
        partitionable: (K,) bools.
        refine: as for `solve_amwc`.
        num_threads: as there.

    Returns:
        A result whose edges are those of `grid_graph(h, w, distances).edges`, in that order.

    Raises:
        ValueError, TypeError: as for `solve_amwc`, with places in the maps.
    """
    check_options("multilevel", None, refine)

    def solve() -> Result:
        with Workers(num_threads) as workers:
            return solve_maps(workers)

    def solve_maps(workers: Workers) -> Result:
        classes = float_array("class_costs", class_costs)
        if classes.ndim != 3 or 0 in classes.shape:
            raise ValueError(f"class_costs must have shape (K, h, w), none 0, not {classes.shape}")
        graph = grid_graph(classes.shape[1], classes.shape[2], distances)
        maps = float_array("edge_costs", edge_costs)
        expected = (graph.num_channels, graph.height, graph.width)
        if maps.shape != expected:
            raise ValueError(
                f"edge_costs must have shape {expected}, by class_costs and distances, not "
                f"{maps.shape}"
            )
        costs = graph.edge_costs_from_maps(maps)
        flags = check_partitionable(partitionable, len(classes))
        nodes = graph.node_costs_from_maps(classes)
        try:
            survey = survey_values(nodes, costs, _stencil_of(graph), workers)
        except ValueError as error:
            raise ValueError(_name_cells(str(error), graph)) from error
        problem = Problem(nodes, graph.edges, costs, flags)
        return solve_checked(problem, survey, "multilevel", refine=refine, workers=workers)

    return call_beside(solve)


def _name_cells(sentence: str, graph: GridGraph) -> str:
    """Replace the places of nodes and edges in a sentence by places in the maps."""

    def of_node(match: re.Match[str]) -> str:
        row, column = divmod(int(match[1]), graph.width)
        return f"class_costs[{match[2] or ':'}, {row}, {column}]"

    def of_edge(match: re.Match[str]) -> str:
        shape = (graph.num_channels, graph.height, graph.width)
        places = graph.edge_costs_from_maps(np.arange(math.prod(shape)).reshape(shape))
        place = np.unravel_index(int(places[int(match[1])]), shape)
        return f"edge_costs[{', '.join(str(index) for index in place)}]"

    sentence = re.sub(r"node_costs\[(\d+)(?:, (\d+))?\]", of_node, sentence)
    return re.sub(r"edge_costs\[(\d+)\]", of_edge, sentence)


@lru_cache(maxsize=8)
def _stencil_of(graph: GridGraph) -> Stencil:
    return find_stencil(graph.edges, graph.num_nodes)[0]
