"""Multilevel local moving for AMWC and MWC: many times faster than greedy contraction, and as good.

Greedy contraction (`cops.solver.greedy`) makes the best of all contractions, then the next. That is
a long sequence of small steps, each with random memory accesses. Here all nodes decide in one pass
over the graph, and what was decided badly is mended later:

1.  `first_sweep`: in the order of the nodes, each joins the neighbouring cluster with which it is
    most similar in sum, or founds one.
2.  The clusters become the nodes of a smaller graph, on which nodes move from cluster to cluster
    until none gains. This is repeated until no cluster joins another (3 to 5 levels).
3.  Now the stuff rule: each cluster takes its best class, and those of one class outside P become
    one cluster. From the smallest graph up to that of step 2, nodes move under this rule.
4.  `refine` cycles. In the first, single nodes of the input move, then parts of clusters as wholes.
    Between them clusters are split, and chains of nodes move that gain only together.
    Each later one does steps 2 and 3 again, for those parts, then moves as the first. It is kept if
    that has lowered the cost; if not, the first cycle's moves go on. Without a move, it ends.
5.  The result is compared with two trivial ones. They are each node alone in its best class (those
    of one class outside P joined), and all nodes in one cluster. The best is returned.

A pass costs O(E + V K), and the number of passes is bounded. The first cycle of step 4 decides the
quality. A second and third one are worth their time on problems with much noise or many classes.

Everything is deterministic. Large graphs are swept in step 1 as several ranges of nodes that do not
see each other. How many depends on V only. All else that threads share is cut into blocks. They
read what the others do not change, so it comes out as it would on one thread. Graphs, sums of
clusters, seeds and the certificate are made so. The number of threads does not change the result.

Shapes: V nodes, K classes, E edges, M clusters.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit_pass
from cops.solver.labelling import Result, total_cost
from cops.solver.multilevel.build import (
    find_scale,
    make_graph,
    make_stencil_graph,
    reduce_node_costs,
)
from cops.solver.multilevel.certificate import finish_best
from cops.solver.multilevel.chain import chain_budget, move_chains
from cops.solver.multilevel.cluster_numbers import look_up
from cops.solver.multilevel.components import find_components
from cops.solver.multilevel.graph import contract
from cops.solver.multilevel.parts import move_parts
from cops.solver.multilevel.refine import find_restless, labelling_cost, move_constrained
from cops.solver.multilevel.rows import Graph
from cops.solver.multilevel.split import split_clusters
from cops.solver.multilevel.sweep import first_sweep, move_freely
from cops.solver.parallel import ALONE, Workers
from cops.solver.problem import Problem, Survey

# Bounds on passes, reached on hard problems only; all passes but the first visit few nodes.
FREE_PASSES = 4
CONSTRAINED_PASSES = 10
PART_ROUNDS = 4
# A chain of single nodes ends when so many have brought nothing better.
CHAIN_PATIENCE = 32
# Splitting may visit one in so many of the links that chains may.
SPLIT_PART = 2
# Step 1 takes ranges of about this many nodes. With fewer, their seams would show.
NODES_PER_RANGE = 1 << 16
MAX_RANGES = 16

Labels = npt.NDArray[np.int32]


def solve_multilevel(
    problem: Problem,
    survey: Survey,
    *,
    start: tuple[Labels, Labels] | None = None,
    refine: int = 1,
    workers: Workers = ALONE,
) -> Result:
    """Solve a problem that `cops.solver.problem.survey_problem` has checked.

    Args:
        problem: AMWC; or MWC, which is AMWC with P empty.
        survey: what the check has seen.
        start: a feasible labelling, (V,) int32 classes and (V,) int32 clusters below V (outside P
            any number: there the class is the cluster). If given, step 4 begins with it, and
            steps 1 to 3 are left out. The result is at least as good as the start.
        refine: cycles of refinement; 0 = as fast as possible, 1 = usual, 2 or 3 = still better on
            problems with much noise.
        workers: threads for this one problem; the result does not depend on them. Many problems
            at once are better solved on a thread each (`solve_many`).

    Raises:
        ValueError: `refine` is negative.
    """
    if refine < 0:
        raise ValueError(f"refine must be 0 or more cycles, not {refine}")
    if survey.largest_node_cost == np.inf:
        finite, survey = without_infinity(problem, survey)
        result = solve_multilevel(finite, survey, start=start, refine=refine, workers=workers)
        cost = total_cost(problem, result.node_classes, result.is_cut, workers)
        return result._replace(energy=cost)
    draft = draft_labelling(problem, survey, start=start, refine=refine, workers=workers)
    return finish_draft(problem, survey, draft, start, workers)


class Draft(NamedTuple):
    """A labelling before the certificate.

    Attributes:
        graph: of the input.
        scale: what its costs were multiplied by.
        clusters: (V,) int32, numbered as in refine.py.
        class_of: (K + V,) int32.
        together: a lower bound of what all nodes in one cluster cost; -inf if not known.
    """

    graph: Graph
    scale: float
    clusters: Labels
    class_of: Labels
    together: float


def draft_labelling(
    problem: Problem,
    survey: Survey,
    *,
    start: tuple[Labels, Labels] | None,
    refine: int,
    workers: Workers,
) -> Draft:
    """Do steps 1 to 4 for a problem without infinity; the arguments are `solve_multilevel`'s."""
    partitionable = problem.partitionable
    graph, scale = input_graph(problem, survey, refine > 0, workers)
    # What "all nodes in one cluster" costs at least; unknown until some graph says so.
    together = -np.inf
    if start is None:
        parts, count = _sweep_ranges(graph, workers)
        clusters, class_of, small, taken = _solve_parts(graph, partitionable, parts, count, workers)
        # The sums are of non-negative costs in float32, whose rounding is below 1e-6 of them.
        sums = small.node_costs.sum(axis=0, dtype=np.float64)
        together = (1.0 - 1e-6) * (taken + sums.min()) / scale
    else:
        clusters, class_of = number_start(*start, partitionable)
    _refine(graph, partitionable, clusters, class_of, refine, workers)
    return Draft(graph, scale, clusters, class_of, together)


