"""Programs of tools/ in processes of their own, and what they have measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from project import ROOT

from panoptic_common.engine.training_run import with_packages


def run(program: str, *words: object, datasets: Path) -> str:
    """Run a program to its end; returns what it printed.

    Args:
        program: its file in tools/.
        words: its arguments.
        datasets: the folder of the data sets.
    """
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(datasets),
        **with_packages(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / "tools" / program), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def run_program(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a command line from the project's folder, whatever status it ends with."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **with_packages(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def read_strictly(text: str) -> Any:
    """Parse JSON as other languages do: NaN and Infinity are errors."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.json of a run."""
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
