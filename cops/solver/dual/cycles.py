"""Cycles with one negative edge: what proves that not everything can be cut as it would like.

A cycle is never cut once. If one of its edges costs less than nothing and all others more, then
either that edge stays whole or another one is cut. At least the smallest magnitude d among the
costs is lost. *Packing* the cycle counts d in the bound, and takes it off all its costs. Each
becomes smaller in magnitude by d and keeps its sign. (Lange, Karrenbauer, Andres, "Partial
optimality and fast lower bounds for weighted correlation clustering", ICML 2018).

Cycles are looked for where a known good labelling pays: through negative edges that it leaves
whole, and positive ones that it cuts. It only says where to look. First come cycles of three and
four edges, which on grids there are many of, then longer ones, by breadth-first search.

Shapes: V nodes, E edges, N cycles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit, jit_pass


class Packing(NamedTuple):
    """What is left of the costs, and what has been packed; changed in place.

    Attributes:
        left: (E,) float32, costs after the cycles so far.
        first: (E + 2,) int64, the edges of cycle n are edge[first[n]] .. edge[first[n + 1] - 1].
        edge: (S,) int32, in each cycle the negative edge first.
        amount: (E + 1,) float32, what has been packed of each cycle.
        sizes: (3,) int64: cycles, links visited, and links that may be visited.
    """

    left: npt.NDArray[np.float32]
    first: npt.NDArray[np.int64]
    edge: npt.NDArray[np.int32]
    amount: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.int64]


# Of a packing's sizes.
CYCLES, VISITS, LIMIT = range(3)
# Edges that all cycles may have together, for each edge of the graph.
ROOM = 8
# Walks with a negative edge on them; longer ones are not looked through for edges that come twice.
LONGEST_WALK = 64


class Room(NamedTuple):
    """Room for searches.

    Attributes:
        stamp: (2 V,) int64, for which search a state was last reached.
        via: (2 V,) int32, by which edge.
        queue: (2 V,) int32, states in the order in which they are reached.
    """

    stamp: npt.NDArray[np.int64]
    via: npt.NDArray[np.int32]
    queue: npt.NDArray[np.int32]


@jit
def make_packing(costs):
    """Begin with no cycle."""
    num_edges = costs.size
    return Packing(
        costs.copy(),
        np.zeros(num_edges + 2, np.int64),
        np.empty(ROOM * num_edges + 64, np.int32),
        np.empty(num_edges + 1, np.float32),
        np.zeros(3, np.int64),
    )


@jit
def make_room(num_nodes):
    """Allocate; no state is reached."""
    return Room(
        np.full(2 * num_nodes, -1, np.int64),
        np.empty(2 * num_nodes, np.int32),
        np.empty(2 * num_nodes, np.int32),
    )


@jit_pass
def _pack(packing, count):
    """Pack the cycle whose `count` edges stand behind those of the last one.

    Returns:
        What has been packed; 0 if not exactly one of its edges is negative.
    """
    left, edge = packing.left, packing.edge
    number = packing.sizes[CYCLES]
    begin = packing.first[number]
    negative = 0
    amount = np.float32(np.inf)
    for i in range(begin, begin + count):
        cost = left[edge[i]]
        if cost < 0.0:
            negative += 1
            edge[begin], edge[i] = edge[i], edge[begin]
        amount = min(amount, abs(cost))
    if negative != 1 or amount == 0.0 or number >= packing.amount.size:
        return np.float32(0.0)
    for i in range(begin, begin + count):
        left[edge[i]] += amount if i == begin else -amount
    packing.amount[number] = amount
    packing.first[number + 1] = begin + count
    packing.sizes[CYCLES] = number + 1
    return amount


@jit_pass
def _propose(packing, a, b, c, d):
    """Pack the cycle of these three or four (d >= 0) edges."""
    begin = packing.first[packing.sizes[CYCLES]]
    if begin + 4 > packing.edge.size:
        return np.float32(0.0)
    packing.edge[begin] = a
    packing.edge[begin + 1] = b
    packing.edge[begin + 2] = c
    if d >= 0:
        packing.edge[begin + 3] = d
    return _pack(packing, 4 if d >= 0 else 3)


@jit_pass
def pack_short(edges, links, wanted, packing, room):
    """Pack triangles, and then cycles of four edges, through wanted edges.

    Args:
        edges: (E, 2) int32.
        links: of them.
        wanted: (W,) int64 edges.
        packing: changed.
        room: for searches.
    """
    for squares in range(2):
        for w in range(wanted.size):
            e = wanted[w]
            if packing.left[e] == 0.0:
                continue
            if packing.sizes[VISITS] > packing.sizes[LIMIT]:
                return 0
            _pack_around(edges, links, e, squares * wanted.size + w, squares == 1, packing, room)
    return 0


@jit_pass
def _pack_around(edges, links, e, search, squares, packing, room):
    """Pack the triangles or the cycles of four edges through edge e."""
    left, first = packing.left, links.first
    u, v = np.int64(edges[e, 0]), np.int64(edges[e, 1])
    if first[u + 1] - first[u] > first[v + 1] - first[v]:
        u, v = v, u
    for j in range(first[index(v)], first[index(v + 1)]):
        g = links.edge[index(j)]
        if g != e and left[index(g)] != 0.0:
            a = edges[index(g), 0] + edges[index(g), 1] - v
            room.stamp[index(a)] = search
            room.via[index(a)] = g
    visits = first[v + 1] - first[v] + first[u + 1] - first[u]
    for j in range(first[u], first[u + 1]):
        f = links.edge[j]
        if left[e] == 0.0:
            break
        if f == e or left[f] == 0.0 or (left[e] < 0.0 and left[f] < 0.0):
            continue
        a = edges[f, 0] + edges[f, 1] - u
        if not squares:
            if room.stamp[a] == search:
                _propose(packing, np.int64(e), np.int64(f), np.int64(room.via[a]), np.int64(-1))
            continue
        visits += first[a + 1] - first[a]
        for i in range(first[index(a)], first[index(a + 1)]):
            h = links.edge[index(i)]
            b = edges[index(h), 0] + edges[index(h), 1] - a
            if room.stamp[index(b)] != search or b == u or h == f or left[index(h)] == 0.0:
                continue
            g = room.via[index(b)]
            if g != h and left[index(f)] != 0.0 and left[index(g)] != 0.0:
                _propose(packing, np.int64(e), np.int64(f), np.int64(h), np.int64(g))
    packing.sizes[VISITS] += visits
    return 0


@jit_pass
def pack_long(edges, links, wanted, longest, packing, room):
    """Pack cycles through wanted edges, each the shortest there is, of at most `longest` edges.

    Args:
        edges: (E, 2) int32.
        links: of them.
        wanted: (W,) int64 edges.
        longest: number of edges of a cycle.
        packing: changed.
        room: for searches, unused so far.
    """
    search = np.int64(0)
    for w in range(wanted.size):
        e = wanted[w]
        # Each time an edge of the cycle loses all that is left, so this ends.
        while packing.left[e] != 0.0:
            if packing.sizes[VISITS] > packing.sizes[LIMIT]:
                return 0
            count = _search(edges, links, e, longest, search, packing, room)
            search += 1
            if count == 0 or _pack(packing, count) == 0.0:
                break
    return 0


@jit_pass
def _search(edges, links, e, longest, search, packing, room):
    """Find a shortest cycle through e with one negative edge, and write it behind the last one.

    A state is a node, and whether a negative edge has been passed (node + V).

    Returns:
        The number of its edges; 0 if there is none.
    """
    left, num_nodes = packing.left, links.middle.size
    source, target = np.int64(edges[e, 0]), np.int64(edges[e, 1])
    # A negative edge needs a path of positive ones, a positive edge one with a negative among them.
    goal = target if left[e] < 0.0 else target + num_nodes
    room.stamp[source] = search
    room.queue[0] = source
    head, tail, level_end, length = 0, 1, 1, 1
    while head < tail and room.stamp[goal] != search and length < longest:
        state = np.int64(room.queue[head])
        head += 1
        behind = state >= num_nodes
        no_more = behind or left[e] < 0.0  # negative edges
        v = state - num_nodes if behind else state
        first, after = links.first[index(v)], links.first[index(v + 1)]
        packing.sizes[VISITS] += after - first
        for j in range(first, after):
            f = links.edge[index(j)]
            cost = left[index(f)]
            if f == e or cost == 0.0 or (cost < 0.0 and no_more):
                continue
            other = edges[index(f), 0] + edges[index(f), 1] - v
            other += num_nodes if behind or cost < 0.0 else 0
            if room.stamp[index(other)] != search:
                room.stamp[index(other)] = search
                room.via[index(other)] = f
                room.queue[index(tail)] = other
                tail += 1
        if head == level_end:
            level_end = tail
            length += 1
    if room.stamp[goal] != search:
        return 0
    return _write_path(edges, e, source, goal, num_nodes, packing, room)


@jit_pass
def _write_path(edges, e, source, goal, num_nodes, packing, room):
    """Write e and the edges of the path that was found; return how many, 0 if one comes twice."""
    begin = packing.first[packing.sizes[CYCLES]]
    count = np.int64(0)
    state = goal
    while state != source:
        if begin + count + 2 > packing.edge.size:
            return 0
        f = room.via[state]
        packing.edge[begin + count] = f
        count += 1
        behind = state >= num_nodes
        other = edges[f, 0] + edges[f, 1] - (state - num_nodes if behind else state)
        state = other + num_nodes if behind and packing.left[f] > 0.0 else np.int64(other)
    # A walk with a negative edge on it may pass a positive one before and after.
    if goal >= num_nodes:
        if count > LONGEST_WALK:
            return 0
        for i in range(begin, begin + count):
            for j in range(begin, i):
                if packing.edge[i] == packing.edge[j]:
                    return 0
    packing.edge[begin + count] = e
    return count + 1