def finish_draft(
    problem: Problem,
    survey: Survey,
    draft: Draft,
    start: tuple[Labels, Labels] | None,
    workers: Workers,
) -> Result:
    """Do step 5; the result is at least as good as the start, where there is one."""
    stencil, best = survey.stencil, draft.graph.best
    classes = look_up(draft.class_of, draft.clusters, workers)
    result = finish_best(problem, stencil, best, draft.together, classes, draft.clusters, workers)
    if start is not None:
        # Moves are chosen in float32. The one who gave the start shall not lose by rounding.
        first = (start[0].copy(), start[1].copy())
        given = finish_best(problem, stencil, best, -np.inf, *first, workers)
        if given.energy < result.energy:
            return given
    return result


def number_start(
    classes: Labels, clusters: Labels, partitionable: npt.NDArray[np.bool_]
) -> tuple[Labels, Labels]:
    """Bring a feasible labelling into the numbers of refine.py: clusters (V,), class_of (K+V,)."""
    class_of = np.zeros(len(partitionable) + len(classes), np.int32)
    numbers = np.empty(len(classes), np.int32)
    _write_start(classes, clusters, partitionable, numbers, class_of)
    return numbers, class_of


@jit_pass
def _write_start(classes, clusters, partitionable, numbers, class_of):
    """Do `number_start`."""
    for k in range(partitionable.size):
        class_of[k] = k
    for v in range(classes.size):
        k = classes[v]
        # Outside P, the number of each class is that of its cluster, too.
        number = partitionable.size + clusters[v] if partitionable[k] else k
        class_of[number] = k
        numbers[v] = number
    return 0


def without_infinity(problem: Problem, survey: Survey) -> tuple[Problem, Survey]:
    """Replace "never" by a finite cost above all that a solution could save.

    Greedy contraction reads +inf as it is. Local moves subtract costs, and inf - inf is NaN.
    """
    never = np.isposinf(problem.node_costs)
    finite = np.where(never, 0.0, problem.node_costs.astype(np.float64))
    spread = (finite.max(axis=1) - finite.min(axis=1)).sum()
    barrier = finite.max() + 2.0 * (spread + np.abs(problem.edge_costs).sum(dtype=np.float64))
    barrier = barrier if barrier > 0.0 else 1.0  # not more: tiny costs must not vanish beside it
    finite[never] = barrier
    largest = float(np.abs(finite).max())
    return problem._replace(node_costs=finite), survey._replace(largest_node_cost=largest)


def input_graph(
    problem: Problem, survey: Survey, both: bool, workers: Workers = ALONE
) -> tuple[Graph, float]:
    """Make the graph of the input and find its scale; it has forward rows only if `both`."""
    scale = find_scale(max(survey.largest_node_cost, survey.largest_edge_cost))
    reduced = reduce_node_costs(problem.node_costs, scale, workers)
    costs, stencil = problem.edge_costs, survey.stencil
    if len(stencil.offsets):
        return make_stencil_graph(stencil, costs, scale, *reduced, workers), scale
    return make_graph(problem.edges, costs, scale, *reduced, both, workers), scale


