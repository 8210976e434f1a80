"""A second process compiles what the first solve needs last, while the first compiles the rest.

Numba compiles in one thread of a process at a time, and the first solve by "auto" on a machine
needs all kernels. So where a second processor is free, another process begins with those of greedy
contraction, then takes those of forced moves and departures. The first finds them on disk when it
comes to them. What both compile at a time is compiled twice, and no harm is done. Without a second
processor, or where no process can be started, the first compiles all.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cops.solver.parallel import count_processors
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem, survey_problem

FOLDER = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; from cops.solver.second_compiler import main; main(sys.argv[1:])"


def start_second_compiler(problem: Problem) -> None:
    """Start the process for problems with the types of this one, once, if that is of use.

    Args:
        problem: checked.
    """
    if count_processors() >= 2 and sys.executable:
        arrays = (problem.node_costs, problem.edges, problem.edge_costs)
        _start(*(array.dtype.name for array in arrays))


@cache
def _start(*types: str) -> subprocess.Popen[bytes] | None:
    command = [sys.executable, "-c", PROGRAM, str(os.getpid()), *types]
    environment = dict(os.environ)
    if folder := environment.get("NUMBA_CACHE_DIR"):
        environment["NUMBA_CACHE_DIR"] = str(Path(folder).absolute())
    nowhere = subprocess.DEVNULL
    options: Any = {"env": environment, "stdin": nowhere, "stdout": nowhere, "stderr": nowhere}
    try:
        # With -c Python imports from the folder that it runs in. So it finds this package, and
        # nothing of the user's.
        process = subprocess.Popen(command, cwd=FOLDER, **options)
    except OSError:  # then this process compiles all
        return None
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with the process that has started it: nobody shall find it afterwards."""
    process.kill()
    process.wait()


def main(words: list[str]) -> None:
    """Compile, in the order of need from behind, as long as the first process is there.

    Args:
        words: number of the first process; types of node costs, edges and edge costs.
    """
    first = int(words[0])
    node_costs, edges, edge_costs, partitionable = planted_problem(0, 10, 10, 4, noise=3.0)
    arrays = (node_costs.astype(words[1]), edges.astype(words[2]), edge_costs.astype(words[3]))
    problem, survey = survey_problem(*arrays, partitionable)
    # Imported here, as whoever starts the process has yet to import them.
    from cops.solver.greedy.algorithm import contract_greedily

    contract_greedily(problem)
    from cops.solver.multilevel.algorithm import input_graph, number_start
    from cops.solver.multilevel.departures import move_departures
    from cops.solver.multilevel.force import force_moves

    if os.getppid() == first:
        alone = np.arange(len(problem.node_costs), dtype=np.int32)
        graph, _ = input_graph(problem, survey, True)
        clusters, class_of = number_start(graph.best[alone], alone, problem.partitionable)
        force_moves(graph, problem.partitionable, clusters, class_of, 1000)
        if os.getppid() == first:
            move_departures(graph, problem.partitionable, clusters, class_of, 1000)
