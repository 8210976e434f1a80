"""Both systems on eight real microscope images: three iterations, evaluation, calibration, figures.

The images stay where they are; nothing of them is copied or committed. What longer trainings reach
stands in docs/results/nuclei.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from programs import ROOT, metrics, run

SYSTEMS = {
    "unified": ("unified/nuclei/D2.yaml",),
    "cops": ("cops/nuclei/calibrated.yaml", "MODEL.COPS.CALIBRATION.IMAGES", 2),
}


@pytest.fixture(scope="module")
def eight(shared_nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two registered sets over the eight smallest images of val: six to train, two to test."""
    folder = tmp_path_factory.mktemp("eight")
    data = json.loads((shared_nuclei / "panoptic_val.json").read_text())
    small = sorted(data["images"], key=lambda i: (i["height"] * i["width"], i["id"]))[:8]
    words = []
    for name, images in (("eight_train", small[:6]), ("eight_val", small[6:])):
        ids = {image["id"] for image in images}
        annotations = [a for a in data["annotations"] if a["image_id"] in ids]
        path = folder / f"{name}.json"
        path.write_text(json.dumps({**data, "images": images, "annotations": annotations}))
        words += ["--register", name, shared_nuclei / "val", path, shared_nuclei / "panoptic_val"]
    return words


@pytest.fixture(scope="module", params=SYSTEMS)
def trained(request, eight: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations from random weights with the configs as they are shipped."""
    out = tmp_path_factory.mktemp(request.param)
    config, *options = SYSTEMS[request.param]
    run(
        *("train_net.py", "--config-file", ROOT / "configs" / config, *eight, *options),
        *("DATASETS.TRAIN", "('eight_train',)", "DATASETS.TEST", "('eight_val',)"),
        *("SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 1, "OUTPUT_DIR", out),
        datasets=out,
    )
    return out


def test_three_iterations_train_evaluate_and_give_figures(
    trained: Path, eight: list[str], tmp_path: Path
) -> None:
    lines = metrics(trained)
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses and all(math.isfinite(loss) for loss in losses)
    assert 0 <= lines[-1]["panoptic_seg/PQ"] <= 100
    predictions = next((trained / "inference").rglob("predictions.json"))
    printed = run(
        *("studies/nuclei_figures.py", "--truth", eight[8], "--truth-png", eight[9]),
        *("--images", eight[7], "--predictions", predictions, "--sheets", tmp_path / "sheets"),
        datasets=tmp_path,
    )
    assert "fluorescence" in printed
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {
        "best.png",
        "median.png",
        "worst.png",
    }


# Unified has no edge costs.
@pytest.mark.parametrize("trained", ["cops"], indirect=True, scope="module")
def test_calibration_at_the_end_and_later_gives_a_checkpoint_that_the_demo_takes(
    trained: Path, eight: list[str], shared_nuclei: Path, tmp_path: Path
) -> None:
    log = (trained / "log.txt").read_text()
    assert "Calibrating edge costs on 2 images of eight_train." in log and "<- taken" in log
    calibrated = tmp_path / "calibrated.pth"
    printed = run(
        *("calibrate_cops.py", trained / "model_final.pth", "--out", calibrated, *eight),
        *("--images", 2),
        datasets=tmp_path,
    )
    assert "PQ" in printed and "<- taken" in printed
    image = next((shared_nuclei / "val").glob("*.png"))
    run(
        *("demo.py", "--checkpoint", calibrated, "--output", tmp_path / "drawn", image),
        datasets=tmp_path,
    )
    assert list((tmp_path / "drawn").glob("*.png"))