def _sweep_ranges(graph: Graph, workers: Workers) -> tuple[Labels, int]:
    """Do step 1, range by range; return clusters (V,) 0 .. M-1, and M."""
    clusters = np.empty(len(graph.node_costs), np.int32)
    num_ranges = min(max(len(clusters) // NODES_PER_RANGE, 1), MAX_RANGES)
    bounds = [len(clusters) * r // num_ranges for r in range(num_ranges + 1)]
    pairs = list(zip(bounds[:-1], bounds[1:], strict=True))
    counts = workers.run(
        [partial(first_sweep, graph, begin, end, clusters) for begin, end in pairs]
    )
    total = 0
    for (begin, end), count in zip(pairs, counts, strict=True):
        clusters[begin:end] += total
        total += count
    return clusters, total


def _solve_parts(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    parts: Labels,
    num_parts: int,
    workers: Workers,
) -> tuple[Labels, Labels, Graph, float]:
    """Do steps 2 and 3: from small clusters of the input to a feasible labelling of it.

    Args:
        graph: backward rows suffice.
        partitionable: (K,) bool.
        parts: (V,) int32, 0 .. M-1: nodes that shall have one cluster.
        num_parts: M.
        workers: threads, which do not change the result.

    Returns:
        clusters (V,) int32 and class_of (K + V,) int32 of the labelling (refine.py), the
        contracted graph and the sum of what its node costs were reduced by.
    """
    num_nodes, num_classes = graph.node_costs.shape
    small, taken = contract(graph, parts, num_parts, workers)
    levels = [small]
    # Invariant: parents[i] leads from the nodes of the level above levels[i] to those of levels[i].
    parents = [parts]
    while True:
        joined, count = move_freely(levels[-1], FREE_PASSES)
        if count == len(joined):
            break
        levels.append(contract(levels[-1], joined, count, workers)[0])
        parents.append(joined)

    best = levels[-1].best
    numbers = num_classes + np.arange(len(best), dtype=np.int32)
    class_of = np.zeros(num_classes + num_nodes, np.int32)
    class_of[:num_classes] = np.arange(num_classes)
    class_of[numbers] = best
    clusters = np.where(partitionable[best], numbers, best)
    for level, parent in zip(reversed(levels), reversed(parents), strict=True):
        move_constrained(level, partitionable, clusters, class_of, CONSTRAINED_PASSES)
        clusters = look_up(clusters, parent, workers)
    return clusters, class_of, small, taken


def solve_again(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    workers: Workers = ALONE,
) -> tuple[Labels, Labels, float]:
    """Do steps 2 and 3 for the parts into which a labelling falls.

    Returns:
        Another labelling (clusters, class_of), and by how much it costs more (or less, if < 0).
    """
    parts, num_parts = find_components(graph, clusters, True, workers)
    new_clusters, new_class_of, small, _ = _solve_parts(
        graph, partitionable, parts, num_parts, workers
    )
    # Both labellings give one cluster to each part, so their costs are compared on the small graph.
    old, new = np.empty((2, num_parts), np.int32)
    old[parts] = clusters
    new[parts] = new_clusters
    change = labelling_cost(small, new, new_class_of) - labelling_cost(small, old, class_of)
    return new_clusters, new_class_of, change


def _refine(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    refine: int,
    workers: Workers,
) -> None:
    """Do step 4; the labelling is changed in place."""
    for cycle in range(refine):
        if cycle > 0:
            others, classes, change = solve_again(graph, partitionable, clusters, class_of, workers)
            change -= improve(graph, partitionable, others, classes, workers)
            if change < 0.0:
                clusters[:], class_of[:] = others, classes
                continue
        if improve(graph, partitionable, clusters, class_of, workers) == 0.0:
            break


def improve(
    graph: Graph,
    partitionable: npt.NDArray[np.bool_],
    clusters: Labels,
    class_of: Labels,
    workers: Workers = ALONE,
) -> float:
    """Make every kind of move once on a graph, in place, and return by how much the cost fell.

    Args:
        graph: of one level.
        partitionable: (K,) the classes in P.
        clusters: (V,) int32; changed.
        class_of: (K + V,) int32; changed.
        workers: threads, which do not change the result.
    """
    move = partial(
        move_constrained, graph, partitionable, clusters, class_of, CONSTRAINED_PASSES, workers
    )
    gain = move()
    budget = chain_budget(graph)
    if partitionable.any():
        gain += split_clusters(graph, clusters, class_of, budget // SPLIT_PART, workers)
    waiting = find_restless(graph, clusters, class_of, workers)
    chained = move_chains(graph, clusters, class_of, waiting, CHAIN_PATIENCE, budget, True, workers)
    if chained > 0.0:
        gain += chained + move()
    gain += move_parts(graph, partitionable, clusters, class_of, PART_ROUNDS, workers)
    return float(gain)
