"""The asymmetric multiway cut problem (AMWC): its input, and how to check it.

A graph has V nodes and E edges. Each node takes one of K classes, and the nodes are divided into
clusters of one class each. A class in P ("partitionable") may have many clusters; every other class
has one at most. The cost of such a labelling, to be minimised, is (Eq. 2 of Abbas and Swoboda,
"Combinatorial Optimization for Panoptic Segmentation", NeurIPS 2021)

    sum over nodes v of    node_costs[v, class of v]
  + sum over edges e of    edge_costs[e]  where the ends of e lie in two different clusters.

Sign convention: costs are *paid*. An edge cost is paid when the edge is cut. So a positive one says
"these two want to stay together" and a negative one "these two want to be apart".
With P empty this is the multiway cut problem (MWC): clusters are classes.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver.arguments import float_array, is_whole, plain_array, whole_number
from cops.solver.counting import largest_masked
from cops.solver.parallel import ALONE, Workers
from cops.solver.stencil import Stencil, find_stencil, no_stencil

# Sums of this many times the largest cost must stay finite; see `_check_magnitude`.
LARGEST_SUM = 1e300
# Indices are int32.
MOST_NODES = 2**30 - 1
# Nodes per edge from which on a number is taken for a mistake, as only nodes without edges add to
# it: whoever has so many says so.
NODES_PER_EDGE, NODES_AT_LEAST = 16, 1_000_000
# The largest of the costs is looked for in blocks of as many at least.
VALUES_PER_BLOCK = 1 << 17
# By bytes of a float: integers of that size, and all of its bits but the sign.
WITHOUT_SIGN = {4: (np.uint32, np.uint32(2**31 - 1)), 8: (np.uint64, np.uint64(2**63 - 1))}


class Problem(NamedTuple):
    """A checked problem: arrays in the one form that the algorithms read.

    Attributes:
        node_costs: (V, K) float32 or float64, C-contiguous; finite, or +inf for "never", at least
            one finite value in each row.
        edges: (E, 2) int32, C-contiguous; the two ends of each edge, in any order.
        edge_costs: (E,) float32 or float64, C-contiguous, finite.
        partitionable: (K,) bool; True for the classes in P.
    """

    node_costs: npt.NDArray[Any]
    edges: npt.NDArray[np.int32]
    edge_costs: npt.NDArray[Any]
    partitionable: npt.NDArray[np.bool_]


class Survey(NamedTuple):
    """What the checks of a problem have seen, so that no method must look for it again.

    Attributes:
        largest_node_cost: largest magnitude; +inf if one of them is "never".
        largest_edge_cost: largest magnitude, 0 without an edge.
        stencil: the pieces of the list of edges.
    """

    largest_node_cost: float
    largest_edge_cost: float
    stencil: Stencil


def check_problem(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    partitionable: npt.ArrayLike | None = None,
) -> Problem:
    """Bring a problem into the form of `Problem`, or refuse it; what fits is not copied.

    Two edges between the same nodes are fine, their costs add up; so are edges of cost zero and
    nodes without an edge. A class that a node must not take costs it +inf. There is no -inf: a node
    that surely has a class gets +inf for the others.

    Args:
        node_costs: (V, K) numbers with V, K >= 1: what a node pays for each class.
        edges: (E, 2) integers in 0 .. V-1.
        edge_costs: (E,) finite numbers: what cutting each edge costs.
        partitionable: (K,) bools, True for the classes in P; None means none (MWC).

    Raises:
        ValueError: a shape, an index or a value is not as said; the message says which and where.
        TypeError: something is of another type (complex or text costs, broken indices).
    """
    return survey_problem(node_costs, edges, edge_costs, partitionable)[0]


def survey_problem(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    partitionable: npt.ArrayLike | None = None,
    workers: Workers = ALONE,
) -> tuple[Problem, Survey]:
    """Call `check_problem`, and return what it has seen on the way, too."""
    nodes = node_cost_array(node_costs)
    num_nodes, num_classes = nodes.shape
    ends, stencil = check_edges(edges, num_nodes, workers)
    costs = check_edge_costs(float_array("edge_costs", edge_costs), len(ends))
    flags = check_partitionable(partitionable, num_classes)
    return Problem(nodes, ends, costs, flags), survey_values(nodes, costs, stencil, workers)


def node_cost_array(node_costs: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return node costs as (V, K) floats of any value, V and K >= 1."""
    nodes = float_array("node_costs", node_costs)
    if nodes.ndim != 2 or nodes.shape[0] < 1:
        raise ValueError(
            f"node_costs must have shape (V, K) with at least one node, not {nodes.shape}"
        )
    if nodes.shape[1] < 1:
        raise ValueError("node_costs must have a column for at least one class: K is 0")
    return nodes


