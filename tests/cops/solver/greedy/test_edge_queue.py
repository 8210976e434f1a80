"""The queue of edges against a list that is searched, with so little room that it must be swept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cops.solver.greedy.contraction import COST, DEAD, ORDER, PENALTY, PLACE, make_graph
from cops.solver.greedy.edge_queue import HEAP_SIZE, NUM_BUCKETS, make_queue, put, take

COSTS = [0.0, 1.0, 1.0, -1.0, 2.5, 100.0, 1e-3, 1.0]
NUM_EDGES = len(COSTS)


def path_queue():
    """A graph that is a path of edges with COSTS, and its queue."""
    edges = np.array([[i, i + 1] for i in range(NUM_EDGES)], dtype=np.int32)
    graph = make_graph(NUM_EDGES + 1, edges, np.array(COSTS))
    return graph, make_queue(graph)


def put_edge(graph, queue, e: int) -> None:
    put(graph.links, graph.costs, *queue, e)


def take_edge(graph, queue) -> int:
    return int(take(graph.links, graph.costs, *queue))


def test_edges_come_by_cost_then_by_order_and_negative_ones_not_at_all():
    graph, queue = path_queue()
    # 100, 2.5, 1 (edges 1, 2, 7), 0.001, 0.
    assert [take_edge(graph, queue) for _ in range(9)] == [5, 4, 1, 2, 7, 6, 0, -1, -1]


def test_a_taken_edge_may_come_back():
    graph, queue = path_queue()
    assert take_edge(graph, queue) == 5
    graph.costs[5, PENALTY] = 99.0  # its key is now 1, and its order that after edges 1 and 2
    put_edge(graph, queue, 5)
    assert [take_edge(graph, queue) for _ in range(5)] == [4, 1, 2, 5, 7]


def test_an_edge_is_taken_once_even_if_put_twice():
    graph, queue = path_queue()
    for _ in range(3):
        put_edge(graph, queue, 4)
    assert [take_edge(graph, queue) for _ in range(3)] == [5, 4, 1]


operations = st.lists(
    st.tuples(
        st.sampled_from(["cost", "penalty", "order", "die", "take", "same"]),
        st.integers(0, NUM_EDGES - 1),
        st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0 + 2.0**-40, 3.0, 50.0, 1e6]),
    ),
    max_size=120,
)


@settings(max_examples=100, deadline=None)
@given(operations=operations)
def test_any_sequence_of_changes(operations):
    graph, queue = path_queue()
    waiting = {e for e in range(NUM_EDGES) if COSTS[e] >= 0}
    living = set(range(NUM_EDGES))
    for what, e, value in operations:
        if what == "take":
            expected = min(
                waiting,
                key=lambda k: (
                    graph.costs[k, PENALTY] - graph.costs[k, COST],
                    graph.links[k, ORDER],
                ),
                default=-1,
            )
            assert take_edge(graph, queue) == expected
            waiting.discard(expected)
            continue
        if e not in living:
            continue
        if what == "die":
            graph.links[e, PLACE] = DEAD
            living.discard(e)
            waiting.discard(e)
            continue
        if what == "cost":
            graph.costs[e, COST] = value
        elif what == "penalty":
            graph.costs[e, PENALTY] = max(value, 0.0)
        elif what == "order":  # orders stay different, as those of living edges are
            graph.links[e, ORDER] -= NUM_EDGES
            if graph.links[e, ORDER] < 0:
                graph.links[e, ORDER] += NUM_EDGES
        put_edge(graph, queue, e)
        key = graph.costs[e, COST] - graph.costs[e, PENALTY]
        waiting.add(e) if key >= 0 else waiting.discard(e)


@pytest.mark.parametrize("step", [1.0, -1.0, 0.0])
def test_a_full_heap_is_swept(step):
    graph, queue = path_queue()
    while take_edge(graph, queue) >= 0:
        pass
    for e in range(NUM_EDGES):  # the level is 0 now: all go into the heap
        graph.costs[e, COST] = 200.0 + e
        put_edge(graph, queue, e)
    room = queue.heap_key.size
    for k in range(3 * room):  # each leaves an entry behind, stale or (step 0) the same again
        graph.costs[5, COST] = 500.0 + step * k
        put_edge(graph, queue, 5)
        assert queue.sizes[HEAP_SIZE] <= room
    taken = [take_edge(graph, queue) for _ in range(NUM_EDGES + 1)]
    assert taken == [5, 7, 6, 4, 3, 2, 1, 0, -1]


def test_full_bucket_lists_are_swept():
    graph, queue = path_queue()
    for k in range(3 * len(queue.entries)):
        graph.costs[0, COST] = 0.0 if k % 2 else 0.7
        put_edge(graph, queue, 0)
    assert [take_edge(graph, queue) for _ in range(8)] == [5, 4, 1, 2, 7, 6, 0, -1]


@pytest.mark.parametrize("scale", [1e-310, 1e290])
def test_costs_of_any_magnitude_have_buckets(scale):
    edges = np.array([[0, 1], [1, 2], [2, 3]], dtype=np.int32)
    graph = make_graph(4, edges, np.array([1.0, 3.0, 2.0]) * scale)
    queue = make_queue(graph)
    assert (graph.links[:3, PLACE] < NUM_BUCKETS).all()
    assert [take_edge(graph, queue) for _ in range(4)] == [1, 2, 0, -1]
