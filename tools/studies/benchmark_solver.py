#!/usr/bin/env python3
"""Time, energy and memory of `cops.solver` by size, noise, method and number of threads.

    python tools/studies/benchmark_solver.py
    python tools/studies/benchmark_solver.py --sizes 256x512 1024x2048 --noise 3 --refine 0 1 2 3
    python tools/studies/benchmark_solver.py --variants rounded signs zeroed --json solver.json
    python tools/studies/benchmark_solver.py --seeds 0 1 2 3 4 --clock cpu --beside my_adapter
    python tools/studies/benchmark_solver.py --gap --noise 1 3 6 --seeds 0 1 2 3 4
    python tools/studies/benchmark_solver.py --dump costs --config-file CONFIG --weights FILE
    python tools/studies/benchmark_solver.py --load costs/*.npz

Problems are planted layouts (`cops.solver.planted`), or real costs from files that hold the arrays
node_costs (V, K), edges (E, 2), edge_costs (E,) and partitionable (K,). `--dump FOLDER` writes such
files: a trained COPS network (`--config-file`, `--weights`, KEY VALUE ...) predicts on the first
images of its test set, and what its inference hands to the solver is saved, one file per image.

Compiling, or loading compiled kernels, comes first and is not counted; checks of the input and the
energy are. With t threads, t copies of a problem are solved side by side (`solve_many`), and the
time is that of all divided by t. With `--share` the t threads share one solve. Peak memory is what
one solve adds to the process, its result included (Linux only). The first table has a row for each
problem and solver, the second sums up over the seeds. "x greedy" is greedy's median time over the
row's, at the same number of threads; "gain" compares energies, in percent of greedy's: + is better.

`--beside MODULE` measures another solver in the same run: MODULE.py in the current folder, or a
Python module that can be imported, with a function

    solve(node_costs, edges, edge_costs, partitionable) -> seconds, node_classes, is_cut[, peak]

that returns the processor time its solver alone took, labels, and optionally the bytes of memory it
alone added. Use `--clock cpu` with it. Its labels are judged as ours are;
`tools/studies/library/solver_cases.py` has the rule about clusters of a class that may have one
only. It runs three times on one thread (whatever it compiles, it should compile when imported);
"x other" is its best over our best of three.

`--gap` compares with the optimum, or a lower bound, of small problems (`cops.solver.bounds`).
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from typing import Any

from tabulate import tabulate

from cops.solver import METHODS, is_feasible, solve_amwc, solve_many
from cops.solver.bounds import find_bound
from cops.solver.planted import VARIANTS, planted_problem
from cops.solver.problem import Problem
from panoptic_common.files import write_json
from panoptic_tools.arguments import input_file, make_parser, output_file, output_folder, refuse
from panoptic_tools.outputs import refuse_own_inputs
from panoptic_tools.studies.library.measure import CLOCKS
from panoptic_tools.studies.library.solver_cases import (
    load_beside,
    measure,
    measure_beside,
    solver_name,
)
from panoptic_tools.studies.library.solver_problems import (
    GAP_SIZES_BY_DEFAULT,
    SIZES,
    SIZES_BY_DEFAULT,
    all_problems,
    dump_network,
)
from panoptic_tools.studies.library.solver_tables import (
    Row,
    compare,
    gap_table,
    growth_exponents,
    summarise,
    table_of_rows,
    table_of_summary,
)
from panoptic_tools.value_types import finite


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--sizes", nargs="*", choices=SIZES, help="default: 64x128 160x160 256x512; small for gaps")
    add("--noise", nargs="+", type=finite, default=[1.0, 3.0, 6.0])
    add("--variants", nargs="+", choices=VARIANTS, default=["smooth"])
    add("--seeds", nargs="+", type=int, default=[0])
    add("--load", nargs="+", type=input_file, default=[], help="files of real costs")
    add("--methods", nargs="+", choices=METHODS, default=["greedy", "multilevel"])
    add("--refine", nargs="+", type=int, help="cycles of multilevel, a row each (default 1)")
    add("--threads", nargs="+", type=int, default=[1])
    add("--share", action="store_true", help="threads share one solve (wall time)")
    add("--repeat", type=int, default=5, help="runs; the median counts")
    add(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu = processor time of all threads, for a machine that is busy otherwise",
    )
    add("--beside", metavar="MODULE", help="a module with a solve() to measure beside ours")
    add("--gap", action="store_true", help="gaps to the optimum or a bound, on small problems")
    add("--time-limit", type=finite, default=60.0, help="seconds of --gap for each problem")
    add("--json", type=output_file, help="write all numbers here, too")
    group = parser.add_argument_group("real costs")
    group.add_argument(
        "--dump", type=output_folder, metavar="FOLDER", help="write a network's costs here"
    )
    group.add_argument("--config-file", help="of the network; with --dump")
    group.add_argument("--weights", help="its checkpoint; default: MODEL.WEIGHTS of the config")
    group.add_argument("--num", type=int, default=10, help="images of DATASETS.TEST to dump")
    group.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the config")
    options = parser.parse_args(arguments)
    if options.repeat < 1 or min(options.threads) < 1 or options.num < 1:
        parser.error("--repeat, --threads and --num must be positive")
    refuse_own_inputs(parser, [("--json", options.json)], [("--load", p) for p in options.load])
    if options.sizes is None:
        options.sizes = GAP_SIZES_BY_DEFAULT if options.gap else SIZES_BY_DEFAULT
    if options.refine is None:
        options.refine = [1, 3] if options.gap else [1]
    if min(options.refine) < 0:
        parser.error("--refine must be 0 or more")
    if options.dump and not options.config_file:
        parser.error("--dump needs the network's --config-file")
    if not options.dump and (options.config_file or options.weights or options.opts):
        parser.error("--config-file, --weights and KEY VALUE go with --dump FOLDER only")
    if options.share and options.clock != "wall":
        parser.error("--share is measured by --clock wall; processor time adds up all threads")
    if options.gap and options.beside:
        parser.error("--gap and --beside are two runs")
    return options


def solvers(options: argparse.Namespace) -> list[tuple[str, int]]:
    """List method and cycles of refinement of each of ours."""
    return [
        (method, refine)
        for method in options.methods
        for refine in (options.refine if method == "multilevel" else [1])
    ]


def run_times(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all solvers on all problems and print the tables; return them."""
    beside = load_beside(options.beside) if options.beside else None
    rows: list[Row] = []
    for description, problem in all_problems(options):
        found: list[Row] = []
        for method, refine in solvers(options):
            for threads in options.threads:
                how = (threads, options.repeat, CLOCKS[options.clock], options.share)
                row, _ = measure(problem, method, refine, *how)
                found.append(description | row)
                report_progress(found[-1])
        if beside is not None:
            row, _ = measure_beside(problem, options.beside, beside)
            found.append(description | row)
            report_progress(found[-1])
        compare(found, options.beside)
        rows += found
    print_table(table_of_rows(rows))
    summary = summarise(rows)
    if not options.load and len(options.seeds) > 1:
        print(f"\nMedians over {len(options.seeds)} seeds; gains: least, mean, greatest:\n")
        print_table(table_of_summary(summary))
    growth = growth_exponents(rows)
    if growth:
        print("\nTime grows with this power of the number of edges:\n")
        print_table(growth)
    return {"rows": rows, "summary": summary, "growth": growth}


