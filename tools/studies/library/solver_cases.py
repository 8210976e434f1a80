"""What `tools/studies/benchmark_solver.py` measures and how it sums up: time, memory, energy, feasibility.

Solvers of others can be measured beside ours. Any function will do that takes a problem,

    solve(node_costs, edges, edge_costs, partitionable) -> seconds, node_classes, is_cut[, peak]

with the arrays of `cops.solver.Problem` (V, K), (E, 2), (E,), (K,), and returns the processor time
that it alone took (not the building of its own form of the problem), the class of each node (V,),
whether each edge is cut (E,), and optionally by how many bytes the solution raised the process's
memory at its peak; else that of the whole call is taken.

Both sides are judged by the same rule. The clusters of another solver are the components of the
edges that it does not cut; then all clusters of one class outside P are joined, as Eq. 2 demands
and as ours are, and the energy is that of the joined labelling, counted by our function from the
problem as given. It is called feasible if the joined labelling is, *with the edges that the solver
itself said are cut*: one that leaves an edge between two clusters of a stuff class cut, or cuts an
edge inside a cluster, is not. (Clusters of a stuff class without an edge between them are the same
to Eq. 2 whether joined or not, so solvers that join only neighbours lose nothing.)

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cops.solver import Result, is_feasible, solve_many
from cops.solver.bounds import components
from cops.solver.problem import Problem, finish

Row = dict[str, Any]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BEST_OF = 3  # runs of a solver beside ours; what it is compared with is our best of as many


def solver_name(method: str, refine: int) -> str:
    """What a row calls one of ours."""
    return f"{method} {refine}" if method == "multilevel" else method


def measure(
    problem: Problem,
    method: str,
    refine: int = 1,
    num_threads: int = 1,
    repeat: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Row, Result]:
    """One row of the table, and the solution.

    Args:
        problem: what to solve.
        method, refine: as for `solve_amwc`.
        num_threads: t; as many copies are solved side by side, and the time is divided by t.
        repeat: runs; the median counts.
        clock: returns seconds.
    """
    arguments = problem._asdict() | {"method": method, "refine": refine}
    copies = [arguments] * num_threads
    memory = peak_extra_bytes(lambda: solve_many(copies[:1], 1))
    seconds, results = [], []
    for _ in range(repeat):
        start = clock()
        results = solve_many(copies, num_threads)
        seconds.append((clock() - start) / num_threads)
    feasible = all(is_feasible(problem.edges, problem.partitionable, *r[:3]) for r in results)
    row = {"solver": solver_name(method, refine), "method": method, "threads": num_threads}
    row["refine"] = refine if method == "multilevel" else None
    return row | _figures(problem, seconds, results[0], feasible, memory), results[0]


def measure_beside(
    problem: Problem, name: str, solve: Callable[..., Sequence[Any]], repeat: int = BEST_OF
) -> tuple[Row, Result]:
    """The same of another solver; see the head of this file for what it is to return.

    Raises:
        ValueError: what it returns does not fit the problem.
    """
    seconds: list[float] = []
    answers: list[Sequence[Any]] = []

    def call() -> None:
        answers[:] = [solve(*problem)]
        seconds.append(float(answers[0][0]))

    memory = peak_extra_bytes(call)
    own_memory = [answers[0][3]] if len(answers[0]) > 3 else []
    for _ in range(repeat - 1):
        call()
        own_memory += answers[0][3:4]
    answer = answers[0]
    result, feasible = joined_labelling(problem, name, answer[1], answer[2])
    row = {"solver": name, "method": name, "threads": 1, "refine": None}
    memory = int(max(own_memory)) if own_memory else memory
    return row | _figures(problem, seconds, result, feasible, memory), result


def joined_labelling(
    problem: Problem, name: str, node_classes: Any, is_cut: Any
) -> tuple[Result, bool]:
    """Another solver's labelling after the joining of Eq. 2, and whether it was feasible itself."""
    num_nodes, num_classes = problem.node_costs.shape
    classes, cut = np.asarray(node_classes), np.asarray(is_cut).astype(bool)
    if classes.shape != (num_nodes,) or classes.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must return {num_nodes} integers as classes of the nodes, not "
            f"{classes.dtype} {classes.shape}"
        )
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(f"{name} must return classes 0 .. {num_classes - 1}")
    if cut.shape != (len(problem.edges),):
        raise ValueError(f"{name} must return {len(problem.edges)} flags of edges, not {cut.shape}")
    result = finish(problem, classes, components(problem.edges, cut, num_nodes))
    labels = (result.node_classes, result.node_clusters, cut)
    return result, is_feasible(problem.edges, problem.partitionable, *labels)


