"""Graphs for lower bounds: parallel edges merged, and the edges of each node with their numbers.

Shapes: V nodes, E edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit
from cops.solver.problem import Problem


class Links(NamedTuple):
    """The edges of each node.

    Attributes:
        first: (V + 1,) int64, the links of node v are first[v] .. first[v + 1] - 1.
        middle: (V,) int64, those from here on lead to nodes of larger index.
        edge: (2 E,) int32, the edge of each link; the other end is the sum of its ends less v.
    """

    first: npt.NDArray[np.int64]
    middle: npt.NDArray[np.int64]
    edge: npt.NDArray[np.int32]


@jit
def make_links(edges, num_nodes):
    """List the edges (E, 2) of each node, those to smaller nodes first, in the order of edges."""
    num_edges = edges.shape[0]
    first = np.zeros(num_nodes + 1, np.int64)
    backward = np.zeros(num_nodes, np.int64)
    for e in range(num_edges):
        first[edges[e, 0] + 1] += 1
        first[edges[e, 1] + 1] += 1
        backward[max(edges[e, 0], edges[e, 1])] += 1
    middle = np.empty(num_nodes, np.int64)
    for v in range(num_nodes):
        first[v + 1] += first[v]
        middle[v] = first[v] + backward[v]
        backward[v] = first[v]
    forward = middle.copy()
    edge = np.empty(2 * num_edges, np.int32)
    for e in range(num_edges):
        low = min(edges[e, 0], edges[e, 1])
        high = max(edges[e, 0], edges[e, 1])
        edge[backward[high]] = e
        backward[high] += 1
        edge[forward[low]] = e
        forward[low] += 1
    return Links(first, middle, edge)


@jit
def has_parallel(edges, links):
    """Tell whether two edges join the same nodes."""
    last = np.full(links.middle.size, -1, np.int64)
    for v in range(links.middle.size):
        for i in range(links.middle[v], links.first[v + 1]):
            e = links.edge[i]
            u = edges[e, 0] + edges[e, 1] - v
            if last[u] == v:
                return True
            last[u] = v
    return False


def merge_parallel(problem: Problem) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """List edges u < v (E', 2), each pair once and in order, and their summed costs in float64."""
    ends = np.sort(problem.edges.astype(np.int64), axis=1)
    num_nodes = len(problem.node_costs)
    pairs, inverse = np.unique(ends[:, 0] * num_nodes + ends[:, 1], return_inverse=True)
    costs = np.bincount(
        inverse.ravel(), weights=problem.edge_costs.astype(np.float64), minlength=len(pairs)
    )
    merged = np.stack([pairs // num_nodes, pairs % num_nodes], axis=1)
    return merged.astype(np.int32), costs


def simple_graph(problem: Problem) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any], Links]:
    """Return edges (E', 2) without parallel ones, smaller ends first, their costs, and links."""
    num_nodes = len(problem.node_costs)
    edges = np.sort(problem.edges, axis=1)
    links = make_links(edges, num_nodes)
    if not has_parallel(edges, links):
        return edges, problem.edge_costs.astype(np.float64), links
    edges, costs = merge_parallel(problem)
    return edges, costs, make_links(edges, num_nodes)