def report_progress(row: Row) -> None:
    """Print one line for who waits."""
    problem = f"{row['problem']} noise {row['noise']} {row['variant']} seed {row['seed']}"
    line = f"{problem} {row['solver']} x {row['threads']}: {row['seconds']:.4f} s"
    print(line, file=sys.stderr, flush=True)


def gap_row(problem: Problem, options: argparse.Namespace) -> Row:
    """Compare all solvers with the bound of one problem."""
    bound = find_bound(*problem, time_limit=options.time_limit)
    gaps, feasible = {}, True
    for method, refine in solvers(options):
        result = solve_amwc(*problem, method=method, refine=refine)
        gaps[solver_name(method, refine)] = bound.gap_percent(result.energy)
        feasible &= is_feasible(problem.edges, problem.partitionable, *result[:3])
    return {
        "nodes": len(problem.node_costs),
        "edges": len(problem.edges),
        "lower": bound.lower,
        "proved": bound.optimum is not None,
        "relaxation_gap_percent": -bound.gap_percent(bound.relaxation),
        "seconds": bound.seconds,
        "constraints": bound.num_constraints,
        "feasible": feasible,
        "gap_percent": gaps,
    }


def run_gaps(options: argparse.Namespace) -> dict[str, Any]:
    """Compare all solvers with the bound of each problem and print a table; return all."""
    rows: list[Row] = []
    for description, problem in all_problems(options):
        row = gap_row(problem, options)
        rows.append(description | row)
        name = " ".join(str(value) for value in description.values())
        gaps = ", ".join(f"{solver} {gap:.3f}" for solver, gap in row["gap_percent"].items())
        print(f"{name}: {row['seconds']:.1f} s, {gaps} %", file=sys.stderr, flush=True)
    print("Gaps to the optimum where proved, else to the bound, in %: mean (greatest)\n")
    print_table(gap_table(rows))
    return {"rows": rows}


def print_table(rows: list[Row]) -> None:
    """Print a table for people."""
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 if a result was not feasible."""
    options = parse_args(arguments)
    if options.dump:
        try:
            written = dump_network(options)
        except (OSError, ValueError) as error:
            return refuse(__file__, error)
        print(f"{len(written)} problems are in {options.dump}")
        return 0
    begin = time.perf_counter()
    small = planted_problem(0, *SIZES["16x24"][:4], noise=3.0)
    for method, refine in solvers(options):
        solve_many([small._asdict() | {"method": method, "refine": refine}], 1)
    compile_seconds = time.perf_counter() - begin
    print(f"compiled or loaded in {compile_seconds:.1f} s; {options.clock} time", file=sys.stderr)
    figures = run_gaps(options) if options.gap else run_times(options)
    if options.json:
        report = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "clock": options.clock,
            "repeat": options.repeat,
            "compile_seconds": compile_seconds,
        }
        write_json(options.json, report | figures, indent=1)
    return 0 if all(row["feasible"] for row in figures["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
