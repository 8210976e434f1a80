"""COPS on two real COCO images, one with a crowd: pre-train, go on through the solver, predict.

A few iterations at a small size show that both stages work from the official files to the official
files. Learning the images by heart takes minutes: see docs/results/cops.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image
from programs import ROOT, metrics, run

CONFIGS = ROOT / "configs/cops/coco"
SIZES = ("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", 96)


@pytest.fixture(scope="module")
def pretrained(shared_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained")
    options = ("SOLVER.MAX_ITER", 24, "SOLVER.WARMUP_ITERS", 2, "OUTPUT_DIR", out)
    config = CONFIGS / "two_images.yaml"
    run("train_net.py", "--config-file", config, *SIZES, *options, datasets=shared_coco)
    return out


@pytest.fixture(scope="module")
def finetuned(
    pretrained: Path, shared_coco: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("finetuned")
    options = ("SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 0, "OUTPUT_DIR", out)
    start = ("MODEL.WEIGHTS", pretrained / "model_final.pth")
    config = CONFIGS / "two_images_full.yaml"
    run("train_net.py", "--config-file", config, *SIZES, *options, *start, datasets=shared_coco)
    return out


def test_pretraining_lowers_its_losses(pretrained: Path):
    losses = [line["total_loss"] for line in metrics(pretrained) if "total_loss" in line]
    assert losses[-1] < losses[0]


def test_training_through_the_solver_evaluates_and_writes(finetuned: Path):
    final = {key: value for line in metrics(finetuned) for key, value in line.items()}
    assert 0 <= final["panoptic_seg/PQ"] <= 100 and math.isfinite(final["sem_seg/mIoU"])
    assert final["solver/seconds_mwc"] > 0 and 0 <= final["quality/surrogate"] <= 1
    inference = finetuned / "inference" / "coco_2017_val_panoptic"
    predictions = json.loads((inference / "predictions.json").read_text())
    assert {a["image_id"] for a in predictions["annotations"]} == {142238, 439180}


def test_demo_draws_the_cut_from_the_checkpoint_alone(
    finetuned: Path, shared_coco: Path, tmp_path: Path
):
    image = shared_coco / "coco/val2017/000000439180.jpg"
    panels = ("--panels", "panoptic,affinities,cut_edges")
    checkpoint = finetuned / "model_final.pth"
    run(
        *("demo.py", "--checkpoint", checkpoint, "--output", tmp_path, *panels, image),
        datasets=tmp_path,  # nothing of the data set is there
    )
    written = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(written) == 3
    for name in written:
        with Image.open(tmp_path / name) as drawn:
            assert min(drawn.size) >= 200
