"""The end of the multilevel method: the result is compared with two trivial labellings.

They are: each node alone in its best class (those of one class outside P joined), and all nodes in
one cluster. The comparison is made in float64 and with the costs as given. So no rounding on
the way can make the result worse than they are.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cops.solver._jit import index, jit
from cops.solver.labelling import Result, cost_between, finish, total_chosen
from cops.solver.parallel import ALONE, Workers
from cops.solver.problem import Problem
from cops.solver.stencil import Stencil

Labels = npt.NDArray[np.int32]


def finish_best(
    problem: Problem,
    stencil: Stencil,
    best: Labels,
    together: float,
    classes: Labels,
    clusters: Labels,
    workers: Workers = ALONE,
) -> Result:
    """Make the result of a labelling, or of a trivial one if that costs less.

    Args:
        problem: without infinity.
        stencil: of its edges.
        best: (V,) the first class of lowest cost of each node.
        together: a lower bound of the cost of one cluster, where a node pays what its class costs
            more than its best; -inf if not known.
        classes: (V,) of the labelling.
        clusters: (V,) of the labelling.
        workers: threads, which do not change the result.
    """
    result = finish(problem, classes, clusters, stencil, workers)
    lowest = total_chosen(problem.node_costs, best, workers)
    cost = result.energy - lowest
    # Nodes of one class outside P have the same label, all others have one of their own.
    alone = np.empty_like(best)
    _number_alone(best, problem.partitionable, alone)
    cost_alone = cost_between(problem, alone, stencil, workers)
    if cost_alone < cost:
        numbers = np.arange(len(best), dtype=np.int32)
        result = finish(problem, best, numbers, stencil, workers)
        cost = cost_alone
    if together < cost:
        sums = sum(
            workers.over(len(best), lambda *block: _sum_excess(problem.node_costs, best, *block))
        )
        if sums.min() < cost:
            one = np.full_like(best, sums.argmin())
            result = finish(problem, one, np.zeros_like(best), stencil, workers)
    return result


@jit
def _number_alone(best, partitionable, numbers):
    """Give nodes the `numbers` of clusters if each is alone in its best class."""
    for v in range(best.size):
        numbers[v] = partitionable.size + v if partitionable[index(best[v])] else best[v]


@jit
def _sum_excess(node_costs, best, begin, end):
    """(K,) float64: the costs of each class in sum over some nodes, over those of their best."""
    sums = np.zeros(node_costs.shape[1], np.float64)
    for v in range(begin, end):
        low = np.float64(node_costs[v, best[v]])
        for k in range(sums.size):
            sums[k] += node_costs[v, k] - low
    return sums
