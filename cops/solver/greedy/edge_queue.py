"""A priority queue of edges whose priorities change all the time: buckets with a heap on top.

Asked for is the edge of highest key, among equal keys the one of smallest order. A heap of all
edges would be as large as the graph, and every change of a key would walk through it. Here the keys
are divided into equal intervals, "buckets". Only edges at or above the current *level* are in a
heap. The others lie unsorted in the list of their bucket, where a change of key within the interval
costs nothing. When the heap runs empty, the level falls to the next bucket that holds an edge.

An edge's `PLACE` says where it waits: a bucket number, IN_HEAP, NOWHERE or DEAD. List and heap
entries that disagree with it (or, in the heap, with the edge's present key) are stale and skipped.
Nothing is ever searched for in order to be removed. Arrays have room for twice the edges; when one
is full, its stale entries, half of it at least, are dropped.

The distribution of keys matters for speed only: in the worst case, one bucket holds all edges and
the queue is a plain heap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_inner
from cops.solver.greedy.contraction import COST, DEAD, NUM_EDGES, ORDER, PENALTY, PLACE, Graph

# Values of PLACE besides bucket numbers (>= 0) and DEAD = -2.
NOWHERE = -1
IN_HEAP = -3
COUNTED = -4  # only while the heap is swept

NUM_BUCKETS = 2048
# The buckets cover the keys up to this many times the mean positive cost; the last one is open.
BUCKETS_REACH = 4.0

# Entries of `sizes`; the first is the graph's.
HEAP_SIZE = 1
NUM_ENTRIES = 2
LEVEL = 3
NUM_SIZES = 4

# Columns of `entries`.
EDGE = 0
NEXT_ENTRY = 1


class EdgeQueue(NamedTuple):
    """The arrays of the queue; all are changed in place.

    Attributes:
        heap_key: (2 E + 2,) float64, binary heap of keys, largest first.
        heap_tie: (2 E + 2,) int64, order * 2^32 + edge of each heap entry.
        bucket_head: (NUM_BUCKETS,) int32, first entry of each bucket's list, -1 = none.
        entries: (2 E + 2, 2) int32, of each list entry its edge and the next entry, -1 = end.
        scale: (1,) float64, buckets per unit of key.
        sizes: (NUM_SIZES,) int64, see the names above.
    """

    heap_key: npt.NDArray[np.float64]
    heap_tie: npt.NDArray[np.int64]
    bucket_head: npt.NDArray[np.int32]
    entries: npt.NDArray[np.int32]
    scale: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.int64]


def make_queue(graph: Graph) -> EdgeQueue:
    """Make a queue of all edges of cost >= 0, with their costs as keys."""
    room = 2 * len(graph.links) + 2
    queue = EdgeQueue(
        heap_key=np.empty(room, dtype=np.float64),
        heap_tie=np.empty(room, dtype=np.int64),
        bucket_head=np.full(NUM_BUCKETS, -1, dtype=np.int32),
        entries=np.empty((room, 2), dtype=np.int32),
        scale=np.ones(1, dtype=np.float64),
        sizes=np.zeros(NUM_SIZES, dtype=np.int64),
    )
    _fill(graph, queue)
    return queue


@jit
def _fill(graph, queue):
    links, costs = graph.links, graph.costs
    num_edges = graph.sizes[NUM_EDGES]
    queue.sizes[NUM_EDGES] = num_edges
    total = 0.0
    positive = 0
    for e in range(num_edges):
        if costs[e, COST] > 0.0:
            total += costs[e, COST]
            positive += 1
    if positive > 0:
        scale = NUM_BUCKETS / (BUCKETS_REACH * (total / positive))
        if np.isfinite(scale):  # else the costs are so tiny that one bucket will do
            queue.scale[0] = scale
    for e in range(num_edges):
        if costs[e, COST] >= 0.0:
            links[e, PLACE] = _bucket_of(queue.scale[0], costs[e, COST])
    _sweep_buckets(links, queue.bucket_head, queue.entries, queue.sizes)
    queue.sizes[LEVEL] = NUM_BUCKETS


@jit_inner
def _bucket_of(scale, key):
    """Find the bucket of a key >= 0; it never falls as the key rises."""
    scaled = key * scale
    if scaled >= NUM_BUCKETS - 1:
        return NUM_BUCKETS - 1
    return int(scaled)


@jit
def put(links, costs, heap_key, heap_tie, bucket_head, entries, scale, sizes, e):
    """Queue living edge e under its present key and order, or leave it out if the key is < 0.

    To be called whenever one of the two has changed, with entries of the past left in place.
    The arrays are those of a `Graph` and an `EdgeQueue`, handed over one by one. To take an array
    out of a tuple costs two atomic operations, too much for a function that is called this often.
    """
    key = costs[e, COST] - costs[e, PENALTY]
    if key < 0.0:
        links[e, PLACE] = NOWHERE
        return
    bucket = _bucket_of(scale[0], key)
    if bucket >= sizes[LEVEL]:
        links[e, PLACE] = IN_HEAP
        if sizes[HEAP_SIZE] == heap_key.size:  # more than twice the edges: half is stale
            _sweep_heap(links, costs, heap_key, heap_tie, sizes)
        _push(heap_key, heap_tie, sizes, key, (np.int64(links[e, ORDER]) << 32) | e)
    elif links[e, PLACE] != bucket:
        links[e, PLACE] = bucket
        if sizes[NUM_ENTRIES] == entries.shape[0]:
            _sweep_buckets(links, bucket_head, entries, sizes)  # enters e, too
        else:
            _append(bucket_head, entries, sizes, bucket, e)


@jit
def take(links, costs, heap_key, heap_tie, bucket_head, entries, scale, sizes):
    """Remove and return the edge of highest key, of smallest order among equals; -1 if none."""
    while True:
        while sizes[HEAP_SIZE] > 0:
            key = heap_key[0]
            tie = heap_tie[0]
            _drop_top(heap_key, heap_tie, sizes)
            e = tie & 0xFFFFFFFF
            if _is_current(links, costs, key, tie, e):
                links[e, PLACE] = NOWHERE
                return e
        # Invariant: all edges at or above the level were in the heap, which is empty.
        level = sizes[LEVEL] - 1
        while level >= 0 and bucket_head[level] < 0:
            level -= 1
        sizes[LEVEL] = max(level, 0)
        if level < 0:
            return np.int64(-1)
        entry = bucket_head[level]
        bucket_head[level] = -1
        while entry >= 0:
            e = np.int64(entries[entry, EDGE])
            if links[e, PLACE] == level:
                put(links, costs, heap_key, heap_tie, bucket_head, entries, scale, sizes, e)
            entry = entries[entry, NEXT_ENTRY]


@jit_inner
def _is_current(links, costs, key, tie, e):
    """Tell whether a heap entry still says what its edge says."""
    return (
        links[e, PLACE] == IN_HEAP
        and key == costs[e, COST] - costs[e, PENALTY]
        and tie >> 32 == links[e, ORDER]
    )


@jit_inner
def _append(bucket_head, entries, sizes, bucket, e):
    entry = sizes[NUM_ENTRIES]
    entries[entry, EDGE] = e
    entries[entry, NEXT_ENTRY] = bucket_head[bucket]
    bucket_head[bucket] = entry
    sizes[NUM_ENTRIES] = entry + 1


@jit_inner
def _sweep_buckets(links, bucket_head, entries, sizes):
    """Write all lists anew, one entry for each edge that waits in a bucket."""
    bucket_head[:] = -1
    sizes[NUM_ENTRIES] = 0
    # Backwards, so that a list names its edges in the order in which they lie in memory.
    for e in range(sizes[NUM_EDGES] - 1, -1, -1):
        if links[e, PLACE] >= 0:
            _append(bucket_head, entries, sizes, links[e, PLACE], e)


@jit_inner
def _sweep_heap(links, costs, heap_key, heap_tie, sizes):
    """Drop the heap's stale entries and all but one of equal entries."""
    size = sizes[HEAP_SIZE]
    sizes[HEAP_SIZE] = 0
    for k in range(size):
        key, tie = heap_key[k], heap_tie[k]
        e = tie & 0xFFFFFFFF
        if _is_current(links, costs, key, tie, e):
            links[e, PLACE] = COUNTED  # a second entry of this edge is no longer current
            # The heap of the kept entries never reaches beyond entry k, which has been read.
            _push(heap_key, heap_tie, sizes, key, tie)
    for k in range(sizes[HEAP_SIZE]):
        links[heap_tie[k] & 0xFFFFFFFF, PLACE] = IN_HEAP