def _figures(
    problem: Problem, seconds: list[float], result: Result, feasible: bool, memory: int | None
) -> Row:
    """What a row says of the runs of one solver."""
    median = statistics.median(seconds)
    return {
        "nodes": len(problem.node_costs),
        "classes": problem.node_costs.shape[1],
        "edges": len(problem.edges),
        "seconds": median,
        "seconds_least": min(seconds),
        "seconds_greatest": max(seconds),
        "seconds_best_of_3": min(seconds[:BEST_OF]),
        "energy": result.energy,
        "segments": int(result.node_clusters.max()) + 1,
        "feasible": feasible,
        "peak_extra_bytes": memory,
        # A clock of coarse steps may see nothing of a tiny problem.
        "edges_per_second": len(problem.edges) / max(median, 1e-9),
        "nodes_per_second": len(problem.node_costs) / max(median, 1e-9),
    }


# ---- memory -------------------------------------------------------------------------------------


def _status_bytes(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def peak_extra_bytes(call: Callable[[], Any]) -> int | None:
    """By how much a call raises the process's resident memory at its peak; None if not known."""
    try:
        # What earlier calls gave back to the allocator goes back to the system, or it would be
        # used again without a rise.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status_bytes("VmRSS")
    except (OSError, AttributeError):  # not Linux, or not the GNU C library
        call()
        return None
    call()
    return max(_status_bytes("VmHWM") - before, 0)


# ---- comparing and summing up -------------------------------------------------------------------


def compare(rows: Sequence[Row], beside: str | None = None) -> None:
    """Add to the rows of one problem how they compare with greedy and with the solver beside.

    "times_greedy": greedy's median time, at the same number of threads, over the row's.
    "times_beside": the other solver's best of three over ours. Energies: gains in percent, positive
    where the row's is lower. None where there is nothing to compare with.
    """
    greedy = {row["threads"]: row for row in rows if row["solver"] == "greedy"}
    other = next((row for row in rows if beside is not None and row["solver"] == beside), None)
    for row in rows:
        base = greedy.get(row["threads"])
        row["times_greedy"] = None if base is None else _ratio(base["seconds"], row["seconds"])
        row["gain_percent"] = None if base is None else _gain(base, row)
        row["times_beside"] = (
            None if other is None else _ratio(other["seconds_best_of_3"], row["seconds_best_of_3"])
        )
        row["gain_percent_beside"] = None if other is None else _gain(other, row)


def _ratio(other: float, own: float) -> float:
    return other / max(own, 1e-9)


def _gain(other: Row, own: Row) -> float:
    return float(
        100.0 * (other["energy"] - own["energy"]) / max(abs(float(other["energy"])), 1e-30)
    )


def summarise(rows: Iterable[Row]) -> list[Row]:
    """One row for each kind of problem and solver, over its seeds.

    Times and rates are medians over the seeds of what each row has (itself a median over its runs),
    "seconds_range" is the range over the seeds. "gain" and "gain_beside" are the triples of least,
    mean and greatest, or None; "peak_extra_bytes" is the greatest, and "feasible" means all.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("problem", "noise", "variant", "solver", "threads"))
        groups.setdefault(key, []).append(row)
    found = []
    for group in groups.values():
        first = group[0]
        summary = {
            name: first[name]
            for name in ("problem", "noise", "variant", "solver", "threads", "nodes", "edges")
        }
        summary["seeds"] = len(group)
        for name in (
            "seconds",
            "seconds_best_of_3",
            "times_greedy",
            "times_beside",
            "nodes_per_second",
            "edges_per_second",
        ):
            values = [row[name] for row in group if row[name] is not None]
            summary[name] = statistics.median(values) if values else None
        seconds = [row["seconds"] for row in group]
        summary["seconds_range"] = [min(seconds), max(seconds)]
        for name, column in (("gain", "gain_percent"), ("gain_beside", "gain_percent_beside")):
            gains = [row[column] for row in group if row[column] is not None]
            summary[name] = [min(gains), statistics.fmean(gains), max(gains)] if gains else None
        peaks = [r["peak_extra_bytes"] for r in group if r["peak_extra_bytes"] is not None]
        summary["peak_extra_bytes"] = max(peaks) if peaks else None
        summary["feasible"] = all(row["feasible"] for row in group)
        found.append(summary)
    return found


def growth_exponents(rows: Iterable[Row]) -> list[Row]:
    """The power of the number of edges with which time grows, by a least-squares line of logs."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        # One kind of problem at several sizes; another number of classes is another kind.
        key = tuple(row[name] for name in ("solver", "threads", "variant", "noise", "classes"))
        groups.setdefault(key, []).append(row)
    found = []
    for (solver, threads, variant, noise, classes), group in groups.items():
        if variant == "file" or len({row["edges"] for row in group}) < 2:
            continue
        edges = np.log([row["edges"] for row in group])
        slope = np.polyfit(edges, np.log([max(row["seconds"], 1e-9) for row in group]), 1)[0]
        found.append(
            dict(
                solver=solver,
                threads=threads,
                variant=variant,
                noise=noise,
                classes=classes,
                exponent=round(float(slope), 3),
            )
        )
    return found


# ---- tables for people --------------------------------------------------------------------------


def table_of_rows(rows: Sequence[Row]) -> list[Row]:
    """Texts for a table with a line for each problem and solver."""
    beside = any(row["times_beside"] is not None for row in rows)
    table = []
    for row in rows:
        line = {name: row[name] for name in ("problem", "noise", "variant", "seed")}
        line |= {
            "edges": f"{row['edges']:,}",
            "solver": row["solver"],
            "threads": row["threads"],
            "ms": f"{1e3 * row['seconds']:.1f}",
            "least": f"{1e3 * row['seconds_least']:.1f}",
            "greatest": f"{1e3 * row['seconds_greatest']:.1f}",
            "energy": f"{row['energy']:.1f}",
        }
        table.append(line | _comparison(row, beside, "gain_percent", "gain_percent_beside"))
        table[-1] |= {"segments": row["segments"]} | _memory_and_feasibility(row)
    return table


def table_of_summary(summary: Sequence[Row]) -> list[Row]:
    """Texts for a table with a line for each kind of problem and solver."""
    beside = any(row["times_beside"] is not None for row in summary)
    table = []
    for row in summary:
        low, high = row["seconds_range"]
        line = {name: row[name] for name in ("problem", "noise", "variant", "solver", "threads")}
        line |= {
            "ms": f"{1e3 * row['seconds']:.1f}",
            "over seeds": f"{1e3 * low:.1f} .. {1e3 * high:.1f}",
        }
        table.append(line | _comparison(row, beside, "gain", "gain_beside"))
        table[-1] |= {
            "M nodes/s": f"{row['nodes_per_second'] / 1e6:.2f}",
            "M edges/s": f"{row['edges_per_second'] / 1e6:.2f}",
        }
        table[-1] |= _memory_and_feasibility(row)
    return table


def _comparison(row: Row, beside: bool, gain: str, gain_beside: str) -> Row:
    """The columns that compare with greedy and, if `beside`, with the other solver."""
    columns = {"x greedy": _factor(row["times_greedy"]), "gain %": _signed(row[gain])}
    if beside:
        columns |= {
            "x other": _factor(row["times_beside"]),
            "gain % on it": _signed(row[gain_beside]),
        }
    return columns


def _memory_and_feasibility(row: Row) -> Row:
    peak = row["peak_extra_bytes"]
    return {
        "peak MB": "" if peak is None else f"{peak / 1e6:.0f}",
        "feasible": "yes" if row["feasible"] else "NO",
    }


def _factor(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _signed(value: float | Sequence[float] | None) -> str:
    """A gain, or the least, mean and greatest of some."""
    if value is None:
        return ""
    values = [value] if isinstance(value, float) else value
    return " .. ".join(f"{v:+.4f}" for v in values)