def check_num_nodes(num_nodes: Any) -> int:
    """Return a number of nodes, 1 .. MOST_NODES."""
    number = whole_number("num_nodes", num_nodes, 1)
    if number > MOST_NODES:
        raise ValueError(f"num_nodes is {number}, but at most {MOST_NODES} are possible")
    return number


def check_edge_costs(costs: npt.NDArray[Any], num_edges: int) -> npt.NDArray[Any]:
    """Return costs, unless there is not one per edge."""
    if costs.shape != (num_edges,):
        raise ValueError(
            f"edge_costs must have shape ({num_edges},), one cost per edge, not {costs.shape}"
        )
    return costs


def refuse_nan(name: str, values: npt.NDArray[Any]) -> None:
    """Refuse an array (N,) of floats that holds a NaN."""
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
        raise ValueError(f"{name}[{missing[0]}] is NaN")


def survey_values(
    node_costs: npt.NDArray[Any],
    edge_costs: npt.NDArray[Any],
    stencil: Stencil,
    workers: Workers = ALONE,
) -> Survey:
    """Check the values of costs of the right shape and type.

    Raises:
        ValueError: a cost is not possible, or too large.
    """
    largest_node_cost = check_node_values(node_costs, workers)
    largest_edge_cost = largest_magnitude(edge_costs, workers)
    if not np.isfinite(largest_edge_cost):
        edge = int(np.flatnonzero(~np.isfinite(edge_costs))[0])
        raise ValueError(
            f"edge_costs[{edge}] is {edge_costs[edge]}; edge costs must be finite. A large "
            "positive cost keeps two nodes together, a large negative one apart"
        )
    survey = Survey(largest_node_cost, largest_edge_cost, stencil)
    _check_magnitude(node_costs, edge_costs, survey)
    return survey


def check_partitionable(
    partitionable: npt.ArrayLike | None, num_classes: int
) -> npt.NDArray[np.bool_]:
    """Bring `partitionable` into the form (K,) bool; None means none."""
    if partitionable is None:
        return np.zeros(num_classes, dtype=bool)
    # Writable, if need be a copy: for read-only flags all kernels would be compiled again.
    flags = np.require(plain_array("partitionable", partitionable), requirements=["C", "W"])
    if flags.shape != (num_classes,) or flags.dtype != bool:
        raise ValueError(
            f"partitionable must be {num_classes} bools, one per class (not a list of class "
            f"numbers), but has shape {flags.shape} and type {flags.dtype}"
        )
    return flags


def check_labels(
    name: str, labels: npt.ArrayLike, num_nodes: int, num_classes: int | None = None
) -> npt.NDArray[Any]:
    """Return labels as an array, or refuse what is not one integer per node.

    Args:
        name: of the argument.
        labels: what the caller gave.
        num_nodes: V.
        num_classes: K, if the labels are classes 0 .. K-1.

    Raises:
        ValueError: so it is.
    """
    array = plain_array(name, labels)
    if array.shape != (num_nodes,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be {num_nodes} integers, one per node, but has shape "
            f"{array.shape} and type {array.dtype}"
        )
    if num_classes is not None and (array.min() < 0 or array.max() >= num_classes):
        wrong = int(np.flatnonzero((array < 0) | (array >= num_classes))[0])
        raise ValueError(
            f"{name} must hold classes 0 .. {num_classes - 1}, but {name}[{wrong}] is "
            f"{array[wrong]}"
        )
    return array


def largest_magnitude(values: npt.NDArray[Any], workers: Workers = ALONE) -> float:
    """Return the largest magnitude of a C-contiguous array of floats; NaN if there is a NaN.

    Without their sign bit, floats are ordered as the integers that their bits spell, with infinity
    above all numbers and NaN above infinity. So one pass of integer maxima answers everything.
    """
    if values.size == 0:
        return 0.0
    word, mask = WITHOUT_SIGN[values.dtype.itemsize]
    bits = values.reshape(-1).view(word)
    largest = workers.over(
        len(bits), lambda *block: largest_masked(bits, mask, *block), VALUES_PER_BLOCK
    )
    return float(np.array([max(largest)], word).view(values.dtype)[0])


