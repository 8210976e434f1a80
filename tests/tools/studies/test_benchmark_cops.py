"""tools/studies/benchmark_cops.py in miniature: the split of a step adds up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from project import ROOT


def test_the_parts_of_a_step_add_up(tmp_path: Path):
    config = ROOT / "configs/cops/scenes/full_paper.yaml"
    words = ["--config-file", config, "--batch", 2, "--size", 64, 96, "--classes", 6]
    words += ["--threads", 1, "--repeat", 1, "--json", tmp_path / "table.json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/studies/benchmark_cops.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    parts = row["AMWC"] + row["MWC"] + row["network and loss"]
    assert abs(parts - row["overall"]) < 0.01
    assert row["AMWC"] > 0 and row["MWC"] > 0
    assert "| greedy | 1 |" in done.stdout
