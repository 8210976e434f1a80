"""Multicut, also called correlation clustering: AMWC without classes, with links that must hold.

    minimise  sum over cut edges e of edge_costs[e]

over all ways to divide the nodes of a graph into clusters. There is one class, in P, and it costs
nothing, so both algorithms apply as they are. What is added here is what an infinite cost means:

* +inf, a *must-link*: cutting the edge would cost everything, so its ends have one cluster. Such
  edges are contracted before anything is solved, so that they hold exactly.
* -inf, a *cannot-link*: the edge pays everything for being cut, so its ends have two clusters. The
  solvers read a finite cost of -B, with B above twice the sum of all finite magnitudes. Then two
  clusters with a cannot-link between them have edges of negative sum whatever else joins them. A
  labelling that breaks one costs more than all nodes alone, which breaks none.

Constraints cost nothing in the energy. Every result is checked against all of them.

Shapes: V nodes, E edges, M clusters, N nodes that are left when must-links are contracted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit
from cops.solver.arguments import float_array
from cops.solver.counting import mark_cut
from cops.solver.labelling import Result, total_cut
from cops.solver.methods import check_options, solve_checked
from cops.solver.parallel import Workers, call_beside
from cops.solver.problem import (
    LARGEST_SUM,
    check_edge_costs,
    check_labels,
    check_num_nodes,
    count_nodes,
    edge_array,
    refuse_nan,
    survey_problem,
)

# What a cannot-link pays, in sums of all finite magnitudes.
BARRIER = 2.01


class Multicut(NamedTuple):
    """A division of the nodes into clusters.

    Attributes:
        labels: (V,) int32, cluster of each node; 0 .. M-1, numbered by their first nodes.
        is_cut: (E,) bool, whether the ends of each edge lie in two clusters.
        energy: the finite costs of the cut edges, summed in float64.
    """

    labels: npt.NDArray[np.int32]
    is_cut: npt.NDArray[np.bool_]
    energy: float


def solve_multicut(
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    *,
    num_nodes: int | None = None,
    method: str = "auto",
    start: npt.ArrayLike | Multicut | Result | None = None,
    refine: int = 1,
    num_threads: int = 1,
) -> Multicut:
    """Divide the nodes of a graph with signed edges into clusters at a low cost.

    Args:
        edges: (E, 2), the two ends of each edge, 0 .. V-1; parallel edges add up.
        edge_costs: (E,), what is paid if the edge is cut: positive = wants to stay together. +inf:
            the ends must have one cluster (must-link); -inf: two clusters (cannot-link).
        num_nodes: V; by default one more than the largest end of an edge. Nodes far above what so
            few edges can name, as with identifiers for numbers, must be asked for.
        method: "auto", "multilevel" or "greedy", as for `cops.solver.solve_amwc`.
        start: (V,) integer labels from which "auto" and "multilevel" start, such as those of the
            image before, or the whole result that holds them. They need not obey the constraints:
            the nodes of a must-link take the label of the first of them.
        refine: of "multilevel" only: cycles of refinement, 0 = as fast as possible.
        num_threads: threads, >= 1; the result does not depend on it.

    Raises:
        ValueError, TypeError: an argument is malformed, the method is unknown or takes no start, or
            a cannot-link contradicts must-links; the message names the edge.
        MemoryError: so many nodes or edges do not fit.

    Examples:
        A square of friends with one that must stay out.

        >>> found = solve_multicut([[0, 1], [1, 2], [2, 3], [0, 3]], [1.0, 2.0, 1.5, -np.inf])
        >>> found.labels.tolist(), found.energy
        ([0, 1, 1, 1], 1.0)
    """
    check_options(method, start, refine)
    if isinstance(start, Multicut):
        start = start.labels
    elif isinstance(start, Result):
        start = start.node_clusters
    labels_before = start

    def solve() -> Multicut:
        ends, costs, linked = _check_graph(edges, edge_costs, num_nodes)
        first = None
        if labels_before is not None:
            first = check_labels("start", labels_before, len(linked))
        with Workers(num_threads) as workers:
            options = {"refine": refine, "workers": workers}
            parts = _solve_linked(ends, costs, linked, first, method, options)
        labels = parts[linked]
        is_cut = np.empty(len(ends), bool)
        mark_cut(ends, labels, 0, len(ends), is_cut)
        _certify(costs, is_cut)
        finite = np.where(np.isinf(costs), 0.0, costs)
        return Multicut(labels, is_cut, total_cut(finite, is_cut))

    try:
        return call_beside(solve)
    except MemoryError as error:
        raise MemoryError("so many nodes and edges do not fit into memory: give fewer") from error


def _check_graph(
    edges: npt.ArrayLike, edge_costs: npt.ArrayLike, num_nodes: int | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Check a graph; return its edges and costs, and the node (V,) that each is contracted to."""
    ends = edge_array(edges)
    if num_nodes is None:
        if len(ends) == 0:
            raise ValueError("without an edge, num_nodes must say how many nodes there are")
        num_nodes = count_nodes(ends)
    num_nodes = check_num_nodes(num_nodes)
    costs = check_edge_costs(float_array("edge_costs", edge_costs), len(ends))
    refuse_nan("edge_costs", costs)
    finite = np.where(np.isinf(costs), 0.0, costs)
    # The nodes of a multicut cost nothing: one class, and one number per node that is never read.
    problem, _ = survey_problem(np.zeros((num_nodes, 1), np.float32), ends, finite, [True])
    if np.isneginf(costs).any():
        _check_barrier(finite, num_nodes)
    linked, count = join_linked(problem.edges, np.isposinf(costs), num_nodes)
    if count < num_nodes:
        _check_contradictions(problem.edges, costs, linked)
    return problem.edges, costs, linked


