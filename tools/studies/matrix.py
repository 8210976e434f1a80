#!/usr/bin/env python3
"""Run all tests in several environments, from the oldest libraries to the newest; one table.

    python tools/studies/matrix.py
    python tools/studies/matrix.py --only 3.10-oldest --jobs 1
    python tools/studies/matrix.py --detectron2 ../detectron2    # upstream's, as a further row

Each environment is a clone of the last commit with a virtual environment of its own, made by
`tools/setup_environment.py`: some minutes and 5 to 7 GB each. It is kept, so that repeating the
command updates the clone, and installs nothing anew. Interpreters are found on the path, as
python3.10 and so on. One that is missing is a row without figures. Exit status: 1 if a test failed
or a row has no figures.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tabulate import tabulate

from panoptic_common.files import write_json
from panoptic_tools.arguments import (
    input_folder,
    make_parser,
    output_folder,
    require_at_least,
)
from panoptic_tools.studies.library.config_runs import say
from panoptic_tools.studies.library.paths import ROOT

# The lower bounds of setup.py, as far as wheels for Python 3.10 go together.
OLDEST = (
    "torch==2.4.0",
    "torchvision==0.19.0",
    "numpy==1.26.4",
    "numba==0.61.0",
    "scipy==1.11.4",
    "pillow==9.5.0",
    "opencv-python-headless==4.8.1.78",
)
LIBRARIES = ("torch", "torchvision", "numpy", "numba", "scipy", "PIL", "cv2")
COUNTED = ("passed", "failed", "skipped", "error")


@dataclass(frozen=True)
class Environment:
    """One row.

    Attributes:
        name: of the row and its folder.
        interpreter: found on the path.
        pins: requirements that hold versions down.
        detectron2: a checkout that goes before every other Detectron2, or "".
    """

    name: str
    interpreter: str
    pins: tuple[str, ...] = ()
    detectron2: str = ""


@dataclass
class Outcome:
    """What became of a row.

    Attributes:
        name: of the environment.
        versions: by library; empty if there is no such environment.
        counts: tests by what became of them, the keys of `COUNTED`.
        seconds: of the tests.
        problem: why there are no figures, or "".
    """

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str = ""

    @property
    def good(self) -> bool:
        """Tell whether tests ran and none failed."""
        failed = self.counts.get("failed", 0) + self.counts.get("error", 0)
        return not self.problem and self.counts.get("passed", 0) > 0 and not failed


def environments(detectron2: str | None) -> list[Environment]:
    """Return all rows; that of a Detectron2 checkout only if there is one."""
    rows = [
        Environment("3.10-oldest", "python3.10", OLDEST),
        *(Environment(f"{version}-newest", f"python{version}") for version in ("3.11", "3.12")),
        Environment("3.13-newest", "python3.13"),
    ]
    if detectron2:
        rows.append(Environment("3.11-upstream", "python3.11", detectron2=detectron2))
    return rows


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; `rows` becomes what is to be run."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("--detectron2", type=input_folder, metavar="FOLDER", help="a checkout of upstream's")
    add("--only", nargs="+", metavar="NAME", help="some of the rows")
    add("--jobs", type=int, default=2, help="test processes of one thread each (default 2)")
    add("--tests", nargs="+", default=["tests"], metavar="PATH", help="default: all")
    add("--output", type=output_folder, default=Path("output/matrix"), metavar="FOLDER")
    parsed = parser.parse_args(words)
    require_at_least(parser, parsed, 1, "jobs")
    checkout = parsed.detectron2
    if checkout and not (checkout / "detectron2" / "__init__.py").is_file():
        parser.error(f"--detectron2 {checkout}: there is no detectron2/__init__.py in it")
    rows = environments(str(checkout.resolve()) if checkout else None)
    names = [row.name for row in rows]
    for name in parsed.only or ():
        if name not in names:
            parser.error(f"--only: {name!r} is none of {', '.join(names)}")
    parsed.rows = [row for row in rows if not parsed.only or row.name in parsed.only]
    return parsed


def run_environment(row: Environment, options: argparse.Namespace) -> Outcome:
    """Make or update one environment and run the tests in it."""
    outcome = Outcome(row.name)
    interpreter = shutil.which(row.interpreter)
    if interpreter is None:
        outcome.problem = f"there is no {row.interpreter} on the path"
        return outcome
    folder = (options.output / row.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    project, log = folder / "project", folder / "log.txt"
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{pin}\n" for pin in row.pins))
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_CONSTRAINT": str(pins)}
    variables["PYTHONPATH"] = checkout = row.detectron2 and _only_package(folder, row.detectron2)
    python = str(project / ".venv" / "bin" / "python")
    steps = {
        "cloning": _clone_commands(project),
        "set-up": [[interpreter, str(project / "tools" / "setup_environment.py")]],
    }
    with log.open("w") as file:
        for what, commands in steps.items():
            say(f"{row.name}: {what}")
            for command in commands:
                where = project if what == "set-up" else folder
                done = subprocess.run(command, cwd=where, env=variables, stdout=file, stderr=file)
                if done.returncode:
                    outcome.problem = f"{what} failed, see {log}"
                    return outcome
    if row.detectron2:
        # Tests start programs with a path of their own, so the environment must know the checkout.
        variables["PYTHONPATH"] = ""
        for packages in (project / ".venv" / "lib").glob("python*/site-packages"):
            (packages / "detectron2_checkout.pth").write_text(f"{checkout}\n")
    outcome.versions = _versions(python, variables)
    say(f"{row.name}: tests")
    command = [python, "-m", "pytest", "-q", "-n", str(options.jobs), "--dist", "loadfile"]
    with log.open("a") as file:
        subprocess.run(
            [*command, *options.tests], cwd=project, env=variables, stdout=file, stderr=file
        )
    outcome.counts, outcome.seconds = read_summary(log.read_text(errors="replace"))
    if not outcome.counts:
        outcome.problem = f"the tests did not come to their end, see {log}"
    return outcome


def _only_package(folder: Path, detectron2: str) -> str:
    """Return a folder that holds the package of a checkout; beside it lie tests of their own."""
    link = folder / "path" / "detectron2"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(detectron2) / "detectron2")
    return str(link.parent)


def _clone_commands(project: Path) -> list[list[str]]:
    """Return the commands that bring a clone to this checkout's last commit."""
    git = ["git", "-C", str(project)]
    first = [] if project.exists() else [["git", "clone", "-q", str(ROOT), str(project)]]
    return [
        *first,
        [*git, "fetch", "-q", str(ROOT), "HEAD"],
        [*git, "reset", "-q", "--hard", "FETCH_HEAD"],
    ]


