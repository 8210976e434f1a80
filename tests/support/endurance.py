#!/usr/bin/env python3
"""Try to break trainings, data and weights, many times, and say what survived.

    python tests/support/endurance.py kills --count 30 --seed 0
    python tests/support/endurance.py all
    python tests/support/endurance.py table --into docs/reliability.md

Each item adds a row to output/endurance/results.json, from which `table` draws the table of
docs/reliability.md. The same seed tries the same cases. `make endurance` runs all; how long that
takes stands in that page. Ended by SIGTERM or Ctrl-C, an item stores what it has tried: the first
cases of that seed. Exit status: 0 if all survived, 1 otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import panoptic_common.compat

import torch
from project import ROOT
from trials.outcome import Outcome, replace_table, store, table

RESULTS = ROOT / "output/endurance/results.json"


class Item(NamedTuple):
    """What can be tried: a function `run(count, seed, folder)`, and what survival means there.

    Attributes:
        title: first cell of the table.
        module: of the package `trials`; has the function and the constant MEANS.
        count: cases by default.
        function: its name, for modules with several.
    """

    title: str
    module: str
    count: int
    function: str = "run"


ITEMS = {
    "kills": Item("kill -9 of a training, then --resume", "kills", 30),
    "signals": Item("SIGTERM, SIGINT and SIGHUP to a training", "signals", 30),
    "background": Item("SIGKILL to a training", "signals", 5, "run_background"),
    "interrupts": Item("SIGTERM and Ctrl-C to the others", "interrupts", 40),
    "disks": Item("A full disk under each writer", "disks", 42),
    "containers": Item("Source tree and home read-only", "containers", 2),
    "datasets": Item("Hostile data sets", "datasets", 400),
    "checkpoints": Item("Damaged and forged checkpoints, five ways in", "checkpoints", 300),
    "pickles": Item("Mutated pickles", "machine", 5000, "run_pickles"),
    "batches": Item("Degenerate batches", "batches", 200),
    "runs": Item("Two runs at once", "runs", 4),
    "load": Item("Training beside other work", "machine", 3, "run_load"),
    "solves": Item("Memory of the solver", "machine", 6000, "run_solves"),
    "inferences": Item("Memory of inference", "machine", 400, "run_inferences"),
}


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("item", choices=[*ITEMS, "all", "table"], help="what to try; table: draw what was found")
    add("--count", type=int, help="how many cases (default: the item's)")
    add("--seed", type=int, default=0)
    add("--keep", type=Path, metavar="DIR", help="work in this folder, and leave everything there")
    add("--results", type=Path, default=RESULTS, metavar="JSON", help="default: %(default)s")
    add("--into", type=Path, metavar="PAGE", help="with table: put it between the page's marks")
    return parser.parse_args(words)


def try_item(name: str, options: argparse.Namespace) -> bool:
    """Run the cases of one item, store its row, and return whether all survived."""
    item = ITEMS[name]
    count = item.count if options.count is None else options.count
    command = f"python tests/support/endurance.py {name} --count {count} --seed {options.seed}"
    print(command, flush=True)
    module = importlib.import_module(f"trials.{item.module}")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="panoptic_endurance_"))
    folder = folder / name
    folder.mkdir(parents=True)
    start, ended = time.monotonic(), None
    try:
        outcome = getattr(module, item.function)(count, options.seed, folder)
    except (SystemExit, KeyboardInterrupt) as end:
        if Outcome.current is None or not Outcome.current.tried:
            raise
        outcome, ended = Outcome.current, end
        command = command.replace(f"--count {count}", f"--count {outcome.tried}")
    finally:
        if not options.keep:
            shutil.rmtree(folder.parent, ignore_errors=True)
    row = {
        "title": item.title,
        "tried": outcome.tried,
        "survived": outcome.survived,
        "means": module.MEANS if isinstance(module.MEANS, str) else module.MEANS[name],
        "counts": ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.counts.items())),
        "command": command,
        "seconds": round(time.monotonic() - start, 1),
        "failures": outcome.failures,
    }
    store(options.results, name, row)
    print(f"  {outcome.survived} of {outcome.tried} survived, {row['seconds']:.0f} s", flush=True)
    print(f"  {row['counts']}", flush=True)
    if ended is not None:
        raise ended
    return not outcome.failures


def main(words: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    torch.set_num_threads(1)
    # What is being tried would go on without end if this program died of it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if options.item == "table":
        rows = json.loads(options.results.read_text())
        drawn = table({name: rows[name] for name in ITEMS if name in rows})
        if options.into:
            replace_table(options.into, drawn)
        print(drawn)
        return 0
    names = list(ITEMS) if options.item == "all" else [options.item]
    survived = [try_item(name, options) for name in names]
    return 0 if all(survived) else 1


if __name__ == "__main__":
    sys.exit(main())
