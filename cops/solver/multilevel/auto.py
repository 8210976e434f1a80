"""The method "auto": multilevel, with as many cycles and kinds of moves as the problem asks for.

It begins with what "multilevel" finds in one cycle. Rounds follow: forced moves (force.py), first
of nodes, then of whole clusters, and between them departures of parts (departures.py). Another
cycle of refinement comes after those if they gain anything. Rounds end with the first one that
gains next to nothing. The result costs no more than that of "multilevel".

Greedy contraction can still end below, on graphs without structure above all. The two minima differ
in most clusters, and no move of a few nodes leads from one to the other. Where it is cheap, it is
run as well. Rounds follow on its result if that is the better one, or if the graph is small. So
there the result costs no more than greedy contraction's. `_greedy_pays` says where that is.
There a noisy multicut has a third start: greedy contraction of what cycles leave of its costs. That
is the primal-dual step of RAMA (Abbas and Swoboda, CVPR 2022).
Elsewhere fragments of clusters move (fragments.py), unless class costs show where segments end.
Chains of nodes, from every seed, are the last there.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver.dual.ascent import costs_after_cycles
from cops.solver.greedy.algorithm import contract_greedily
from cops.solver.labelling import Result, finish, total_chosen, total_cost, total_cut
from cops.solver.multilevel.algorithm import (
    CHAIN_PATIENCE,
    Draft,
    Labels,
    draft_labelling,
    finish_draft,
    improve,
    number_start,
    solve_again,
    without_infinity,
)
from cops.solver.multilevel.certificate import finish_best
from cops.solver.multilevel.chain import chain_budget, move_chains
from cops.solver.multilevel.cluster_numbers import look_up
from cops.solver.multilevel.components import find_components
from cops.solver.multilevel.departures import move_departures
from cops.solver.multilevel.force import force_moves
from cops.solver.multilevel.fragments import move_fragments
from cops.solver.multilevel.parts import contract_labelled
from cops.solver.multilevel.refine import find_restless
from cops.solver.multilevel.rows import Graph
from cops.solver.parallel import ALONE, Workers
from cops.solver.problem import Problem, Survey
from cops.solver.stencil import EDGES_PER_BLOCK

MAX_ROUNDS = 12
# A round that gains less than this share of what edges and classes cost is the last.
LEAST_GAIN = 1e-4
# Another cycle follows forced moves that have gained more than this share. Where they gain nothing,
# as on clear layouts, it would gain nothing either; on noisy ones of many classes it gains more.
CYCLE_GAIN = 2e-5
# Departures may visit this share of the links that chains may.
DEPARTURE_SHARE = 0.08
# The last chains may visit so many times the links that others may.
# They begin at more nodes: restless ones with a reach (refine.py) of this.
LAST_SHARE = 2.0
LAST_REACH = 2.0
# Where edges pay less than this share of the energy for what does not suit them, fragments rest.
LEAST_DISAGREEMENT = 1e-3
# A start that costs so much more, as a share, stays behind: of graphs without structure.
MOST_BEHIND = 0.015
# Greedy contraction of so many edges takes 10 ms, and of so many 0.1 s.
FEW_EDGES = 1 << 15
MANY_EDGES = 1 << 18
# With so many edges per node it is about as fast as one cycle, however large the graph.
SPARSE = 4


def solve_auto(
    problem: Problem,
    survey: Survey,
    *,
    start: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
    workers: Workers = ALONE,
) -> Result:
    """Solve a checked problem; the arguments are those of `solve_multilevel`."""
    if survey.largest_node_cost == np.inf:
        finite, survey = without_infinity(problem, survey)
        result = solve_auto(finite, survey, start=start, workers=workers)
        cost = total_cost(problem, result.node_classes, result.is_cut, workers)
        return result._replace(energy=cost)
    draft = draft_labelling(problem, survey, start=start, refine=1, workers=workers)
    first = finish_draft(problem, survey, draft, start, workers)
    # Where greedy contraction never pays, fragments do what later rounds would, and more.
    most = MAX_ROUNDS if _greedy_pays(problem, survey, False) else 1
    best, settled = _go_on(problem, survey, draft, first, most, workers)
    if not _greedy_pays(problem, survey, settled):
        if not settled or _edges_disagree(problem, draft, best, workers):
            best = _move_fragments(problem, survey, draft, best, workers)
        best = _finish_by_chains(problem, survey, draft, best, workers)
    elif start is None:
        greedy = finish(problem, *contract_greedily(problem), survey.stencil, workers)
        # A second start is worth its time where that is short.
        if greedy.energy < best.energy or len(problem.edges) <= FEW_EDGES:
            clusters, class_of = number_start(*greedy[:2], problem.partitionable)
            other = draft._replace(clusters=clusters, class_of=class_of)
            again, _ = _go_on(problem, survey, other, greedy, MAX_ROUNDS, workers)
            best = min(best, again, key=attrgetter("energy"))
        if not settled and _is_small_multicut(problem):
            best = _contract_after_cycles(problem, survey, draft, best, workers)
    return best


def _greedy_pays(problem: Problem, survey: Survey, settled: bool) -> bool:
    """Say whether greedy contraction takes little time, beside that of the rounds or in all.

    Its time grows with the edges per node. On long lists of a stencil with many of them (images
    with distant neighbours) it takes many times that of "multilevel".
    """
    num_edges, num_nodes = len(problem.edges), len(problem.node_costs)
    if num_edges <= max(FEW_EDGES, SPARSE * num_nodes) or not len(survey.stencil.offsets):
        return True
    return num_edges <= MANY_EDGES and not settled


def _is_small_multicut(problem: Problem) -> bool:
    return problem.partitionable.tolist() == [True] and len(problem.edges) <= MANY_EDGES


def _contract_after_cycles(
    problem: Problem, survey: Survey, draft: Draft, best: Result, workers: Workers
) -> Result:
    """Begin anew with a multicut's costs after cycles; return `best` if nothing is better."""
    edges, costs = costs_after_cycles(problem, survey, *best[:2])
    left = problem._replace(edges=edges, edge_costs=costs)
    begin = finish(problem, *contract_greedily(left), survey.stencil, workers)
    if begin.energy > best.energy + MOST_BEHIND * abs(best.energy):
        return best
    clusters, class_of = number_start(*begin[:2], problem.partitionable)
    other = draft._replace(clusters=clusters, class_of=class_of)
    found, _ = _go_on(problem, survey, other, begin, MAX_ROUNDS, workers)
    return min(best, found, key=attrgetter("energy"))


