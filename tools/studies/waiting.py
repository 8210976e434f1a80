#!/usr/bin/env python3
"""What threads burn while they wait for one another beside busy processes.

    python tools/studies/waiting.py --size 192 384
    python tools/studies/waiting.py --parts unified cops --size 512 1024 --repeat 1 --pairs 1

A part does one piece of work, over and over, in a process of its own. That is a training step of a
system with the config of the demo, of one image. Or it is four solves of grids of that size at
stride 4. Or OpenCV resizes and warps an image. Beside it two processes compute without end.
The two policies take turns: OMP_WAIT_POLICY=PASSIVE, which is this project's default, and libgomp's
own. The table gives medians; what takes longer than --limit seconds is shown so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import torch  # before our packages, which would set the policy that is measured here

from cops.solver import solve_many
from cops.solver.planted import planted_problem
from panoptic_tools.arguments import make_parser, require_at_least
from panoptic_tools.studies.library.paths import ROOT
from panoptic_tools.studies.library.planted_training import (
    build_trainable,
    given_costs,
    plant_batch,
    training_step,
)
from panoptic_tools.studies.library.tables import markdown_table
from panoptic_tools.studies.library.unified_bench import build_bench
from panoptic_tools.studies.library.workload import training_sample
from unified_panoptic import build_target_function

Size = tuple[int, int]
POLICIES = {
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "libgomp's default": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"},
}
BUSY = "while True: pass"
CLASSES, THINGS = 14, 7  # of the scenes of the demo


def unified(size: Size, threads: int) -> Callable[[], object]:
    """Return a training step of the Unified system."""
    config = str(ROOT / "configs/unified/scenes/D2.yaml")
    options = argparse.Namespace(
        config_file=config, opts=[], classes=CLASSES, things=THINGS, device="cpu", size=size
    )
    bench = build_bench(options)
    targets = build_target_function(bench.cfg)
    work = bench.workload(size, num_detections=10)
    sample = training_sample(work, bench.cfg.MODEL.PANOPTIC.IS_THING, targets)
    bench.model.train()
    return lambda: training_step(bench.model, [sample])


def cops(size: Size, threads: int) -> Callable[[], object]:
    """Return a training step of COPS through its solver, on planted costs."""
    config = str(ROOT / "configs/cops/scenes/full.yaml")
    model = build_trainable(config, CLASSES, "greedy", threads)
    batch, *costs = plant_batch(1, size, CLASSES, model.distances, 3.0)

    def step() -> None:
        with given_costs(model.amwc, *costs):
            training_step(model, batch)

    return step


def solver(size: Size, threads: int) -> Callable[[], object]:
    """Return four solves, shared among the solver's threads."""
    grid = (size[0] // 4, size[1] // 4)
    problems = [
        {**planted_problem(seed, *grid, num_classes=CLASSES)._asdict(), "method": "multilevel"}
        for seed in range(4)
    ]
    return lambda: solve_many(problems, threads)


def opencv(size: Size, threads: int) -> Callable[[], object]:
    """Return what augmentation does to an image, twenty times."""
    cv2.setNumThreads(threads)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    shear = np.array([[1, 0.1, 0], [0, 1, 0]])

    def work() -> None:
        for _ in range(20):
            large = cv2.resize(image, None, fx=1.5, fy=1.5)
            cv2.warpAffine(large, shear, large.shape[1::-1])

    return work


PARTS = {"unified": unified, "cops": cops, "solver": solver, "opencv": opencv}


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add("--size", type=int, nargs=2, default=[192, 384], metavar=("H", "W"), help="of the image")
    add("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    add("--repeat", type=int, default=3, help="pieces of work per process (default 3)")
    add("--pairs", type=int, default=2, help="processes per policy (default 2)")
    add("--busy", type=int, default=2, help="processes that compute beside it (default 2)")
    add("--limit", type=int, default=60, help="seconds for the pieces of a process (default 60)")
    add("--inside", action="store_true", help=argparse.SUPPRESS)  # the process of a part
    options = parser.parse_args(words)
    require_at_least(parser, options, 1, "threads", "repeat", "pairs", "limit")
    require_at_least(parser, options, 0, "busy")
    return options


def work_inside(options: argparse.Namespace) -> None:
    """Do the work of one part; print its wall and processor seconds per piece but the first."""
    (part,), (threads,) = options.parts, options.threads
    torch.set_num_threads(threads)
    work = PARTS[part](tuple(options.size), threads)
    signal.alarm(options.limit)  # its end is that of the process
    work()  # compiles, and starts threads
    for _ in range(options.repeat):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        taken = time.perf_counter() - wall, time.process_time() - processor
        print(json.dumps(taken), flush=True)


def run_part(
    part: str, threads: int, policy: str, options: argparse.Namespace
) -> list[tuple[float, float]]:
    """Run one process; returns (wall, processor) seconds of each piece within the limit."""
    words = ["--inside", "--parts", part, "--threads", str(threads), "--repeat"]
    words += [str(options.repeat), "--limit", str(options.limit), "--size", *map(str, options.size)]
    kept = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment = {**kept, **POLICIES[policy], "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, -signal.SIGALRM):
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}")
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep processes that compute while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def figure(values: Sequence[float], limit: int) -> str:
    """Write median, least and greatest value."""
    if not values:
        return f"two take more than {limit}"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    options = parse_arguments(words)
    if options.inside:
        work_inside(options)
        return 0
    load = os.getloadavg()[0]
    print(f"{options.size[0]} x {options.size[1]} pixels; load before: {load:.1f}", flush=True)
    rows = []
    with busy_processes(options.busy):
        for part in options.parts:
            for threads in options.threads:
                found: dict[str, list[tuple[float, float]]] = {policy: [] for policy in POLICIES}
                for _ in range(options.pairs):
                    for policy in POLICIES:
                        found[policy] += run_part(part, threads, policy, options)
                for policy, times in found.items():
                    figures = [figure([pair[k] for pair in times], options.limit) for k in (0, 1)]
                    rows.append([part, str(threads), policy, *figures])
                    print(" | ".join(rows[-1]), flush=True)
    print(markdown_table(["part", "threads", "waiting", "wall, s", "processor, s"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
