"""The methods by name: what all that takes a `method` goes through.

Shapes: V nodes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cops.solver._jit import announce_compiling
from cops.solver.arguments import whole_number
from cops.solver.greedy.algorithm import contract_greedily
from cops.solver.greedy.contraction import rebuild_table
from cops.solver.labelling import Result, finish
from cops.solver.parallel import ALONE, Workers
from cops.solver.problem import Problem, Survey
from cops.solver.second_compiler import start_second_compiler

METHODS = ("greedy", "multilevel", "auto")


def check_options(method: str, start: object, refine: int) -> None:
    """Refuse an unknown method, a start for one that takes none, and what is no number of cycles.

    Raises:
        ValueError, TypeError: so it is.
    """
    whole_number("refine", refine, 0)
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if method == "greedy" and start is not None:
        raise ValueError("the greedy method has no start; use method='auto' or 'multilevel'")


def solve_checked(
    problem: Problem,
    survey: Survey,
    method: str,
    *,
    start: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None = None,
    refine: int = 1,
    workers: Workers = ALONE,
) -> Result:
    """Solve a checked problem by a checked method.

    Args:
        problem: of `survey_problem`.
        survey: of the same.
        method: one of METHODS.
        start: a feasible labelling, (V,) classes and (V,) clusters, for "multilevel" only.
        refine: of "multilevel" only.
        workers: threads, of "auto" and "multilevel" only.
    """
    if method == "greedy":
        announce_compiling(rebuild_table)
        return finish(problem, *contract_greedily(problem), survey.stencil, workers)
    # Imported on first use: the module compiles (or loads) a good many kernels.
    from cops.solver.multilevel.algorithm import solve_multilevel
    from cops.solver.multilevel.parts import renumber

    cold = announce_compiling(renumber)
    if method == "auto":
        from cops.solver.multilevel.auto import solve_auto

        if cold:
            start_second_compiler(problem)

        return solve_auto(problem, survey, start=start, workers=workers)
    return solve_multilevel(problem, survey, start=start, refine=refine, workers=workers)
