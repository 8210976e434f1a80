"""The Unified system on two real COCO images, one with a crowd: train, evaluate, predict.

A few iterations at a small size show that everything from the official files to the official files
works and that the losses fall. Learning the images by heart takes minutes: see
docs/results/unified.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image
from programs import ROOT, metrics, run

CONFIG = ROOT / "configs/unified/coco/two_images.yaml"
ITERATIONS = 24


@pytest.fixture(scope="module")
def trained(shared_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two_images")
    sizes = ("INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MIN_SIZE_TEST", 128)
    options = ("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.WARMUP_ITERS", 2, "OUTPUT_DIR", out)
    run("train_net.py", "--config-file", CONFIG, *sizes, *options, datasets=shared_coco)
    return out


def test_losses_fall_and_results_are_written(trained: Path):
    lines = metrics(trained)
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses[-1] < losses[0]
    final = lines[-1]
    for key in ("panoptic_seg/PQ", "panoptic_seg_heuristic/PQ", "panoptic_seg_residual_off/PQ"):
        assert 0 <= final[key] <= 100
    assert math.isfinite(final["sem_seg/mIoU"])
    inference = trained / "inference" / "coco_2017_val_panoptic"
    predictions = json.loads((inference / "predictions.json").read_text())
    assert {a["image_id"] for a in predictions["annotations"]} == {142238, 439180}


def test_demo_works_from_the_checkpoint_alone(trained: Path, shared_coco: Path, tmp_path: Path):
    image = shared_coco / "coco/val2017/000000439180.jpg"
    checkpoint = trained / "model_final.pth"
    run(
        *("demo.py", "--checkpoint", checkpoint, "--output", tmp_path, "--affinity", "320,200"),
        image,
        datasets=tmp_path,  # nothing of the data set is there
    )
    written = sorted(tmp_path.glob("*.png"))
    assert len(written) >= 2
    for path in written:
        with Image.open(path) as drawn:
            assert min(drawn.size) >= 200
