"""torch's threads sleep while they wait: beside other programs a step costs what it costs alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

WORK = """
import panoptic_common, torch, time, resource
torch.set_num_threads(2)
x = torch.ones(1, 16, 48, 48)
layer = torch.nn.Conv2d(16, 16, 3, padding=1)

def step():
    for _ in range(20):
        torch.relu(layer(x) + 1).sum().backward()

step()
times = []
for _ in range(7):
    before = time.process_time()
    step()
    times.append(time.process_time() - before)
print(min(times), max(times))
"""
BUSY = "while True: pass"


def processor_times(environment: dict[str, str]) -> tuple[float, float]:
    """Return the least and the greatest of a few steps."""
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    least, greatest = map(float, done.stdout.split())
    return least, greatest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="is about libgomp")
def test_waiting_threads_burn_no_processor_beside_busy_processes() -> None:
    """Processor time of a step, beside as many busy processes as there are cores.

    What spins is the same program with the policy ACTIVE. How often a spinning thread waits for one
    that has no core is chance: so its worst step counts, and the best of ours.
    """
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    environment["PYTHONPATH"] = str(ROOT)
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        ours, _ = processor_times(environment)
        _, spinning = processor_times({**environment, "OMP_WAIT_POLICY": "ACTIVE"})
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert ours < spinning / 2, (ours, spinning)


def test_a_choice_of_the_user_stays() -> None:
    program = "import panoptic_common, os; print(os.environ['OMP_WAIT_POLICY'])"
    for value in ("ACTIVE", ""):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": value}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
        assert done.stdout.decode().strip() == value


def imported(path: Path) -> list[str]:
    """The packages that a file imports at its top, in that order."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return [name.partition(".")[0] for name in names]


def test_no_program_imports_torch_before_the_variable_is_set() -> None:
    """libgomp reads it once, when torch is imported."""
    paths = [p for p in (ROOT / "tools").rglob("*.py") if "__main__" in p.read_text("utf-8")]
    # It measures libgomp's own policy, too: torch must find the variable as it is given.
    paths.remove(ROOT / "tools/studies/waiting.py")
    assert len(paths) > 10
    for path in paths:
        names = imported(path)
        first = min(map(names.index, {"torch", "detectron2"} & set(names)), default=None)
        if first is not None:
            ours = {"panoptic_common", "panoptic_tools", "cops", "unified_panoptic"}
            assert ours & set(names[:first]), f"{path}: import panoptic_common.compat before torch"
