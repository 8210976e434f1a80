"""The oracles of the solver's tests, in plain Python: slow, obvious, and exact.

`greedy` is Algorithm 2 of Abbas and Swoboda (NeurIPS 2021) as printed, with clusters and edges in
dictionaries and every similarity computed anew in every step. `brute_force` tries every labelling.
Both count in fractions, so nothing hangs on rounding. What the fast solver gets must be equal
wherever its floats are exact, as they are for small multiples of 1/8.

Where the printed algorithm leaves a choice, the documented rules of `cops.solver.greedy.algorithm`
hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

Cost = Any  # a Fraction, or float inf for "never"


def _exact(value: Any) -> Cost:
    value = float(value)
    return value if math.isinf(value) else Fraction(value)


def _argmin(costs: Sequence[Cost]) -> int:
    """Index of the lowest cost, the first among equals."""
    return min(range(len(costs)), key=lambda k: costs[k])


def greedy(node_costs, edges, edge_costs, partitionable) -> tuple[list[int], list[int]]:
    """Algorithm 2. Returns classes and clusters; a cluster is known by its first node."""
    num_nodes = len(node_costs)
    c_v = {i: [_exact(c) for c in node_costs[i]] for i in range(num_nodes)}
    members = {i: [i] for i in range(num_nodes)}  # line 1
    label = {i: _argmin(c_v[i]) for i in range(num_nodes)}  # line 2
    # Parallel edges are one edge from the beginning; `index` decides ties.
    c_e: dict[frozenset[int], Cost] = {}
    index: dict[frozenset[int], int] = {}
    for e, (i, j) in enumerate(edges):
        pair = frozenset((int(i), int(j)))
        c_e[pair] = c_e.get(pair, 0) + _exact(edge_costs[e])
        index.setdefault(pair, e)

    def total_edge_similarity(pair: frozenset[int]) -> tuple[Cost, int]:  # lines 25 to 30
        i, j = sorted(pair)
        joint = [a + b for a, b in zip(c_v[i], c_v[j], strict=True)]
        best = _argmin(joint)
        separate = c_e[pair] + c_v[i][label[i]] + c_v[j][label[j]]
        return separate - joint[best], best

    while c_e:  # line 3
        found = {pair: total_edge_similarity(pair) for pair in c_e}
        pair = min(c_e, key=lambda p: (-found[p][0], index[p]))  # line 4
        similarity, joint_label = found[pair]
        if similarity < 0:  # lines 5 and 6
            break
        i, j = sorted(pair)
        members[i] += members.pop(j)  # line 7
        del c_e[pair], index[pair]  # line 8
        label[i] = joint_label  # line 9
        c_v[i] = [a + b for a, b in zip(c_v[i], c_v[j], strict=True)]  # line 10
        for other in [p for p in c_e if j in p]:  # lines 11 to 18
            (h,) = other - {j}
            new = frozenset((i, h))
            c_e[new] = c_e.get(new, 0) + c_e.pop(other)
            index[new] = min(index.get(new, len(edges)), index.pop(other))

    first_of_stuff: dict[int, int] = {}
    for i in sorted(members):  # lines 19 to 23
        if not partitionable[label[i]]:
            first = first_of_stuff.setdefault(label[i], i)
            if first != i:
                members[first] += members.pop(i)
    classes, clusters = [0] * num_nodes, [0] * num_nodes
    for i, nodes in members.items():
        for node in nodes:
            classes[node], clusters[node] = label[i], min(nodes)
    return classes, clusters


def energy(node_costs, edges, edge_costs, classes, clusters) -> Cost:
    """Eq. 2 for a labelling."""
    total: Cost = Fraction(0)
    for node, k in enumerate(classes):
        total += _exact(node_costs[node][k])
    for e, (i, j) in enumerate(edges):
        if clusters[i] != clusters[j]:
            total += _exact(edge_costs[e])
    return total


def all_labellings(num_nodes: int, partitionable) -> Iterator[tuple[list[int], list[int]]]:
    """Every feasible (classes, clusters) once: each node joins a segment or begins a new one."""

    def extend(classes: list[int], clusters: list[int], segments: list[int]):
        if len(classes) == num_nodes:
            yield classes, clusters
            return
        for number, k in enumerate(segments):
            yield from extend([*classes, k], [*clusters, number], segments)
        for k in range(len(partitionable)):
            if partitionable[k] or k not in segments:
                yield from extend([*classes, k], [*clusters, len(segments)], [*segments, k])

    yield from extend([], [], [])


def brute_force(node_costs, edges, edge_costs, partitionable) -> Cost:
    """The lowest energy of all feasible labellings; for at most 8 nodes."""
    if len(node_costs) > 8:
        raise ValueError("that would take too long")
    return min(
        energy(node_costs, edges, edge_costs, classes, clusters)
        for classes, clusters in all_labellings(len(node_costs), partitionable)
    )


def naive_is_cut(edges, clusters) -> list[bool]:
    """Whether each edge is cut."""
    return [bool(clusters[i] != clusters[j]) for i, j in edges]
