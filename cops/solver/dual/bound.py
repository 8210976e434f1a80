"""A lower bound of AMWC, MWC and multicut at any size, by dual ascent.

Three steps, each of which can only raise the bound:

1. The trivial bound: each node takes its cheapest class, each negative edge is cut.
2. Cycles (cycles.py) are packed, around what a good labelling pays.
3. Messages (messages.py) move class costs between nodes, `budget` times forth and back. With one
   class there are none; each pass then looks for longer cycles.

After each pass evaluation.py says in float64 what has been proved, and the best of it counts. So
the bound does not fall with the budget. It is a bound whatever was rounded on the way: what float64
may have rounded itself is taken off.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver.arguments import whole_number
from cops.solver.dual.ascent import Ascent, Certificate, DualBound, gap_percent
from cops.solver.labelling import Result, pair_of_labels
from cops.solver.methods import solve_checked
from cops.solver.multilevel.algorithm import without_infinity
from cops.solver.multilevel.build import find_scale
from cops.solver.parallel import call_beside
from cops.solver.problem import Problem, check_labels, survey_problem

__all__ = ["Certificate", "DualBound", "dual_bound", "gap_percent"]

Array = npt.NDArray[Any]


def dual_bound(
    problem: Problem | tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None],
    budget: int = 20,
    *,
    labels: tuple[npt.ArrayLike, npt.ArrayLike] | Result | None = None,
    progress: Callable[[int, float], None] | None = None,
    certify: bool = False,
) -> DualBound:
    """Bound the least cost of a problem from below.

    Memory: 4 E K bytes for messages, 16 V K and some 60 E besides.

    Args:
        problem: node_costs, edges, edge_costs, partitionable, as for `check_problem`. A multicut
            has node costs of zero for one class, which is in P.
        budget: passes; 0 gives the trivial bound. A larger one never gives a lower bound.
        labels: a good solution, near which cycles are looked for: a result, or its (V,) classes
            and (V,) clusters; by default one of "multilevel". Any labels give a valid bound.
        progress: called after each pass with the passes and the bound so far.
        certify: keep what proves the bound; takes 4 E K bytes more.

    Raises:
        ValueError, TypeError: as for `check_problem`; or another argument is malformed.
    """
    budget = whole_number("budget", budget, 0)
    if not isinstance(problem, (tuple, list)) or len(problem) not in (3, 4):
        raise TypeError(
            "problem must be a tuple of node_costs, edges, edge_costs and partitionable"
        )

    def ascend() -> DualBound:
        checked, survey = survey_problem(*problem)
        if survey.largest_node_cost == np.inf:
            checked, survey = without_infinity(checked, survey)
        if labels is None:
            guide: tuple[Array, Array] = solve_checked(checked, survey, "multilevel")[:2]
        else:
            size = len(checked.node_costs)
            classes, clusters = pair_of_labels("labels", labels)
            guide = (
                check_labels("labels[0]", classes, size),
                check_labels("labels[1]", clusters, size),
            )
        scale = find_scale(max(survey.largest_node_cost, survey.largest_edge_cost))
        return Ascent(checked, scale, *guide).run(budget, progress, certify)

    return call_beside(ascend)
