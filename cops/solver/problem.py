"""The asymmetric multiway cut problem (AMWC): its input, its solutions, and how to check them.

A graph has V nodes and E edges. Each node takes one of K classes, and the nodes are divided into
clusters of one class each. A class in P ("partitionable") may have many clusters; every other class
has one at most. The cost of such a labelling, to be minimised, is (Eq. 2 of Abbas and Swoboda,
"Combinatorial Optimization for Panoptic Segmentation", NeurIPS 2021)

    sum over nodes v of    node_costs[v, class of v]
  + sum over edges e of    edge_costs[e]  where the ends of e lie in two different clusters.

Sign convention: costs are *paid*. An edge cost is paid when the edge is cut, so a positive one says
"these two want to stay together" and a negative one "these two want to be apart".
With P empty this is the multiway cut problem (MWC): clusters are classes.

Shapes: V nodes, K classes, E edges, M clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit
from cops.solver.stencil import Stencil, find_cut_in_pieces, find_stencil, no_stencil

# Sums of this many times the largest cost must stay finite; see `_check_magnitude`.
LARGEST_SUM = 1e300


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


class Result(NamedTuple):
    """A feasible labelling.

    Attributes:
        node_classes: (V,) int32, class of each node.
        node_clusters: (V,) int32, cluster of each node; 0 .. M-1, numbered by their first nodes.
        is_cut: (E,) bool, whether the ends of each edge lie in two clusters.
        energy: the cost of the labelling (Eq. 2), summed in float64.
    """

    node_classes: npt.NDArray[np.int32]
    node_clusters: npt.NDArray[np.int32]
    is_cut: npt.NDArray[np.bool_]
    energy: float


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
) -> tuple[Problem, Survey]:
    """`check_problem`, and what it has seen on the way."""
    nodes = float_array("node_costs", node_costs)
    if nodes.ndim != 2 or nodes.shape[0] < 1:
        raise ValueError(
            f"node_costs must have shape (V, K) with at least one node, not {nodes.shape}"
        )
    num_nodes, num_classes = nodes.shape
    if num_classes < 1:
        raise ValueError("node_costs must have a column for at least one class: K is 0")
    ends, stencil = _check_edges(edges, num_nodes)
    costs = float_array("edge_costs", edge_costs)
    if costs.shape != (len(ends),):
        raise ValueError(
            f"edge_costs must have shape ({len(ends)},), one cost an edge, not {costs.shape}"
        )
    flags = check_partitionable(partitionable, num_classes)
    return Problem(nodes, ends, costs, flags), survey_values(nodes, costs, stencil)


def survey_values(
    node_costs: npt.NDArray[Any], edge_costs: npt.NDArray[Any], stencil: Stencil
) -> Survey:
    """Check the values of costs of the right shape and type.

    Raises:
        ValueError: a cost is not possible, or too large.
    """
    largest_node_cost = check_node_values(node_costs)
    largest_edge_cost = largest_magnitude(edge_costs)
    if not np.isfinite(largest_edge_cost):
        edge = int(np.flatnonzero(~np.isfinite(edge_costs))[0])
        raise ValueError(
            f"edge_costs[{edge}] is {edge_costs[edge]}; edge costs must be finite. A large "
            "positive cost keeps two nodes together, a large negative one apart"
        )
    survey = Survey(largest_node_cost, largest_edge_cost, stencil)
    _check_magnitude(node_costs, len(edge_costs), survey)
    return survey


def survey_costs(problem: Problem) -> Survey:
    """The survey of a problem that is known to be right."""
    return Survey(
        largest_magnitude(problem.node_costs),
        largest_magnitude(problem.edge_costs),
        find_stencil(problem.edges, len(problem.node_costs))[0],
    )


def check_partitionable(
    partitionable: npt.ArrayLike | None, num_classes: int
) -> npt.NDArray[np.bool_]:
    """`partitionable` as (K,) bool; None means none."""
    if partitionable is None:
        return np.zeros(num_classes, dtype=bool)
    # Writable, if need be a copy: for read-only flags all kernels would be compiled again.
    flags = np.require(partitionable, requirements=["C", "W"])
    if flags.shape != (num_classes,) or flags.dtype != bool:
        raise ValueError(
            f"partitionable must be {num_classes} bools, one a class (not a list of class "
            f"numbers), but has shape {flags.shape} and type {flags.dtype}"
        )
    return flags


def largest_magnitude(values: npt.NDArray[Any]) -> float:
    """The largest absolute value of a C-contiguous array of floats; NaN if there is a NaN.

    Without their sign bit, floats are ordered as the integers that their bits spell, with infinity
    above all numbers and NaN above infinity. So one pass of integer maxima answers everything.
    """
    if values.size == 0:
        return 0.0
    word = np.uint32 if values.dtype == np.float32 else np.uint64
    bits = values.reshape(-1).view(word)
    magnitude = _largest_masked(bits, word(np.iinfo(word).max >> 1))
    return float(np.array([magnitude], word).view(values.dtype)[0])


@jit
def _largest_masked(bits, mask):
    largest = mask ^ mask
    for i in range(bits.size):
        largest = max(largest, bits[i] & mask)
    return largest


def float_array(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """`values` as C-contiguous float32 or float64; not copied where they already are."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, not {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        # Integers and float16 fit into float64 exactly (int64 up to 2^53).
        array = array.astype(np.float64)
    # Also brings a foreign byte order into the native one, which is all that Numba reads.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _check_edges(edges: npt.ArrayLike, num_nodes: int) -> tuple[npt.NDArray[np.int32], Stencil]:
    """`edges` as (E, 2) int32 with every index valid and no self-loop; and its pieces."""
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
        stencil, valid = find_stencil(ends, num_nodes)
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
    return ends, find_stencil(ends, num_nodes)[0]


