#!/usr/bin/env python3
"""Time, energy and memory of `cops.solver` by size, noise, method and number of threads.

    python tools/benchmark_solver.py
    python tools/benchmark_solver.py --sizes 256x512 1024x2048 --noise 3 --methods greedy
    python tools/benchmark_solver.py --variants rounded signs zeroed white --json solver.json
    python tools/benchmark_solver.py --load costs_*.npz

Problems are planted layouts (`cops.solver.planted`), or real costs from files that hold the arrays
node_costs (V, K), edges (E, 2), edge_costs (E,) and partitionable (K,). Compiling, or loading
compiled kernels, comes first and is not counted; checks of the input and the energy are. With t
threads, t copies of a problem are solved side by side (`solve_many`), and the time is that of all
divided by t. Peak memory is what one solve adds to the process, its result included (Linux only).
"gain" compares the energy with that of the first method, + is better.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from cops.solver import METHODS, Result, check_problem, is_feasible, solve_many
from cops.solver.planted import VARIANTS, planted_problem
from cops.solver.problem import Problem

CITYSCAPES = (1, 4, 16, 32, 64, 128)
COCO = (1, 4, 16, 32, 64)


class Size(NamedTuple):
    """A grid, its classes and distances."""

    height: int
    width: int
    num_classes: int
    distances: tuple[int, ...]


SIZES = {
    "16x24": Size(16, 24, 5, (1, 4)),  # a second's trial of the program itself
    "64x128": Size(64, 128, 19, CITYSCAPES),
    "160x160": Size(160, 160, 133, COCO),
    "256x512": Size(256, 512, 19, CITYSCAPES),
    "512x1024": Size(512, 1024, 19, CITYSCAPES),
    "1024x2048": Size(1024, 2048, 19, CITYSCAPES),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="*", choices=SIZES, default=["64x128", "160x160", "256x512"]
    )
    parser.add_argument("--noise", nargs="+", type=float, default=[1.0, 3.0, 6.0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["smooth"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--load", nargs="+", type=Path, default=[], help="files of real costs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeat", type=int, default=5, help="runs; the median counts")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu = processor time of all threads, for a machine that is busy otherwise",
    )
    parser.add_argument("--json", type=Path, help="write all numbers here, too")
    options = parser.parse_args(arguments)
    if options.repeat < 1 or min(options.threads) < 1:
        parser.error("--repeat and --threads must be positive")
    return options


def load_problem(path: Path) -> Problem:
    """The problem in an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        missing = set(Problem._fields) - set(file.files)
        if missing:
            raise ValueError(f"{path} has no array called {', '.join(sorted(missing))}")
        return check_problem(*(file[name] for name in Problem._fields))


def all_problems(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Problem]]:
    """Problems and what describes them, made one at a time: the large ones take some 100 MB."""
    for path in options.load:
        yield (
            {"problem": path.stem, "noise": None, "variant": "file", "seed": None},
            load_problem(path),
        )
    for name in options.sizes if not options.load else []:
        for variant in options.variants:
            for noise in options.noise:
                for seed in options.seeds:
                    problem = planted_problem(seed, *SIZES[name], noise=noise, variant=variant)
                    yield dict(problem=name, noise=noise, variant=variant, seed=seed), problem


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
        call()
        return max(_status_bytes("VmHWM") - before, 0)
    except (OSError, AttributeError):  # not Linux, or not the GNU C library
        call()
        return None


