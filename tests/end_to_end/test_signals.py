"""SIGTERM, SIGINT, SIGHUP, SIGKILL to tools/train_net.py: one process, two, and torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch
from project import ROOT
from trials.processes import ENVIRONMENT, train_words
from trials.signals import Case, try_training


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(
    "case",
    [
        Case("foreground", 1, signal.SIGTERM, "group", loaders=2),
        Case("foreground", 1, signal.SIGINT, "group"),
        Case("script &", 2, signal.SIGTERM, "launcher"),
        Case("foreground", 2, signal.SIGHUP, "group"),
        Case("script &", 2, signal.SIGKILL, "launcher"),
    ],
    ids=str,
)
def test_a_signal_ends_all_in_good_order(tmp_path, case):
    """In a shell's background SIGINT is ignored; workers must not depend on it."""
    try_training(case, tmp_path)


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
        words = train_words(tmp_path / name / "data", tmp_path / name / "out", max_iter=3)
        done = subprocess.run(
            [sys.executable, *start, "--num-processes", "2", *words],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        log = (tmp_path / name / "out" / "log.txt").read_text()
        assert "World size: 2" in log
        path = tmp_path / name / "out/model_final.pth"
        states.append(torch.load(path, weights_only=True)["model"])
    ours, theirs = states
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
