"""Programs on a disk that is full or read-only: one sentence, a status, and only whole files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import authors_network
import pytest
import torch
from dataset_factory import make_cityscapes, make_coco_panoptic
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from project import ROOT
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


def require_full(done: subprocess.CompletedProcess[str], name: str) -> None:
    """Status 1, and one sentence, the last, that names the file and says why."""
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert name in last and "no space left" in last.lower(), last


def test_a_converted_checkpoint_is_whole_or_absent(tmp_path: Path) -> None:
    """It has some 200 MB; there is room for a tenth."""
    is_thing = tuple(bool(entry["isthing"]) for entry in CITYSCAPES_CATEGORIES)
    theirs = tmp_path / "theirs.pth"
    torch.save({"model": authors_network.random_state(19, 5, is_thing)}, theirs)
    config = str(ROOT / "configs/cops/cityscapes/pretrain.yaml")
    words = ["tools/convert_cops_checkpoint.py", str(theirs), str(tmp_path / "out/ours.pth")]
    done, left = run_on_disk(
        *(tmp_path / "out", "20m", sys.executable, *words, "--config-file", config)
    )
    require_full(done, "ours.pth")
    assert list(left.iterdir()) == []


def test_prepared_cityscapes_are_whole_or_absent(tmp_path: Path) -> None:
    """There is room for the truth that is read, and little more; the older result stays."""
    pytest.importorskip("cityscapesscripts", reason="an extra that is not installed")
    (tmp_path / "first").mkdir()
    tree = make_cityscapes(
        tmp_path / "first", splits=("val",), num_images=40, size=(256, 512), panoptic=False
    )
    older = tree / "gtFine/cityscapes_panoptic_val"
    older.mkdir()
    (older / "older.png").touch()
    size = sum(file.stat().st_size + 4096 for file in tree.rglob("*"))
    words = ["tools/prepare_cityscapes.py", str(tmp_path / "out/cityscapes"), "--splits", "val"]
    done, left = run_on_disk(
        *(tmp_path / "out", str(size), sys.executable, *words), first=str(tmp_path / "first")
    )
    require_full(done, "cityscapes_panoptic_val")
    names = {path.name for path in (left / "cityscapes/gtFine").iterdir()}
    assert names == {"val", "cityscapes_panoptic_val"}
    assert [path.name for path in (left / f"cityscapes/gtFine/{older.name}").iterdir()] == [
        "older.png"
    ]


def test_a_converted_problem_is_whole_or_absent(tmp_path: Path) -> None:
    rows = "".join(f"{i} {i + 1} {0.1 * i!r}\n" for i in range(20000))
    (tmp_path / "p.txt").write_text(f"MULTICUT\n{rows}")
    for name in ("p.npz", "p.txt", "p.txt.gz"):
        words = [
            "tools/solve.py",
            str(tmp_path / "p.txt"),
            "--convert",
            str(tmp_path / "out" / name),
        ]
        done, left = run_on_disk(tmp_path / "out", "40k", sys.executable, *words)
        require_full(done, name)
        assert list(left.iterdir()) == []
