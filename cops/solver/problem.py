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

from cops.solver.counting import largest_masked
from cops.solver.parallel import ALONE, Workers
from cops.solver.stencil import Stencil, find_stencil, no_stencil

# Sums of this many times the largest cost must stay finite; see `_check_magnitude`.
LARGEST_SUM = 1e300
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
    nodes = float_array("node_costs", node_costs)
    if nodes.ndim != 2 or nodes.shape[0] < 1:
        raise ValueError(
            f"node_costs must have shape (V, K) with at least one node, not {nodes.shape}"
        )
    num_nodes, num_classes = nodes.shape
    if num_classes < 1:
        raise ValueError("node_costs must have a column for at least one class: K is 0")
    ends, stencil = _check_edges(edges, num_nodes, workers)
    costs = float_array("edge_costs", edge_costs)
    if costs.shape != (len(ends),):
        raise ValueError(
            f"edge_costs must have shape ({len(ends)},), one cost per edge, not {costs.shape}"
        )
    flags = check_partitionable(partitionable, num_classes)
    return Problem(nodes, ends, costs, flags), survey_values(nodes, costs, stencil, workers)


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
    largest_node_cost = _check_node_values(node_costs, workers)
    largest_edge_cost = largest_magnitude(edge_costs, workers)
    if not np.isfinite(largest_edge_cost):
        edge = int(np.flatnonzero(~np.isfinite(edge_costs))[0])
        raise ValueError(
            f"edge_costs[{edge}] is {edge_costs[edge]}; edge costs must be finite. A large "
            "positive cost keeps two nodes together, a large negative one apart"
        )
    survey = Survey(largest_node_cost, largest_edge_cost, stencil)
    _check_magnitude(node_costs, len(edge_costs), survey)
    return survey


def check_partitionable(
    partitionable: npt.ArrayLike | None, num_classes: int
) -> npt.NDArray[np.bool_]:
    """Bring `partitionable` into the form (K,) bool; None means none."""
    if partitionable is None:
        return np.zeros(num_classes, dtype=bool)
    # Writable, if need be a copy: for read-only flags all kernels would be compiled again.
    flags = np.require(partitionable, requirements=["C", "W"])
    if flags.shape != (num_classes,) or flags.dtype != bool:
        raise ValueError(
            f"partitionable must be {num_classes} bools, one per class (not a list of class "
            f"numbers), but has shape {flags.shape} and type {flags.dtype}"
        )
    return flags


def check_labels(name: str, labels: npt.ArrayLike, num_nodes: int) -> npt.NDArray[Any]:
    """Return labels as an array, or refuse what is not one integer per node."""
    array = np.asarray(labels)
    if array.shape != (num_nodes,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be {num_nodes} integers, one per node, but has shape "
            f"{array.shape} and type {array.dtype}"
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


def float_array(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Bring `values` into C-contiguous float32 or float64; no copy where they already are."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, not {array.dtype}")
    if array.dtype.char not in "fd":
        # Integers and float16 fit into float64 exactly (int64 up to 2^53).
        array = array.astype(np.float64)
    # Also brings a foreign byte order into the native one, which is all that Numba reads.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _check_edges(
    edges: npt.ArrayLike, num_nodes: int, workers: Workers
) -> tuple[npt.NDArray[np.int32], Stencil]:
    """Bring `edges` into the form (E, 2) int32, all valid and no self-loop; and find its pieces."""
    ends = np.asarray(edges)
    if ends.size == 0 and ends.shape in ((0,), (0, 2)):
        return np.zeros((0, 2), dtype=np.int32), no_stencil()
    if ends.ndim != 2 or ends.shape[1] != 2:
        raise ValueError(f"edges must have shape (E, 2), not {ends.shape}")
    if ends.dtype.kind not in "iu":
        raise TypeError(f"edges must hold integers, not {ends.dtype}")
    if num_nodes >= 2**30 or len(ends) >= 2**30:
        raise ValueError("at most 2^30 - 1 nodes and edges are possible: indices are int32")
    if ends.dtype == np.int32:
        ends = np.ascontiguousarray(ends, dtype=np.int32)
        stencil, valid = find_stencil(ends, num_nodes, workers)
        if valid:
            return ends, stencil
    if ends.min() < 0 or ends.max() >= num_nodes:
        wrong = int(np.flatnonzero(((ends < 0) | (ends >= num_nodes)).any(axis=1))[0])
        raise ValueError(
            f"edges[{wrong}] = {ends[wrong].tolist()} names a node outside 0 .. {num_nodes - 1}"
        )
    ends = np.ascontiguousarray(ends, dtype=np.int32)
    loops = ends[:, 0] == ends[:, 1]
    if loops.any():
        wrong = int(np.flatnonzero(loops)[0])
        raise ValueError(
            f"edges[{wrong}] joins node {ends[wrong, 0]} to itself: such an edge is never cut, "
            "leave it out"
        )
    return ends, find_stencil(ends, num_nodes, workers)[0]


def _check_node_values(nodes: npt.NDArray[Any], workers: Workers) -> float:
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


def _check_magnitude(nodes: npt.NDArray[Any], num_edges: int, survey: Survey) -> None:
    """Refuse finite costs whose sums might overflow float64."""
    largest = survey.largest_node_cost
    if largest == np.inf:
        largest = float(np.abs(nodes[np.isfinite(nodes)]).max())
    largest = max(largest, survey.largest_edge_cost)
    if largest * (2 * len(nodes) + num_edges) > LARGEST_SUM:
        raise ValueError(
            f"a cost of magnitude {largest:.3g} is too large: sums over the graph would overflow; "
            "rescale the costs, or use +inf for a class that a node must not take"
        )
