#!/usr/bin/env python3
"""Time, energy and memory of `cops.solver` by size, noise, method and number of threads.

    python tools/studies/benchmark_solver.py
    python tools/studies/benchmark_solver.py --sizes 256x512 1024x2048 --noise 3 --refine 0 1 2 3
    python tools/studies/benchmark_solver.py --variants rounded signs zeroed white --json solver.json
    python tools/studies/benchmark_solver.py --seeds 0 1 2 3 4 --clock cpu --beside my_adapter
    python tools/studies/benchmark_solver.py --gap --noise 1 3 6 --seeds 0 1 2 3 4
    python tools/studies/benchmark_solver.py --dump costs --config-file CONFIG --weights FILE --num 10
    python tools/studies/benchmark_solver.py --load costs/*.npz

Problems are planted layouts (`cops.solver.planted`), or real costs from files that hold the arrays
node_costs (V, K), edges (E, 2), edge_costs (E,) and partitionable (K,). `--dump FOLDER` writes such
files: a trained COPS network (`--config-file`, `--weights`, KEY VALUE ...) predicts on the first
images of its test set, and what its inference hands to the solver is saved, a file per image.

Compiling, or loading compiled kernels, comes first and is not counted; checks of the input and the
energy are. With t threads, t copies of a problem are solved side by side (`solve_many`), and the
time is that of all divided by t. Peak memory is what one solve adds to the process, its result
included (Linux only). The first table has a row for each problem and solver, the second sums up
over the seeds. "x greedy" is greedy's median time over the row's, at the same number of threads;
"gain" compares energies, in percent of greedy's: + is better.

`--beside MODULE` measures another solver in the same run: a Python module that can be imported from
the current folder or PYTHONPATH, with a function

    solve(node_costs, edges, edge_costs, partitionable) -> seconds, node_classes, is_cut[, peak]

that returns the processor time its solver alone took, labels, and optionally the bytes of memory it
alone added. Use `--clock cpu` with it. Its labels are judged as ours are; see
`tools/studies/library/solver_cases.py` for the rule about clusters of a class that may have one only. It runs
three times on one thread (whatever it compiles, it should compile when imported); "x other" is its
best over our best of three.

`--gap` compares with the optimum, or a lower bound, of small problems (`cops.solver.bounds`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from cops.solver import METHODS, check_problem, is_feasible, solve_amwc, solve_many
from cops.solver.bounds import find_bound
from cops.solver.planted import VARIANTS, planted_problem
from cops.solver.problem import Problem
from panoptic_tools.studies.library.solver_cases import (
    CLOCKS,
    Row,
    compare,
    growth_exponents,
    measure,
    measure_beside,
    solver_name,
    summarise,
    table_of_rows,
    table_of_summary,
)

ROOT = Path(__file__).resolve().parents[2]

CITYSCAPES = (1, 4, 16, 32, 64, 128)
COCO = (1, 4, 16, 32, 64)


class Size(NamedTuple):
    """A grid, its classes and distances, and how many things are drawn."""

    height: int
    width: int
    num_classes: int
    distances: tuple[int, ...]
    num_things: int = 40


GAP_SIZES = {f"{n}x{n}": Size(n, n, 6, (1, 3), n // 2) for n in (8, 10, 12, 16, 24)}
SIZES = GAP_SIZES | {
    "16x24": Size(16, 24, 5, (1, 4)),  # a second's trial of the program itself
    "64x128": Size(64, 128, 19, CITYSCAPES),
    "160x160": Size(160, 160, 133, COCO),
    "256x512": Size(256, 512, 19, CITYSCAPES),
    "512x1024": Size(512, 1024, 19, CITYSCAPES),
    "1024x2048": Size(1024, 2048, 19, CITYSCAPES),
}
SIZES_BY_DEFAULT = ["64x128", "160x160", "256x512"]
GAP_SIZES_BY_DEFAULT = ["8x8", "10x10", "12x12", "16x16"]


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="*", choices=SIZES, help="default: 64x128 160x160 256x512; small for gaps")
    add("--noise", nargs="+", type=float, default=[1.0, 3.0, 6.0])
    add("--variants", nargs="+", choices=VARIANTS, default=["smooth"])
    add("--seeds", nargs="+", type=int, default=[0])
    add("--load", nargs="+", type=Path, default=[], help="files of real costs")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--refine", nargs="+", type=int, help="cycles of multilevel, a row each (default 1)")
    add("--threads", nargs="+", type=int, default=[1])
    add("--repeat", type=int, default=5, help="runs; the median counts")
    add(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu = processor time of all threads, for a machine that is busy otherwise",
    )
    add("--beside", metavar="MODULE", help="a module with a solve() to measure beside ours")
    add("--gap", action="store_true", help="gaps to the optimum or a bound, on small problems")
    add("--time-limit", type=float, default=60.0, help="seconds of --gap for each problem")
    add("--json", type=Path, help="write all numbers here, too")
    group = parser.add_argument_group("real costs")
    group.add_argument("--dump", type=Path, metavar="FOLDER", help="write a network's costs here")
    group.add_argument("--config-file", help="of the network; with --dump")
    group.add_argument("--weights", help="its checkpoint; default: MODEL.WEIGHTS of the config")
    group.add_argument("--num", type=int, default=10, help="images of DATASETS.TEST to dump")
    group.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the config")
    options = parser.parse_args(arguments)
    if options.repeat < 1 or min(options.threads) < 1 or options.num < 1:
        parser.error("--repeat, --threads and --num must be positive")
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
    if options.gap and options.beside:
        parser.error("--gap and --beside are two runs")
    return options


# ---- problems -----------------------------------------------------------------------------------


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
        *size, num_things = SIZES[name]
        for variant in options.variants:
            for noise in options.noise:
                for seed in options.seeds:
                    problem = planted_problem(seed, *size, noise, variant, num_things)
                    yield dict(problem=name, noise=noise, variant=variant, seed=seed), problem


def solvers(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Method and cycles of refinement of each of ours."""
    return [
        (method, refine)
        for method in options.methods
        for refine in (options.refine if method == "multilevel" else [1])
    ]


