"""Which cluster numbers are free, and which nodes wait to be looked at, while nodes move.

Shapes: n nodes of a graph, C cluster numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit, jit_inline, jit_inner, jit_inner_pass, jit_pass
from cops.solver.parallel import Workers

# Labels are looked up in blocks of so many at least: that takes little time.
PLACES_PER_BLOCK = 1 << 16


class Numbers(NamedTuple):
    """The sizes of clusters and the stack of numbers without a node; changed in place.

    Invariant between moves: number c >= `first`, as `count_sizes` was told, is on the stack exactly
    if size[c] is 0. There are at least n such numbers. So a node that shares its cluster always
    finds one.

    Attributes:
        size: (C,) int32, nodes of each cluster.
        unused: (n,) int32, the stack.
        num_unused: (1,) int64, its height.
    """

    size: npt.NDArray[np.int32]
    unused: npt.NDArray[np.int32]
    num_unused: npt.NDArray[np.int64]


@jit_inner
def count_sizes(clusters, first, num_numbers):
    """Count the nodes of each cluster, and stack the free numbers first .. num_numbers - 1."""
    numbers = Numbers(
        np.zeros(num_numbers, np.int32), np.empty(len(clusters), np.int32), np.zeros(1, np.int64)
    )
    _fill_numbers(clusters, first, numbers)
    return numbers


@jit_inner_pass
def _fill_numbers(clusters, first, numbers):
    """Do the passes of `count_sizes`."""
    size = numbers.size
    for v in range(clusters.size):
        size[clusters[v]] += 1
    count = 0
    for c in range(size.size - 1, first - 1, -1):
        if size[c] == 0:
            numbers.unused[count] = c
            count += 1
    numbers.num_unused[0] = count
    return 0


@jit_inline
def leave(numbers, cluster, first):
    """Count one node less; a number from `first` on that has none left is free."""
    numbers.size[cluster] -= 1
    if numbers.size[cluster] == 0 and cluster >= first:
        numbers.unused[numbers.num_unused[0]] = cluster
        numbers.num_unused[0] += 1


@jit_inline
def take_unused(numbers):
    """Take a free number."""
    numbers.num_unused[0] -= 1
    return numbers.unused[numbers.num_unused[0]]


def look_up(
    values: npt.NDArray[np.int32], places: npt.NDArray[np.int32], workers: Workers
) -> npt.NDArray[np.int32]:
    """Return values[places], (n,) int32; threads share the places."""
    found = np.empty_like(places)
    workers.over(
        len(places), lambda *block: _look_up(values, places, *block, found), PLACES_PER_BLOCK
    )
    return found


@jit_pass
def _look_up(values, places, begin, end, found):
    """Set found[i] to values[places[i]] for i from begin to end - 1."""
    for i in range(begin, end):
        found[index(i)] = values[index(places[index(i)])]
    return 0


@jit
def number_by_first(clusters, limit):
    """Renumber clusters 0 .. M-1 in the order of their first nodes, in place; return M.

    Args:
        clusters: (n,) int32, numbers below `limit`.
        limit: above all numbers.
    """
    # What the numbers become; -1 for none yet.
    new = np.full(limit, -1, np.int32)
    count = 0
    for v in range(clusters.size):
        c = clusters[v]
        if new[c] < 0:
            new[c] = count
            count += 1
        clusters[v] = new[c]
    return count
