"""Rows of links that threads fill side by side: how large graphs of general form are made.

Each thread takes shares of the edges, counts their links at each node, and so knows where in the
rows they go. What comes out is what one thread makes of all edges in their order.

Shapes: n nodes of a graph.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit_pass
from cops.solver.parallel import Workers

# A share has as many edges at least.
EDGES_PER_SHARE = 1 << 14


def edges_per_share(num_nodes: int) -> int:
    """Return how many edges a share has at least, beside so many nodes to count for."""
    return max(EDGES_PER_SHARE, 4 * num_nodes)


def fill_shared_rows(
    shares: list[list[Any]],
    scale: float,
    both: bool,
    first: npt.NDArray[np.int64],
    middle: npt.NDArray[np.int64],
    link_node: npt.NDArray[np.int32],
    link_cost: npt.NDArray[np.float32],
    workers: Workers,
) -> int:
    """Fill the rows of a graph as `make_graph` of build.py does; threads take shares of the edges.

    Args:
        shares: in the order of the edges; each is some pieces of lists: ends, costs, begin and end.
        scale: as for `make_graph`.
        both: as there.
        first: written, as are the other attributes of a graph.
        middle: written.
        link_node: written.
        link_cost: written.
        workers: threads, which do not change the result.
    """
    # Each counts for itself, backward and forward links, and then knows where its links go.
    counts = np.zeros((len(shares), 2, len(middle)), np.int64)

    def count(share: int) -> None:
        for ends, _, begin, end in shares[share]:
            _count_ends(ends, begin, end, both, counts[share])

    workers.run([partial(count, share) for share in range(len(shares))])
    backward, forward = counts.sum(axis=0)
    np.cumsum(backward + forward, out=first[1:])
    np.add(first[:-1], backward, out=middle)
    places = np.cumsum(counts, axis=0) - counts
    places += np.stack([first[:-1], middle])

    def place(share: int) -> None:
        for ends, costs, begin, end in shares[share]:
            _place_links(ends, costs, scale, begin, end, both, places[share], link_node, link_cost)

    workers.run([partial(place, share) for share in range(len(shares))])
    return int((backward + forward).max(initial=0))


@jit_pass
def _count_ends(edges, begin, end, both, counts):
    """Count edges begin .. end - 1 at their larger ends, counts[0], and at their smaller ones."""
    for e in range(begin, end):
        a, b = edges[index(e), 0], edges[index(e), 1]
        counts[0, index(max(a, b))] += 1
        if both:
            counts[1, index(min(a, b))] += 1
    return 0


@jit_pass
def _place_links(edges, edge_costs, scale, begin, end, both, places, link_node, link_cost):
    """Write the links of edges begin .. end - 1 where the next one of their nodes goes."""
    for e in range(begin, end):
        a, b = edges[index(e), 0], edges[index(e), 1]
        low, high = min(a, b), max(a, b)
        cost = edge_costs[index(e)] * scale
        i = places[0, index(high)]
        link_node[index(i)] = low
        link_cost[index(i)] = cost
        places[0, index(high)] = i + 1
        if both:
            i = places[1, index(low)]
            link_node[index(i)] = high
            link_cost[index(i)] = cost
            places[1, index(low)] = i + 1
    return 0
