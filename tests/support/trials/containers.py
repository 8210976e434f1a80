"""Training, evaluation and demo where neither the source tree nor the home can be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from project import ROOT

from trials.outcome import Outcome
from trials.processes import ENVIRONMENT, patience, train_command, train_words
from trials.programs import half_written, tool

MEANS = (
    "with the source tree and the home mounted read-only, a training with its evaluation and a "
    "demo with its weights end with status 0, without a traceback, and their files are whole"
)
# The trees are bound to themselves, so that they can be read-only for these processes alone.
_SCRIPT = """
for tree in "$ROOT" "$HOME"; do
    mount --bind "$tree" "$tree" && mount -o remount,bind,ro "$tree" || exit 99
done
cd / && touch "$ROOT/trial" "$HOME/trial" 2> "$NOWHERE" && exit 98
exec "$@"
"""


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Try the systems by turns; the seed says which one begins."""
    outcome = Outcome()
    for case in range(count):
        system = ("unified", "cops")[(case + seed) % 2]
        place = folder / str(case)
        (place / "temporary").mkdir(parents=True)
        (place / "home").mkdir()
        outcome.record(f"{case} {system}", try_system(system, place), system)
        shutil.rmtree(place)
    return outcome


def try_system(system: str, folder: Path) -> str | None:
    """Train, evaluate and show; return what is wrong."""
    out, data = folder / "out", folder / "data"
    words = train_words(data, out, 2, system)
    words[words.index("DATASETS.TEST") + 1] = "('street',)"
    show = [sys.executable, tool("demo.py"), "--checkpoint", str(out / "model_final.pth")]
    show += ["--json", "--device", "cpu", "--output", str(folder / "shown"), str(data / "tiny")]
    for command in (train_command(words), show):
        problem = run_read_only(command, folder)
        if problem:
            return problem
    images = len(list((folder / "shown").glob("*_panoptic.png")))
    if images != 4:
        return f"{images} of 4 images are shown"
    return half_written(out) or half_written(folder / "shown")


def run_read_only(command: list[str], folder: Path) -> str | None:
    """Run a program where it can write to `folder` alone; return what is wrong."""
    environment = {**ENVIRONMENT, "ROOT": str(ROOT), "HOME": str(folder / "home")}
    environment |= {"TMPDIR": str(folder / "temporary"), "NOWHERE": os.devnull}
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        environment.pop(name, None)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _SCRIPT, "sh", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=patience(300),
    )
    if done.returncode == 99:
        raise RuntimeError("read-only trees need `unshare -rm`, which this system does not permit")
    said = done.stdout + done.stderr
    if done.returncode != 0 or "Traceback" in said:
        return f"{Path(command[1]).name}: status {done.returncode}: {said[-400:]}"
    return None