def dump_images(model: Any, batches: Iterable[list[dict]], folder: Path, num: int) -> list[Path]:
    """Save the problems that a COPS model's inference makes of images.

    Args:
        model: in evaluation mode.
        batches: of a test loader, one image each.
        folder: for a file per image, named after the image's.
        num: how many images.
    """
    import torch

    from cops.modeling.inference import SolvedImage

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for (inputs,) in batches:
        with torch.no_grad():
            images = model.preprocess([inputs])
            maps = model.predict_maps(images.tensor)
        image = SolvedImage(
            maps.class_logits[0],
            maps.class_costs[0],
            maps.edge_costs[0],
            distances=model.distances,
            is_thing=model.is_thing,
            input_size=images.image_sizes[0],
            output_size=images.image_sizes[0],
            truth=inputs.get("cops_target"),
        )
        # The grid and the costs that belong to the solution: what the solver was given.
        graph, costs, _ = image.solve(model.options)
        path = folder / f"{Path(inputs['file_name']).stem}.npz"
        np.savez(
            path,
            node_costs=graph.node_costs_from_maps(costs.class_costs.numpy()),
            edges=graph.edges,
            edge_costs=graph.edge_costs_from_maps(costs.edge_costs.numpy()),
            partitionable=np.asarray(model.is_thing),
        )
        written.append(path)
        if len(written) == num:
            break
    return written


def network_config(options: argparse.Namespace) -> Any:
    """The complete config of the network whose costs are wanted, its data sets registered."""
    from panoptic_common.config import load_config
    from panoptic_common.engine.scaling import use_cpu_without_cuda

    # Who dumps need not have the training set.
    cfg = load_config(options.config_file, options.opts, only_test=True)
    cfg.MODEL.WEIGHTS = options.weights or cfg.MODEL.WEIGHTS
    use_cpu_without_cuda(cfg)
    return cfg