@jit_inner
def _push(keys, ties, sizes, key, tie):
    hole = sizes[HEAP_SIZE]
    sizes[HEAP_SIZE] = hole + 1
    # Invariant: all entries below the hole are worse than (key, tie).
    while hole > 0:
        parent = (hole - 1) >> 1
        if keys[parent] > key or (keys[parent] == key and ties[parent] <= tie):
            break
        keys[hole] = keys[parent]
        ties[hole] = ties[parent]
        hole = parent
    keys[hole] = key
    ties[hole] = tie


@jit_inner
def _drop_top(keys, ties, sizes):
    """Remove the best heap entry."""
    size = sizes[HEAP_SIZE] - 1
    sizes[HEAP_SIZE] = size
    key, tie = keys[size], ties[size]
    hole = 0
    # Invariant: all entries above the hole are better than (key, tie), the entry to be placed.
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            keys[right] > keys[child] or (keys[right] == keys[child] and ties[right] < ties[child])
        ):
            child = right
        if key > keys[child] or (key == keys[child] and tie <= ties[child]):
            break
        keys[hole] = keys[child]
        ties[hole] = ties[child]
        hole = child
    keys[hole] = key
    ties[hole] = tie


assert DEAD not in (NOWHERE, IN_HEAP, COUNTED)