def edge_array(edges: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return edges as (E, 2) integers, which may name any node.

    Raises:
        ValueError: they have another shape.
        TypeError: they are no integers.
    """
    ends = plain_array("edges", edges)
    if ends.size == 0 and ends.shape in ((0,), (0, 2)):
        return np.zeros((0, 2), dtype=np.int32)
    if ends.ndim != 2 or ends.shape[1] != 2:
        raise ValueError(f"edges must have shape (E, 2), not {ends.shape}")
    if not is_whole(ends):
        raise TypeError(f"edges must hold integers, not {ends.dtype}")
    return ends


def count_nodes(ends: npt.NDArray[Any]) -> int:
    """Count the nodes that edges name, one more than the largest, unless that is a mistake.

    Args:
        ends: (E, 2) of `edge_array`, E >= 1.

    Raises:
        ValueError: a number is negative, or far above what so many edges can have as ends.
    """
    edge, side = np.unravel_index(int(ends.argmax()), ends.shape)
    num_nodes = int(ends[edge, side]) + 1
    if ends.min() < 0:
        wrong = int(np.flatnonzero((ends < 0).any(axis=1))[0])
        raise ValueError(f"edges[{wrong}] = {ends[wrong].tolist()}, but nodes are numbered from 0")
    if num_nodes > NODES_PER_EDGE * len(ends) + NODES_AT_LEAST:
        raise ValueError(
            f"edges[{edge}] names node {num_nodes - 1}, but the edges are only {len(ends)}: give "
            "num_nodes if so many nodes are meant, or number them from 0 on without gaps"
        )
    return num_nodes


def refuse_wrong_edges(ends: npt.NDArray[Any], num_nodes: int) -> None:
    """Refuse edges that name a node that is not there.

    Args:
        ends: (E, 2) of `edge_array`.
        num_nodes: V.
    """
    if len(ends) and (ends.min() < 0 or ends.max() >= num_nodes):
        wrong = int(np.flatnonzero(((ends < 0) | (ends >= num_nodes)).any(axis=1))[0])
        raise ValueError(
            f"edges[{wrong}] = {ends[wrong].tolist()} names a node outside 0 .. {num_nodes - 1}"
        )


def check_edges(
    edges: npt.ArrayLike, num_nodes: int, workers: Workers
) -> tuple[npt.NDArray[np.int32], Stencil]:
    """Bring `edges` into the form (E, 2) int32, all valid and no self-loop; and find its pieces."""
    ends = edge_array(edges)
    if len(ends) == 0:
        return np.zeros((0, 2), dtype=np.int32), no_stencil()
    if num_nodes > MOST_NODES or len(ends) > MOST_NODES:
        raise ValueError("at most 2^30 - 1 nodes and edges are possible: indices are int32")
    if ends.dtype == np.int32:
        ends = np.ascontiguousarray(ends, dtype=np.int32)
        stencil, valid = find_stencil(ends, num_nodes, workers)
        if valid:
            return ends, stencil
    refuse_wrong_edges(ends, num_nodes)
    ends = np.ascontiguousarray(ends, dtype=np.int32)
    loops = ends[:, 0] == ends[:, 1]
    if loops.any():
        wrong = int(np.flatnonzero(loops)[0])
        raise ValueError(
            f"edges[{wrong}] joins node {ends[wrong, 0]} to itself: such an edge is never cut, "
            "leave it out"
        )
    return ends, find_stencil(ends, num_nodes, workers)[0]


def check_node_values(nodes: npt.NDArray[Any], workers: Workers) -> float:
    """Refuse NaN, -inf, and a node without any possible class; return the largest magnitude."""
    largest = largest_magnitude(nodes, workers)
    if np.isfinite(largest):
        return largest
    if np.isnan(largest):
        node, column = np.argwhere(np.isnan(nodes))[0]
        raise ValueError(f"node_costs[{node}, {column}] is NaN")
    if np.isneginf(nodes).any():
        node, column = np.argwhere(nodes == -np.inf)[0]
        raise ValueError(
            f"node_costs[{node}, {column}] is -inf; for a node that surely has a class, give its "
            "other classes +inf instead"
        )
    impossible = np.flatnonzero(np.isposinf(nodes).all(axis=1))
    if len(impossible):
        raise ValueError(
            f"node_costs[{impossible[0]}] is +inf for every class: the node may take none"
        )
    return largest


def _check_magnitude(nodes: npt.NDArray[Any], edge_costs: npt.NDArray[Any], survey: Survey) -> None:
    """Refuse finite costs whose sums might overflow float64."""
    largest = survey.largest_node_cost
    if largest == np.inf:
        largest = float(np.abs(nodes[np.isfinite(nodes)]).max())
    of_edges = survey.largest_edge_cost
    if max(largest, of_edges) * (2 * len(nodes) + len(edge_costs)) <= LARGEST_SUM:
        return
    name, values = ("node_costs", nodes) if largest > of_edges else ("edge_costs", edge_costs)
    place = np.argwhere(np.abs(values) == max(largest, of_edges))[0].tolist()
    raise ValueError(
        f"{name}{place} = {max(largest, of_edges):.3g} in magnitude is too large: sums over the "
        "graph would overflow; rescale the costs, or use +inf for a class that a node must not take"
    )
