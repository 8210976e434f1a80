"""tools/check_dataset.py: what it prints, and its exit status."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_factory import make_coco_panoptic
from programs import run_program

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.segment_ids import write_id_map
from panoptic_tools import check_dataset


@pytest.fixture
def paths(tmp_path: Path) -> PanopticPaths:
    return make_coco_panoptic(tmp_path)


def _png(paths: PanopticPaths, number: int = 0) -> Path:
    return Path(paths.panoptic_png) / f"{100 + number:012d}.png"


def _arguments(paths: PanopticPaths) -> list[str]:
    files = ["--images", paths.images, "--json", paths.panoptic_json, "--png", paths.panoptic_png]
    return ["tools/check_dataset.py", "tiny", *files, "--workers", "1"]


def test_program_prints_the_counts_and_exits_with_0(paths: PanopticPaths) -> None:
    done = run_program(*_arguments(paths))
    assert done.returncode == 0, done.stderr
    assert "tiny: 3 images, nothing wrong" in done.stdout
    car = next(line for line in done.stdout.splitlines() if " car " in line)
    assert car.split()[:6] == ["2", "7", "car", "thing", "6", "0"]


def test_program_lists_problems_caps_them_and_exits_with_1(paths: PanopticPaths) -> None:
    for number in range(3):
        write_id_map(_png(paths, number), np.zeros((48, 64), np.int32))
    done = run_program(*_arguments(paths), "--max-problems", "4")
    assert done.returncode == 1
    assert "tiny: 22 problems in 3 images" in done.stdout
    assert done.stdout.count("no pixel of the PNG") == 4
    assert "... and 18 more" in done.stdout
    assert run_program(*_arguments(paths), "--max-problems", "0").stdout.count("no pixel") == 21


def test_program_explains_a_missing_json_and_wrong_options(paths: PanopticPaths) -> None:
    Path(paths.panoptic_json).unlink()
    done = run_program(*_arguments(paths))
    assert done.returncode == 2
    assert f"there is no file {paths.panoptic_json}" in done.stderr
    done = run_program("tools/check_dataset.py", "coco_2017_val_panoptic")
    assert done.returncode == 2 and "no such annotation file" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_program("tools/check_dataset.py", "tiny", "--png", paths.panoptic_png)
    assert done.returncode == 2 and "belong together" in done.stderr


def test_program_knows_registered_names(shared_coco: Path) -> None:
    command = ["tools/check_dataset.py", "coco_2017_val_panoptic", "--workers", "1"]
    done = run_program(*command, DETECTRON2_DATASETS=str(shared_coco))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 images, nothing wrong" in done.stdout


def test_program_exits_with_2_for_an_unknown_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        check_dataset, "find_paths", lambda options: _raise("unknown data set 'typo'")
    )
    assert check_dataset.main(["typo"]) == 2
    assert "check_dataset.py: unknown data set 'typo'" in capsys.readouterr().err


def _raise(text: str) -> None:
    raise ValueError(text)
