"""How the rows of `tools/studies/benchmark_solver.py` are compared, summed up and shown.

A row says what one solver did on one problem (`measure` of solver_cases.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

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
    """Sum up in one row each kind of problem and solver, over its seeds.

    Times and rates are medians over the seeds of what each row has (itself a median over its runs).
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
    """Find with which power of the number of edges time grows, by a least-squares line of logs."""
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
    """Make the texts of a table with a line for each problem and solver."""
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
    """Make the texts of a table with a line for each kind of problem and solver."""
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
    """Make the columns that compare with greedy and, if `beside`, with the other solver."""
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
    """Write a gain, or the least, mean and greatest of some."""
    if value is None:
        return ""
    values = [value] if isinstance(value, float) else value
    return " .. ".join(f"{v:+.4f}" for v in values)


def gap_table(rows: list[Row]) -> list[Row]:
    """Sum up gaps over the seeds, as texts of a table."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["problem"], row["noise"], row["variant"]), []).append(row)
    table = []
    for (problem, noise, variant), group in groups.items():
        line = {
            "problem": problem,
            "noise": noise,
            "variant": variant,
            "edges": f"{group[0]['edges']:,}",
            "proved": f"{sum(row['proved'] for row in group)} of {len(group)}",
            "s": f"{statistics.median(row['seconds'] for row in group):.1f}",
            "relaxation": _mean_and_greatest([row["relaxation_gap_percent"] for row in group]),
        }
        for solver in group[0]["gap_percent"]:
            line[solver] = _mean_and_greatest([row["gap_percent"][solver] for row in group])
        table.append(line | {"feasible": "yes" if all(r["feasible"] for r in group) else "NO"})
    return table


def _mean_and_greatest(values: list[float]) -> str:
    # A gap within the tolerance of HiGHS may come out as -0.0000001.
    return f"{statistics.fmean(values) + 0.0:.3f} ({max(values) + 0.0:.3f})"