def _edges_disagree(problem: Problem, draft: Draft, result: Result, workers: Workers) -> bool:
    """Say whether fragments (fragments.py) may gain more than their time is worth.

    A labelling cannot cost less than if each node paid for its best class, and each edge for what
    suits it. Where what edges pay above that is little, there is little to gain. Where class costs
    pay more than edges, they show where segments end, and other moves have found that.
    """
    costs = problem.edge_costs
    cut = total_cut(costs, result.is_cut, workers)
    repulsive = np.empty(len(costs), np.bool_)
    workers.over(
        len(costs),
        lambda begin, end: np.less(costs[begin:end], 0.0, out=repulsive[begin:end]),
        EDGES_PER_BLOCK,
    )
    of_edges = cut - total_cut(costs, repulsive, workers)
    if of_edges <= LEAST_DISAGREEMENT * abs(result.energy):
        return False
    lowest = total_chosen(problem.node_costs, draft.graph.best, workers)
    return of_edges > result.energy - cut - lowest


def _finish_by_chains(
    problem: Problem, survey: Survey, draft: Draft, best: Result, workers: Workers
) -> Result:
    """Move chains of nodes where all else has come to rest; return `best` if nothing is better.

    First nodes leave for their best class, as a faint thing may still lie within a stuff segment.
    None of its nodes leaves alone, and not all that would rather be a thing ought to. Then chains
    begin with every seed.
    """
    graph, partitionable = draft.graph, problem.partitionable
    clusters, class_of = number_start(*best[:2], partitionable)
    budget = chain_budget(graph)
    links = int(DEPARTURE_SHARE * budget)
    gain = move_departures(graph, partitionable, clusters, class_of, links, workers=workers)
    if gain > 0.0:
        improve(graph, partitionable, clusters, class_of, workers)  # what has left may join others
    waiting = find_restless(graph, clusters, class_of, workers, LAST_REACH)
    options = (CHAIN_PATIENCE, int(LAST_SHARE * budget), True)
    gain += move_chains(
        graph, clusters, class_of, waiting, *options, workers=workers, every_seed=True
    )
    if gain <= 0.0:
        return best
    moved = finish(problem, look_up(class_of, clusters, workers), clusters, survey.stencil, workers)
    return min(best, moved, key=attrgetter("energy"))