def check_node_values(nodes: npt.NDArray[Any]) -> float:
    """Refuse NaN, -inf, and a node without any possible class; returns the largest magnitude."""
    largest = largest_magnitude(nodes)
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


def energy(
    node_costs: npt.NDArray[Any],
    edges: npt.NDArray[Any],
    edge_costs: npt.NDArray[Any],
    node_classes: npt.NDArray[Any],
    is_cut: npt.NDArray[Any],
) -> float:
    """The cost of a labelling (Eq. 2), summed in float64; whether it is feasible is not asked.

    Args:
        node_costs: (V, K).
        edges: (E, 2); only their number must fit that of the costs.
        edge_costs: (E,).
        node_classes: (V,) integers in 0 .. K-1.
        is_cut: (E,) bools.
    """
    node_costs, edge_costs = np.asarray(node_costs), np.asarray(edge_costs)
    classes = np.asarray(node_classes, dtype=np.int32)
    cut = np.asarray(is_cut, dtype=bool)
    if not len(edges) == len(edge_costs) == len(cut):
        raise ValueError(
            f"{len(edges)} edges, {len(edge_costs)} edge costs and {len(cut)} cut flags must be "
            "equally many"
        )
    chosen = np.take_along_axis(node_costs, classes[:, None].astype(np.intp), axis=1)
    return float(sum_all(chosen[:, 0]) + sum_cut(edge_costs, cut))


def is_feasible(
    edges: npt.NDArray[Any],
    partitionable: npt.NDArray[Any],
    node_classes: npt.NDArray[Any],
    node_clusters: npt.NDArray[Any],
    is_cut: npt.NDArray[Any],
) -> bool:
    """Whether a labelling obeys the constraints of Eq. 2.

    That is: an edge is cut exactly if its ends lie in two clusters, each cluster has one class, and
    a class outside P has one cluster at most. (A cluster need not be connected: a non-partitionable
    class has one cluster wherever its nodes are.)
    """
    ends = np.asarray(edges, dtype=np.intp).reshape(-1, 2)
    flags = np.asarray(partitionable, dtype=bool)
    classes = np.asarray(node_classes, dtype=np.intp)
    clusters = np.asarray(node_clusters, dtype=np.intp)
    cut = np.asarray(is_cut, dtype=bool)
    if classes.shape != clusters.shape or classes.ndim != 1 or cut.shape != (len(ends),):
        return False
    if classes.min() < 0 or classes.max() >= len(flags):
        return False
    if not np.array_equal(cut, clusters[ends[:, 0]] != clusters[ends[:, 1]]):
        return False
    pairs = np.unique(np.stack([clusters, classes], axis=1), axis=0)
    if len(np.unique(pairs[:, 0])) != len(pairs):
        return False  # a cluster with two classes
    clusters_per_class = np.bincount(pairs[:, 1], minlength=len(flags))
    return bool((clusters_per_class[~flags] <= 1).all())