def _versions(python: str, variables: dict[str, str]) -> dict[str, str]:
    """Ask an interpreter for its version and those of the libraries."""
    code = (
        "import importlib, sys; print('Python', sys.version.split()[0]);"
        f"[print(n, importlib.import_module(n).__version__) for n in {LIBRARIES}];"
        "import detectron2; print('Detectron2', detectron2.__version__)"
    )
    done = subprocess.run([python, "-c", code], env=variables, capture_output=True, text=True)
    lines = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
    return {name: version for name, version in lines}


def read_summary(log: str) -> tuple[dict[str, int], float]:
    """Read the last line of pytest, such as "2 failed, 3 passed in 4.5s".

    Args:
        log: all that pytest wrote.

    Returns:
        Tests by what became of them, and the seconds; ({}, 0.0) without such a line.
    """
    for line in reversed(log.splitlines()):
        end = re.search(r" in ([0-9.]+)s\b", line)
        counts = {
            kind: int(number)
            for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", line)
        }
        if end and counts:
            return counts, float(end[1])
    return {}, 0.0


def table_of(outcomes: Sequence[Outcome]) -> str:
    """Return a table in Markdown, a row per environment."""
    names = ("Python", *LIBRARIES, "Detectron2")
    rows = [
        [
            outcome.name,
            *(outcome.versions.get(name, "") for name in names),
            *(outcome.counts.get(kind, 0) if outcome.counts else "" for kind in COUNTED),
            outcome.problem or f"{outcome.seconds:.0f} s",
        ]
        for outcome in outcomes
    ]
    headers = ["", *names, *COUNTED, "time"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    outcomes: list[Outcome] = []
    for row in options.rows:
        outcomes.append(run_environment(row, options))
        # Written after each row: a matrix takes an hour, and may be interrupted.
        write_json(options.output / "table.json", [asdict(o) for o in outcomes], indent=1)
        (options.output / "table.md").write_text(table_of(outcomes))
    print(table_of(outcomes), end="")
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