def measure(
    problem: Problem, method: str, num_threads: int, repeat: int, clock: Callable[[], float]
) -> tuple[dict[str, Any], Result]:
    """One row of the table and the solution."""
    copies = [problem._asdict() | {"method": method}] * num_threads
    memory = peak_extra_bytes(lambda: solve_many(copies[:1], 1))
    seconds, results = [], []
    for _ in range(repeat):
        start = clock()
        results = solve_many(copies, num_threads)
        seconds.append((clock() - start) / num_threads)
    result = results[0]
    median = statistics.median(seconds)
    feasible = all(is_feasible(problem.edges, problem.partitionable, *r[:3]) for r in results)
    return {
        "nodes": len(problem.node_costs),
        "classes": problem.node_costs.shape[1],
        "edges": len(problem.edges),
        "method": method,
        "threads": num_threads,
        "seconds": median,
        "seconds_least": min(seconds),
        "seconds_greatest": max(seconds),
        "energy": result.energy,
        "segments": int(result.node_clusters.max()) + 1,
        "feasible": feasible,
        "peak_extra_bytes": memory,
        "edges_per_second": len(problem.edges) / median,
        "nodes_per_second": len(problem.node_costs) / median,
    }, result


def growth_exponents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The power of the number of edges with which time grows, by a least-squares line of logs."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        # One kind of problem at several sizes; another number of classes is another kind.
        key = tuple(row[name] for name in ("method", "threads", "variant", "noise", "classes"))
        groups.setdefault(key, []).append(row)
    found = []
    for (method, threads, variant, noise, classes), group in groups.items():
        if variant == "file" or len({row["edges"] for row in group}) < 2:
            continue
        edges = np.log([row["edges"] for row in group])
        slope = np.polyfit(edges, np.log([row["seconds"] for row in group]), 1)[0]
        found.append(
            dict(
                method=method,
                threads=threads,
                variant=variant,
                noise=noise,
                classes=classes,
                exponent=float(slope),
            )
        )
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows for people."""
    table = [
        {
            "problem": row["problem"],
            "noise": row["noise"],
            "variant": row["variant"],
            "seed": row["seed"],
            "edges": f"{row['edges']:,}",
            "method": row["method"],
            "threads": row["threads"],
            "ms": f"{1e3 * row['seconds']:.1f}",
            "least": f"{1e3 * row['seconds_least']:.1f}",
            "greatest": f"{1e3 * row['seconds_greatest']:.1f}",
            "M edges/s": f"{row['edges_per_second'] / 1e6:.2f}",
            "energy": f"{row['energy']:.1f}",
            "gain %": f"{row['gain_percent']:+.4f}",
            "segments": row["segments"],
            "feasible": "yes" if row["feasible"] else "NO",
            "peak MB": ""
            if row["peak_extra_bytes"] is None
            else f"{row['peak_extra_bytes'] / 1e6:.0f}",
        }
        for row in rows
    ]
    print(tabulate(table, headers="keys", tablefmt="github", disable_numparse=True))


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 if a result was not feasible."""
    options = parse_args(arguments)
    begin = time.perf_counter()
    small = planted_problem(0, *SIZES["16x24"], noise=3.0)
    for method in options.methods:
        solve_many([small._asdict() | {"method": method}], 1)
    compile_seconds = time.perf_counter() - begin
    print(f"compiled or loaded in {compile_seconds:.1f} s; {options.clock} time", file=sys.stderr)

    rows: list[dict[str, Any]] = []
    for description, problem in all_problems(options):
        reference: float | None = None
        for method in options.methods:
            for threads in options.threads:
                row, result = measure(
                    problem, method, threads, options.repeat, CLOCKS[options.clock]
                )
                reference = result.energy if reference is None else reference
                gain = 100.0 * (reference - result.energy) / max(abs(reference), 1e-30)
                rows.append(description | row | {"gain_percent": gain})
                print(
                    f"{description['problem']} noise {description['noise']} {method} x {threads}: "
                    f"{row['seconds']:.3f} s",
                    file=sys.stderr,
                )
    print_table(rows)
    exponents = growth_exponents(rows)
    if exponents:
        print("\nTime grows with this power of the number of edges:\n")
        print(tabulate(exponents, headers="keys", tablefmt="github", floatfmt=".2f"))
    if options.json:
        report = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "clock": options.clock,
            "repeat": options.repeat,
            "compile_seconds": compile_seconds,
            "rows": rows,
            "growth": exponents,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(row["feasible"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