def dump_network(options: argparse.Namespace) -> list[Path]:
    """Build the network of the config, load its weights, and dump its first test images."""
    cfg = network_config(options)

    from detectron2.modeling import build_model

    from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
    from panoptic_common.data.catalog import class_table
    from panoptic_common.engine.trainer import PanopticTrainer

    if not cfg.MODEL.WEIGHTS:
        raise ValueError("costs of an untrained network say little: give its --weights")
    name = cfg.DATASETS.TEST[0]
    model = build_model(cfg).eval()
    checkpointer = PanopticCheckpointer(model, cfg=cfg, class_table=class_table(name))
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[], purpose="evaluate")
    loader = PanopticTrainer.build_test_loader(cfg, name)
    return dump_images(model, loader, options.dump, options.num)


# ---- runs ---------------------------------------------------------------------------------------


def run_times(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all solvers on all problems and print the tables; returns them."""
    beside = load_beside(options.beside) if options.beside else None
    rows: list[Row] = []
    for description, problem in all_problems(options):
        found: list[Row] = []
        for method, refine in solvers(options):
            for threads in options.threads:
                row, _ = measure(
                    problem, method, refine, threads, options.repeat, CLOCKS[options.clock]
                )
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


def load_beside(name: str) -> Callable[..., Any]:
    """The function `solve` of another's module, looked for in the current folder, too."""
    sys.path.append(str(Path.cwd()))
    solve = getattr(importlib.import_module(name), "solve", None)
    if not callable(solve):
        raise ValueError(f"--beside {name}: the module has no function solve(); see --help")
    return solve


def report_progress(row: Row) -> None:
    """One line for who waits."""
    problem = f"{row['problem']} noise {row['noise']} {row['variant']} seed {row['seed']}"
    line = f"{problem} {row['solver']} x {row['threads']}: {row['seconds']:.4f} s"
    print(line, file=sys.stderr, flush=True)


def run_gaps(options: argparse.Namespace) -> dict[str, Any]:
    """Compare all solvers with the bound of each problem and print a table; returns all."""
    rows: list[Row] = []
    for description, problem in all_problems(options):
        bound = find_bound(*problem, time_limit=options.time_limit)
        row = description | {
            "nodes": len(problem.node_costs),
            "edges": len(problem.edges),
            "lower": bound.lower,
            "proved": bound.optimum is not None,
            "relaxation_gap_percent": -bound.gap_percent(bound.relaxation),
            "seconds": bound.seconds,
            "constraints": bound.num_constraints,
            "feasible": True,
            "gap_percent": {},
        }
        for method, refine in solvers(options):
            result = solve_amwc(*problem, method=method, refine=refine)
            row["gap_percent"][solver_name(method, refine)] = bound.gap_percent(result.energy)
            row["feasible"] &= is_feasible(problem.edges, problem.partitionable, *result[:3])
        rows.append(row)
        name = " ".join(str(value) for value in description.values())
        gaps = ", ".join(f"{solver} {gap:.3f}" for solver, gap in row["gap_percent"].items())
        print(f"{name}: {bound.seconds:.1f} s, {gaps} %", file=sys.stderr, flush=True)
    print("Gaps to the optimum where proved, else to the bound, in %: mean (greatest)\n")
    print_table(gap_table(rows))
    return {"rows": rows}


def gap_table(rows: list[Row]) -> list[Row]:
    """The gaps summed up over the seeds, for people."""
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
            "relaxation": mean_and_greatest([row["relaxation_gap_percent"] for row in group]),
        }
        for solver in group[0]["gap_percent"]:
            line[solver] = mean_and_greatest([row["gap_percent"][solver] for row in group])
        table.append(line | {"feasible": "yes" if all(r["feasible"] for r in group) else "NO"})
    return table


def mean_and_greatest(values: list[float]) -> str:
    # A gap within the tolerance of HiGHS may come out as -0.0000001.
    return f"{statistics.fmean(values) + 0.0:.3f} ({max(values) + 0.0:.3f})"


def print_table(rows: list[Row]) -> None:
    """A table for people."""
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 if a result was not feasible."""
    options = parse_args(arguments)
    if options.dump:
        written = dump_network(options)
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
        options.json.write_text(json.dumps(report | figures, indent=1) + "\n")
    return 0 if all(row["feasible"] for row in figures["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
