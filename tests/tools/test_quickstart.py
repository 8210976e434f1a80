"""tools/quickstart.py: the whole demo in miniature, as `make demo` calls it, and its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from project import ROOT

from panoptic_tools import quickstart


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory) -> tuple[Path, str]:
    """Output folder and printed text of `quickstart.py --fast` in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, ROOT / "tools/quickstart.py", "--fast", "--rows", "2"]
    command += ["--output", folder / "out", "--scenes", folder]
    # Started from elsewhere.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_demo_trains_evaluates_and_draws(finished_demo):
    folder, text = finished_demo
    for step in ("Unified", "COPS baseline", "COPS full", "COPS calibrated"):
        for stage in ("training", "evaluation"):
            assert f"{step} {stage} " in text[text.index("Wall time") :]
    lines = text.splitlines()
    # The last table shows all four side by side.
    header = max(
        i for i, line in enumerate(lines) if line.split()[:4] == ["PQ", "SQ", "RQ", "mIoU"]
    )
    assert len(lines[header].split()) == 16
    rows = [line.split() for line in lines[header + 2 : header + 5]]
    assert [row[0] for row in rows] == ["all", "things", "stuff"]
    assert all(len(row) == 17 for row in rows)
    results = json.loads((folder / "out/unified/results.json").read_text())["results"]
    for name in ("residual_off", "heuristic", "stride4", "untrimmed", "duplicates_kept"):
        assert f"panoptic_seg_{name}/PQ_th" in results
    assert not text.count("Traceback")


@pytest.mark.parametrize("step", ["cops_full", "cops_calibrated"])
def test_cops_goes_on_from_its_baseline(finished_demo, step):
    folder, _ = finished_demo
    log = (folder / f"out/{step}/train_net.txt").read_text()
    assert str(folder / "out/cops_baseline/model_final.pth") in log
    assert ("Calibrating edge costs" in log) == (step == "cops_calibrated")
    settings = json.loads((folder / f"out/{step}/settings.json").read_text())
    assert settings["opts"]["MODEL.WEIGHTS"].endswith("cops_baseline/model_final.pth")


@pytest.mark.parametrize("system, columns", [("unified", 6), ("cops", 8)])
def test_the_contact_sheets_have_a_row_a_scene(finished_demo, system, columns):
    folder, text = finished_demo
    path = folder / f"out/contact_sheet_{system}.png"
    assert f"Contact sheet: {path}" in text
    with Image.open(path) as image:
        # panels of 384 with gaps of 6; two rows of 256 (scenes are 96 x 64)
        assert image.width == 6 + columns * (384 + 6)
        assert image.height > 2 * 256


def test_a_finished_demo_is_only_drawn_again(finished_demo, capsys):
    folder, _ = finished_demo
    (folder / "out/contact_sheet_unified.png").unlink()
    stored = (folder / "out/unified/model_final.pth").stat().st_mtime_ns
    arguments = ["--fast", "--rows", "1", "--output", str(folder / "out"), "--scenes", str(folder)]
    assert quickstart.main([*arguments, "--systems", "unified"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (folder / "out/contact_sheet_unified.png").is_file()
    assert (folder / "out/unified/model_final.pth").stat().st_mtime_ns == stored


def test_changed_settings_move_the_old_training_away(tmp_path, capsys):
    def prepare(*words: str):
        options = quickstart.parse_arguments(["--fast", "--output", str(tmp_path), *words])
        return quickstart.prepare_training(options, quickstart.STEPS[0], quickstart.Clock())

    run = prepare()
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/settings.json").write_text(json.dumps(run._settings))
    prepare()
    assert not (tmp_path / "unified.1").exists()  # same settings: goes on
    prepare("--iterations", "9")
    assert (tmp_path / "unified.1/settings.json").is_file()
    assert "settings differ" in capsys.readouterr().out
    (tmp_path / "unified").mkdir()
    prepare("--restart")
    assert (tmp_path / "unified.2").is_dir()


def test_what_starts_from_retrained_weights_is_trained_again(tmp_path, monkeypatch):
    asked = []

    class Finished:
        def finished(self):
            return {"results": {}}

    def prepare(options, step, clock):
        asked.append((step.name, options.restart))
        return Finished()

    monkeypatch.setattr(quickstart, "prepare_training", prepare)
    options = quickstart.parse_arguments(["--output", str(tmp_path)])
    for repeated in (set(), {"cops_baseline"}):
        quickstart.run_step(options, quickstart.STEPS[2], repeated, quickstart.Clock())
    assert asked == [("cops_full", False), ("cops_full", True)]


def test_a_failed_training_is_told_with_its_log(tmp_path, capsys, monkeypatch):
    program = tmp_path / "train_net.py"
    program.write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr(quickstart, "TRAIN_NET", program)
    arguments = ["--fast", "--output", str(tmp_path / "out"), "--scenes", str(tmp_path)]
    assert quickstart.main(arguments) == 1
    assert "out of luck" in capsys.readouterr().err
