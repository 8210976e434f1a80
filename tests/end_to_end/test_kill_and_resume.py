"""Kill training by SIGKILL at random moments, resume, and compare with the run nobody killed.

The training runs in children of a fork server that has everything imported, so that a kill costs
little. The moments come from a seeded generator; those that matter most, inside the writing of a
checkpoint, are also hit one by one in tests/panoptic_common/checkpoint/test_damage.py. The programs
themselves are killed in test_endurance.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import threading
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from tiny_runs import assert_identical
from tiny_system import TinyTrainer, forget_tiny, register_tiny, register_tiny_again, tiny_config

NUM_ITERATIONS, PERIOD, NUM_KILLS = 60, 3, 5


def run_tiny(root: str, out: str, resume: bool, kill: tuple[int, float] | None) -> None:
    """Body of a child process: one training, from the start or from the last checkpoint.

    Args:
        root: folder of the data set.
        out: folder of the run.
        resume: whether to go on.
        kill: (steps, seconds): SIGKILL that long after the start of that step of this process,
            whatever it is doing then.
    """
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        register_tiny_again(Path(root))
        cfg = tiny_config(
            Path(root),
            *("OUTPUT_DIR", out, "SOLVER.MAX_ITER", NUM_ITERATIONS, "SOLVER.STEPS", "(40,)"),
            *("SOLVER.CHECKPOINT_PERIOD", PERIOD, "SOLVER.CHECKPOINT_KEEP", 2),
            *("DATASETS.TEST", (), "SOLVER.OPTIMIZER", "ADAMW", "SEED", -1 if resume else 11),
        )
        trainer = TinyTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        if kill is not None:
            trainer.register_hooks([KillHook(*kill)])
        trainer.train()


class KillHook(HookBase):
    """Kills the process from another thread some time after a step has started."""

    def __init__(self, steps: int, seconds: float) -> None:
        self.steps = steps
        self.seconds = seconds

    def before_step(self) -> None:
        if self.trainer.iter == self.trainer.start_iter + self.steps:
            arguments = (os.getpid(), signal.SIGKILL)
            threading.Timer(self.seconds, os.kill, arguments).start()


@pytest.fixture(scope="module")
def server():
    """A start method whose children need no imports of their own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["panoptic_common.compat", "panoptic_common.engine.trainer"])
    return context


def exit_code(server, *arguments) -> int:
    process = server.Process(target=run_tiny, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the training hangs"
    return process.exitcode


def last_iteration(out: Path) -> int:
    """Iteration of the checkpoint that a resume would start from; -1 without any."""
    pointer = out / "last_checkpoint"
    if not pointer.is_file():
        return -1
    return torch.load(out / pointer.read_text(), weights_only=True)["iteration"]


def test_killed_at_random_moments(tmp_path, server):
    """The first start names a seed; the resumes have SEED -1 and take the stored one."""
    register_tiny(tmp_path)
    forget_tiny()  # here; the children register it again
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_code(server, str(tmp_path), str(whole), False, None) == 0

    moments = random.Random(2024)
    reached = [-1]
    for _ in range(NUM_KILLS):
        kill = (moments.randint(PERIOD, 2 * PERIOD), moments.uniform(0, 0.03))
        status = exit_code(server, str(tmp_path), str(killed), reached[-1] >= 0, kill)
        assert status == -signal.SIGKILL
        reached.append(last_iteration(killed))
        # Nothing that was saved is ever lost, and no more than the steps since.
        assert reached[-1] >= reached[-2] + kill[0] - PERIOD
    assert reached[-1] < NUM_ITERATIONS - 1

    assert exit_code(server, str(tmp_path), str(killed), True, None) == 0
    a, b = (torch.load(f / "model_final.pth", weights_only=True) for f in (whole, killed))
    assert a["iteration"] == b["iteration"] == NUM_ITERATIONS - 1 and a["seed"] == b["seed"] == 11
    for key in ("model", "optimizer", "scheduler"):
        assert_identical(a[key], b[key], key)
    assert not list(killed.glob(".*.tmp"))
    assert logged_once(whole) == logged_once(killed)


def logged_once(out: Path) -> float:
    """The last learning rate in metrics.json, after checking that no iteration stands there twice.

    Losses are medians over a window of steps, which a resume empties; the rate is not smoothed.
    """
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    steps = [line for line in lines if "total_loss" in line]
    assert len({line["iteration"] for line in steps}) == len(steps)
    return steps[-1]["lr"]
