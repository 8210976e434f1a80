"""Programs on a disk that is full or read-only: one sentence, a status, and only whole files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from dataset_factory import make_coco_panoptic
from small_disk import run_on_disk
from tiny_system import tiny_options

TRAIN = """
import sys
from panoptic_common.systems import SYSTEMS
SYSTEMS["TinyPanoptic"] = "tiny_system"
from panoptic_tools import train_net
sys.exit(train_net.main(sys.argv[1:]))
"""


def train_words(root: Path, **options: str) -> list[str]:
    """A command that trains the tiny system, some 30 kB a checkpoint, and writes to root/out."""
    paths = make_coco_panoptic(root, num_images=4)
    words = [sys.executable, "-c", TRAIN]
    words += ["--register", "tiny", paths.images, paths.panoptic_json, paths.panoptic_png]
    words += tiny_options(root)
    for key, value in options.items():
        words += [key.replace("__", "."), value]
    return [str(word) for word in words]


ENDLESS = {
    "SOLVER__MAX_ITER": "1000",
    "SOLVER__CHECKPOINT_PERIOD": "1",
    "SOLVER__CHECKPOINT_KEEP": "0",
}


def test_a_training_ends_in_a_sentence_with_its_last_checkpoint(tmp_path: Path) -> None:
    """1000 checkpoints do not fit: the newest that is whole is the one that the pointer names."""
    words = train_words(tmp_path, **ENDLESS)
    done, left = run_on_disk(tmp_path / "out", "3m", *words)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "No space left on device" in last and "last whole checkpoint is model_" in last
    assert "may not suffice" in done.stdout  # said before the work
    files = sorted(left.glob("*.pth"))
    assert len(files) > 10 and not list(left.glob(".*.tmp"))
    for path in files:
        torch.load(path, weights_only=True)
    named = (left / "last_checkpoint").read_text()
    assert named in last and (left / named) in files


@pytest.mark.parametrize(
    ("size", "read_only", "message"),
    [("1m", False, "is too full: a checkpoint takes"), ("9m", True, "Read-only file system")],
)
def test_a_training_that_cannot_save_does_not_begin(
    tmp_path: Path, size: str, read_only: bool, message: str
) -> None:
    done, left = run_on_disk(tmp_path / "out", size, *train_words(tmp_path), read_only=read_only)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stdout + done.stderr and not list(left.glob("*.pth"))


def test_scenes_are_not_left_half_made(tmp_path: Path) -> None:
    words = ["tools/make_scenes.py", "--output", str(tmp_path / "out/scenes"), "--number", "30"]
    words += ["--height", "96", "--width", "128"]
    done, left = run_on_disk(tmp_path / "out", "400k", sys.executable, *words)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    assert "no space left" in done.stderr.lower()
    assert [path.name for path in (left / "scenes").iterdir()] == [".train.lock"]
