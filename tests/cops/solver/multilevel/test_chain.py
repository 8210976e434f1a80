"""Chains: seeds that an earlier chain has come to, and the last chains of "auto"."""

from __future__ import annotations

import numpy as np

from cops.solver import energy, is_feasible
from cops.solver.labelling import Result
from cops.solver.multilevel import auto
from cops.solver.multilevel.algorithm import Draft, input_graph, number_start
from cops.solver.multilevel.build import make_graph, reduce_node_costs
from cops.solver.multilevel.chain import move_chains
from cops.solver.multilevel.rows import Graph
from cops.solver.parallel import ALONE, Workers
from cops.solver.planted import grid_edges
from cops.solver.problem import Problem, survey_problem

MANY = 10**6
A, X, Y = 2, 3, 4


def shadowed_seed() -> tuple[Graph, np.ndarray, np.ndarray]:
    """Nodes 0 and 1 are cluster 2, the others cluster 3; X and Y ought to move over.

    A may follow cheapest: it loses 4.5 + 0.5 - 4 = 1. X loses 3 + 0.5 + 2 - 3 = 2.5 alone, and
    1 less after A. Y has no edge to the target; once X is there, it gains 3 + 2 = 5.
    """
    edges = [(0, 1, 50.0), (5, 6, 50.0), (0, A, 4.0), (A, 5, 4.5), (A, X, 0.5)]
    edges += [(1, X, 3.0), (X, 5, 3.0), (X, Y, 2.0), (Y, 6, -3.0)]
    ends = np.array([edge[:2] for edge in edges], np.int32)
    costs = np.array([edge[2] for edge in edges])
    nodes = reduce_node_costs(np.tile([90.0, 0.0], (7, 1)), 1.0)
    graph = make_graph(ends, costs, 1.0, *nodes, True)
    return graph, np.array([2] * 2 + [3] * 5, np.int32), np.array([0, 1] + [1] * 7, np.int32)


def test_a_seed_is_not_lost_by_a_chain_that_came_to_it_too_late() -> None:
    """The chain from A takes X, has gained nothing after two moves, and moves both back."""
    everybody = np.ones(7, np.bool_)
    for every_seed, gain, moved in ((False, 0.0, [3, 3]), (True, 2.5, [2, 2])):
        graph, clusters, class_of = shadowed_seed()
        found = move_chains(
            graph, clusters, class_of, everybody, 2, MANY, True, share=0.4, every_seed=every_seed
        )
        assert found == gain
        assert clusters[[X, Y]].tolist() == moved
        assert clusters[A] == 3


def faint_thing() -> Problem:
    """A row of 40 nodes, of which 17 .. 22 ought to be a thing, and no others.

    These would each save 2 as class 1, and eight more on either side 0.01. Neighbours hold together
    by 1.5, and by 4 where the eight end; nodes at distance 7 do by 0.6. Alone a node pays at least
    3 + 1.2 - 2 = 2.2. All 22 pay 8 + 14 * 0.6 - 12.16 = 4.24. The six gain 12 - 3 - 12 * 0.6 = 1.8.
    """
    edges = grid_edges(1, 40, (1, 7))
    near = edges[:, 1] - edges[:, 0] == 1
    costs = np.where(near, 1.5, 0.6)
    costs[near & np.isin(edges[:, 0], (8, 30))] = 4.0
    nodes = np.zeros((40, 2))
    nodes[:, 1] = 5.0
    nodes[9:31, 1] = -0.01
    nodes[17:23, 1] = -2.0
    return Problem(nodes, edges, costs, np.array([False, True]))


def test_a_faint_thing_leaves_where_all_else_has_come_to_rest() -> None:
    problem, survey = survey_problem(*faint_thing())
    graph, scale = input_graph(problem, survey, True)
    nobody = np.zeros(40, np.int32)
    draft = Draft(graph, scale, *number_start(nobody, nobody, problem.partitionable), -np.inf)
    uncut = np.zeros(len(problem.edges), np.bool_)
    rest = Result(nobody, nobody, uncut, energy(*problem[:3], nobody, uncut))
    found = auto._finish_by_chains(problem, survey, draft, rest, ALONE)
    assert np.flatnonzero(found.node_classes).tolist() == list(range(17, 23))
    assert abs(found.energy - (rest.energy - 1.8)) < 1e-6
    assert is_feasible(problem.edges, problem.partitionable, *found[:3])
    # There is nothing more to gain.
    assert auto._finish_by_chains(problem, survey, draft, found, ALONE) is found
    with Workers(2) as workers:
        again = auto._finish_by_chains(problem, survey, draft, rest, workers)
    assert np.array_equal(again.node_clusters, found.node_clusters)