def _check_barrier(finite: npt.NDArray[Any], num_nodes: int) -> None:
    """Refuse finite costs beside which no cost of a cannot-link has finite sums."""
    magnitudes = np.abs(finite)
    total = BARRIER * float(magnitudes.sum(dtype=np.float64))
    if total * (2 * num_nodes + len(finite)) > LARGEST_SUM:
        edge = int(magnitudes.argmax())
        raise ValueError(
            f"edge_costs[{edge}] = {finite[edge]:.3g} is too large beside a cannot-link (-inf): "
            "sums over the graph would overflow; rescale the costs"
        )


def _check_contradictions(
    edges: npt.NDArray[np.int32], costs: npt.NDArray[Any], linked: npt.NDArray[np.int32]
) -> None:
    """Refuse a cannot-link whose ends are joined by must-links."""
    broken = np.isneginf(costs) & (linked[edges[:, 0]] == linked[edges[:, 1]])
    if broken.any():
        edge = int(np.flatnonzero(broken)[0])
        raise ValueError(
            f"edges[{edge}] says that nodes {edges[edge, 0]} and {edges[edge, 1]} must be apart "
            "(-inf), but edges of +inf join them: give up one of these constraints"
        )


def _solve_linked(
    edges: npt.NDArray[np.int32],
    costs: npt.NDArray[Any],
    linked: npt.NDArray[np.int32],
    start: npt.NDArray[Any] | None,
    method: str,
    options: dict[str, Any],
) -> npt.NDArray[np.int32]:
    """Solve the contracted problem; return clusters (N,), numbered by first nodes."""
    num_parts = int(linked.max()) + 1
    if num_parts < len(linked):
        edges = linked[edges]
        left = edges[:, 0] != edges[:, 1]
        edges, costs = np.ascontiguousarray(edges[left]), costs[left]
    apart = np.isneginf(costs)
    if apart.any():
        total = float(np.abs(costs[~apart]).sum(dtype=np.float64))
        barrier = BARRIER * total if total > 0.0 else 1.0
        costs = np.where(apart, -barrier, costs.astype(np.float64))
    no_classes = np.zeros((num_parts, 1), np.float32)
    problem, survey = survey_problem(no_classes, edges, costs, [True])
    labelling = None
    if start is not None:
        first_nodes = np.unique(linked, return_index=True)[1]
        clusters = np.unique(start[first_nodes], return_inverse=True)[1]
        labelling = (np.zeros(num_parts, np.int32), clusters.astype(np.int32))
    result = solve_checked(problem, survey, method, start=labelling, **options)
    return result.node_clusters


def _certify(costs: npt.NDArray[Any], is_cut: npt.NDArray[np.bool_]) -> None:
    """Check that no constraint is broken.

    Raises:
        RuntimeError: one is, which the head of this file excludes.
    """
    broken = np.flatnonzero(np.where(is_cut, np.isposinf(costs), np.isneginf(costs)))
    if len(broken):
        raise RuntimeError(
            f"the labelling breaks the constraint of edges[{broken[0]}]: a fault of the solver, "
            "please report it with this problem"
        )


def join_linked(
    edges: npt.NDArray[np.int32], is_link: npt.NDArray[np.bool_], num_nodes: int
) -> tuple[npt.NDArray[np.int32], int]:
    """Find the components of the graph of some edges.

    Args:
        edges: (E, 2) int32.
        is_link: (E,) which edges join their ends.
        num_nodes: V.

    Returns:
        (V,) int32 component of each node, numbered 0 .. N-1 by first nodes; and N.
    """
    parent = np.arange(num_nodes, dtype=np.int32)
    if is_link.any():
        _join_edges(np.ascontiguousarray(edges[is_link]), parent)
    numbers = np.cumsum(parent == np.arange(num_nodes), dtype=np.int32) - np.int32(1)
    return numbers[parent], int(numbers[-1]) + 1


@jit
def _join_edges(edges, parent):
    """Let parent[v], at first v, be the smallest node of the component of v."""
    # Invariant: parent[v] <= v, and roots are the smallest nodes of their sets.
    for e in range(edges.shape[0]):
        a = edges[e, 0]
        b = edges[e, 1]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        parent[max(a, b)] = min(a, b)
    for v in range(parent.size):
        parent[v] = parent[parent[v]]