def _move_fragments(
    problem: Problem, survey: Survey, draft: Draft, best: Result, workers: Workers
) -> Result:
    """Move fragments of the clusters of a result; return it if nothing is better."""
    clusters, class_of = number_start(*best[:2], problem.partitionable)
    gain = move_fragments(draft.graph, problem.partitionable, clusters, class_of, workers)
    if gain <= 0.0:
        return best
    moved = finish(problem, look_up(class_of, clusters, workers), clusters, survey.stencil, workers)
    return min(best, moved, key=attrgetter("energy"))


def _go_on(
    problem: Problem, survey: Survey, draft: Draft, begin: Result, most: int, workers: Workers
) -> tuple[Result, bool]:
    """Improve a labelling by rounds until one gains next to nothing.

    Args:
        problem: without infinity.
        survey: of it.
        draft: the labelling, changed in place.
        begin: the result that it stands for, which is returned if nothing is better.
        most: rounds.
        workers: threads, which do not change the result.

    Returns:
        The result, and whether the first round has gained next to nothing.
    """
    partitionable, graph = problem.partitionable, draft.graph
    clusters, class_of = draft.clusters, draft.class_of
    mass = abs(begin.energy) * draft.scale
    least = LEAST_GAIN * mass
    total = 0.0
    rounds = 0
    while rounds < most:
        rounds += 1
        forced, departed = _force_all(graph, partitionable, clusters, class_of, workers)
        gain = forced + departed
        if forced > CYCLE_GAIN * mass:
            others, classes, change = solve_again(graph, partitionable, clusters, class_of, workers)
            change -= improve(graph, partitionable, others, classes, workers)
            if change < 0.0:
                clusters[:], class_of[:] = others, classes
                gain -= change
            else:
                gain += improve(graph, partitionable, clusters, class_of, workers)
        total += gain
        if forced <= least or gain <= least:
            break
    settled = rounds == 1 and forced <= least
    if total <= 0.0:
        return begin, settled
    classes = look_up(class_of, clusters, workers)
    result = finish_best(problem, survey.stencil, graph.best, -np.inf, classes, clusters, workers)
    return (result if result.energy < begin.energy else begin), settled


def _force_all(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    workers: Workers,
) -> tuple[float, float]:
    """Force moves of nodes, let parts depart, and force connected clusters.

    Returns:
        What forced moves have gained, and what departures have. The latter say nothing of how much
        another cycle would gain.
    """
    budget = chain_budget(graph)
    forced = force_moves(graph, partitionable, clusters, class_of, 4 * budget, workers)
    # Where no node gains by force, as on clear layouts, parts gain nothing either.
    noisy = forced > 0.0
    parts, num_parts = find_components(graph, clusters, noisy, workers)
    of_parts = (parts, num_parts, clusters, class_of, workers)
    small, coarse, classes = contract_labelled(graph, *of_parts)
    departed = 0.0
    if noisy:
        links = int(DEPARTURE_SHARE * budget)
        departed = move_departures(small, partitionable, coarse, classes, links, workers=workers)
        # What is connected in a cluster is so on the smaller graph as well.
        wholes, num_wholes = find_components(small, coarse, False, workers)
        of_wholes = (wholes, num_wholes, coarse, classes, workers)
        small, coarse, classes = contract_labelled(small, *of_wholes)
        parts = wholes[parts]
    forced += force_moves(small, partitionable, coarse, classes, 4 * budget, workers)
    clusters[:] = look_up(coarse, parts, workers)
    class_of[: len(classes)] = classes
    return float(forced), departed