def finish(
    problem: Problem,
    node_classes: npt.NDArray[Any],
    node_clusters: npt.NDArray[Any],
    stencil: Stencil | None = None,
) -> Result:
    """The result that belongs to a clustering: one cluster for each class outside P, then counted.

    Joining clusters of one non-partitionable class is lines 19 to 23 of Algorithm 2.

    Args:
        problem: a checked problem.
        node_classes: (V,) integers in 0 .. K-1.
        node_clusters: (V,) integers in 0 .. K+V-1 without further meaning; all nodes of a cluster
            have one class.
        stencil: of the edges, where it is known.
    """
    classes = np.ascontiguousarray(node_classes, dtype=np.int32)
    clusters = _number_clusters(
        classes, np.ascontiguousarray(node_clusters, dtype=np.int32), problem.partitionable
    )
    is_cut = find_cut(problem.edges, clusters, stencil)
    cost = energy(problem.node_costs, problem.edges, problem.edge_costs, classes, is_cut)
    return Result(classes, clusters, is_cut, cost)


def find_cut(
    edges: npt.NDArray[np.int32], clusters: npt.NDArray[np.int32], stencil: Stencil | None = None
) -> npt.NDArray[np.bool_]:
    """(E,) bool, whether the ends of each edge lie in two clusters."""
    if stencil is None or len(stencil.offsets) == 0:
        cut: npt.NDArray[np.bool_] = _find_cut(edges, clusters)
        return cut
    is_cut = np.empty(len(edges), dtype=bool)
    find_cut_in_pieces(stencil, clusters, is_cut)
    return is_cut


@jit
def _find_cut(edges, clusters):
    is_cut = np.empty(edges.shape[0], np.bool_)
    for e in range(edges.shape[0]):
        is_cut[e] = clusters[edges[e, 0]] != clusters[edges[e, 1]]
    return is_cut


@jit
def sum_cut(edge_costs, is_cut):
    """The sum of the costs of the cut edges, in float64 and in one fixed order."""
    # Four sums side by side, so that an addition need not wait for the one before; and products
    # instead of branches, which nobody could predict.
    a = b = c = d = np.float64(0.0)
    size = edge_costs.size
    for e in range(0, size - 3, 4):
        a += np.float64(edge_costs[e]) * is_cut[e]
        b += np.float64(edge_costs[e + 1]) * is_cut[e + 1]
        c += np.float64(edge_costs[e + 2]) * is_cut[e + 2]
        d += np.float64(edge_costs[e + 3]) * is_cut[e + 3]
    for e in range(size - size % 4, size):
        a += np.float64(edge_costs[e]) * is_cut[e]
    return (a + b) + (c + d)


@jit
def sum_all(costs):
    """The sum of (V,) costs, in float64 and in their order."""
    total = np.float64(0.0)
    for v in range(costs.size):
        total += costs[v]
    return total


@jit
def _number_clusters(node_classes, node_clusters, partitionable):
    """Clusters 0 .. M-1 in the order of their first nodes, one for each class outside P."""
    num_nodes = node_classes.size
    num_classes = partitionable.size
    # A key for each cluster: its class if the class may have one cluster only, else K + its number.
    number = np.full(2 * num_classes + num_nodes, -1, dtype=np.int32)
    numbered = np.empty(num_nodes, dtype=np.int32)
    count = 0
    for node in range(num_nodes):
        key = node_classes[node]
        if partitionable[key]:
            key = num_classes + node_clusters[node]
        if number[key] < 0:
            number[key] = count
            count += 1
        numbered[node] = number[key]
    return numbered
