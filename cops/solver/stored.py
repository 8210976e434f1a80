"""A problem as files hold it, and the checks that it passes before it is written or used.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver.arguments import float_array
from cops.solver.parallel import ALONE
from cops.solver.problem import (
    Problem,
    check_edge_costs,
    check_edges,
    check_node_values,
    check_num_nodes,
    check_partitionable,
    node_cost_array,
    refuse_nan,
)


class FileError(ValueError):
    """A file that is no problem; the message names it, the line and what to do."""


class StoredProblem(NamedTuple):
    """A problem in a file.

    Attributes:
        edges: (E, 2) int32.
        edge_costs: (E,) float32 or float64.
        num_nodes: V.
        node_costs: (V, K) float32 or float64; None for multicut.
        partitionable: (K,) bool; None for multicut. With node costs, None means no class, as for
            `check_problem`.
    """

    edges: npt.NDArray[np.int32]
    edge_costs: npt.NDArray[Any]
    num_nodes: int
    node_costs: npt.NDArray[Any] | None = None
    partitionable: npt.NDArray[np.bool_] | None = None

    def amwc(self) -> Problem:
        """Return the arguments of `solve_amwc`; a multicut has one class, in P, for nothing."""
        if self.node_costs is None:
            free = np.zeros((self.num_nodes, 1), np.float32)
            return Problem(free, self.edges, self.edge_costs, np.array([True]))
        flags = self.partitionable
        if flags is None:
            flags = np.zeros(np.shape(self.node_costs)[1], bool)
        return Problem(self.node_costs, self.edges, self.edge_costs, flags)


def check_stored(problem: StoredProblem) -> StoredProblem:
    """Bring a problem into the types that are stored, or refuse it.

    Infinite edge costs pass: what they mean is for those who solve. All arrays together are looked
    at, so that a file that is written can be read again.

    Raises:
        ValueError, TypeError: an array is malformed, or two of them contradict one another.
    """
    num_nodes = check_num_nodes(problem.num_nodes)
    nodes = flags = None
    if problem.node_costs is not None:
        nodes = node_cost_array(problem.node_costs)
        if len(nodes) != num_nodes:
            raise ValueError(
                f"num_nodes is {num_nodes}, but node_costs has {len(nodes)} rows: give one row per "
                "node"
            )
        check_node_values(nodes, ALONE)
        flags = check_partitionable(problem.partitionable, nodes.shape[1])
    elif problem.partitionable is not None:
        raise ValueError("partitionable goes with node_costs, and there are none: give both")
    ends, _ = check_edges(problem.edges, num_nodes, ALONE)
    costs = check_edge_costs(float_array("edge_costs", problem.edge_costs), len(ends))
    refuse_nan("edge_costs", costs)
    return StoredProblem(ends, costs, num_nodes, nodes, flags)
