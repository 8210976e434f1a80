"""The method "auto": multilevel, with as many cycles and kinds of moves as the problem asks for.

It begins with what "multilevel" returns after one cycle. Then rounds follow: chains into new
clusters (gather.py), first of nodes, then of whole clusters, and another cycle of refinement. They
end with the first round that gains next to nothing. The result costs no more than that of
"multilevel".

Shapes: V nodes, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit
from cops.solver.labelling import Result, energy
from cops.solver.multilevel.algorithm import (
    improve,
    input_graph,
    number_start,
    solve_again,
    solve_multilevel,
    without_infinity,
)
from cops.solver.multilevel.certificate import finish_best
from cops.solver.multilevel.chain import chain_budget
from cops.solver.multilevel.gather import gather
from cops.solver.multilevel.graph import contract, find_components
from cops.solver.multilevel.parts import renumber
from cops.solver.problem import Problem, Survey

MAX_ROUNDS = 12
# A round that gains less than this share of what edges and classes cost is the last.
LEAST_GAIN = 1e-6


def solve_auto(
    problem: Problem,
    survey: Survey,
    *,
    start: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
    num_threads: int = 1,
) -> Result:
    """Solve a checked problem; the arguments are those of `solve_multilevel`."""
    if survey.largest_node_cost == np.inf:
        finite, survey = without_infinity(problem, survey)
        result = solve_auto(finite, survey, start=start, num_threads=num_threads)
        cost = energy(*problem[:3], result.node_classes, result.is_cut)
        return result._replace(energy=cost)
    best = solve_multilevel(problem, survey, start=start, num_threads=num_threads)
    graph, scale = input_graph(problem, survey, both=True)
    clusters, class_of = number_start(*best[:2], problem.partitionable)
    least = LEAST_GAIN * abs(best.energy) * scale
    for _ in range(MAX_ROUNDS):
        gain = _gather_all(graph, problem.partitionable, clusters, class_of)
        others, classes, change = solve_again(graph, problem.partitionable, clusters, class_of)
        change -= improve(graph, problem.partitionable, others, classes)
        if change < 0.0:
            clusters[:], class_of[:] = others, classes
            gain -= change
        else:
            gain += improve(graph, problem.partitionable, clusters, class_of)
        if gain <= least:
            break
    result = finish_best(problem, survey.stencil, graph.best, -np.inf, class_of[clusters], clusters)
    return result if result.energy < best.energy else best


@jit
def _gather_all(graph, partitionable, clusters, class_of):
    """Grow chains of nodes and then of the connected parts of clusters; return their gain."""
    budget = 4 * chain_budget(graph)
    gain = gather(graph, partitionable, clusters, class_of, budget)
    num_nodes, num_classes = graph.node_costs.shape
    parts, num_parts = find_components(graph, clusters, False)
    small, _ = contract(graph, parts, num_parts)
    coarse = np.empty(num_parts, np.int32)
    for v in range(num_nodes):
        coarse[parts[v]] = clusters[v]
    coarse, classes = renumber(coarse, class_of, num_classes, num_parts)
    gain += gather(small, partitionable, coarse, classes, budget)
    for v in range(num_nodes):
        clusters[v] = coarse[parts[v]]
    class_of[: classes.size] = classes
    return gain
