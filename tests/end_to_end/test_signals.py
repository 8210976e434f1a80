"""SIGTERM, SIGINT and SIGKILL to tools/train_net.py, with one process, two, and torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dataset_factory import make_coco_panoptic
from project import ROOT
from tiny_system import UNIFIED_OPTIONS

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ENVIRONMENT["PYTHONUNBUFFERED"] = "1"
# Where these tests themselves run in a shell's background, SIGINT is ignored, and would be by all
# that they start.
LISTENING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def train_words(root: Path, out: Path, max_iter: int) -> list[str]:
    """Arguments of train_net.py for the Unified system, a few channels wide."""
    data = make_coco_panoptic(root, num_images=4)
    return [
        *("--config-file", str(ROOT / "configs/unified/scenes/D2.yaml")),
        *("--register", "street", data.images, data.panoptic_json, data.panoptic_png),
        *UNIFIED_OPTIONS,
        *("DATASETS.TRAIN", "('street',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER"),
        *(str(max_iter), "SOLVER.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR", str(out), "SEED", "3"),
    ]


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 150
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)


def workers_of(folder: Path) -> list[int]:
    """Processes whose environment marks them as those of a test; not the zombies among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if f"MARK={folder}".encode() in (path / "environ").read_bytes() and state != "Z":
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(
    ("number", "processes", "background"),
    [
        (signal.SIGTERM, 1, False),
        (signal.SIGINT, 1, False),
        (signal.SIGTERM, 2, True),
        (signal.SIGKILL, 2, True),
    ],
    ids=["term-1", "int-1", "term-2-background", "kill-2-background"],
)
def test_a_signal_ends_all_in_good_order(tmp_path, number, processes, background):
    """In a shell's background SIGINT is ignored; workers must not depend on it."""
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    words = train_words(tmp_path, out, max_iter=100000)
    flags = ["--num-processes", str(processes)]
    command = [sys.executable, str(ROOT / "tools/train_net.py"), *flags, *words]
    if background:
        command = ["sh", "-c", '"$@" & echo $! > "$0"; wait $!', str(tmp_path / "pid"), *command]
    else:
        command = [sys.executable, "-c", LISTENING, *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**ENVIRONMENT, "TMPDIR": str(temporary), "MARK": str(tmp_path)}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        wait_for(out / "model_0000001.pth", process)
        os.kill(int((tmp_path / "pid").read_text()) if background else process.pid, number)
        start = time.monotonic()
        try:
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()  # or a training that did not listen would be waited for without end
    assert time.monotonic() - start < 30
    assert process.returncode == 128 + number
    end = time.monotonic() + 5
    while workers_of(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert workers_of(tmp_path) == []
    if number != signal.SIGKILL:
        assert "Traceback" not in output
        pointer = (out / "last_checkpoint").read_text()
        saved = torch.load(out / pointer, weights_only=True)
        assert f"saved after iteration {saved['iteration']} and ending" in output
        assert list(temporary.iterdir()) == []


def test_torchrun_gives_the_weights_of_our_launcher(tmp_path):
    """One group of two, not two groups of one; and only one process holds the folder."""
    states = []
    starts = {
        "ours": ["tools/train_net.py"],
        "torchrun": [
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            "tools/train_net.py",
        ],
    }
    for name, start in starts.items():
        words = train_words(tmp_path / name, tmp_path / name / "out", max_iter=3)
        done = subprocess.run(
            [sys.executable, *start, "--num-processes", "2", *words],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        assert "World size: 2" in done.stdout
        path = tmp_path / name / "out/model_final.pth"
        states.append(torch.load(path, weights_only=True)["model"])
    ours, theirs = states
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
