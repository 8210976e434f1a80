"""tools/quickstart.py: the whole demo in miniature, as `make demo` calls it, and its parts; and
`panoptic_common.demo_sheets`, which draws its images."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from project import ROOT

from panoptic_common.demo_sheets import central_pixel


@pytest.fixture(scope="module")
def run_demo() -> ModuleType:
    specification = importlib.util.spec_from_file_location("run_demo", ROOT / "tools/quickstart.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["run_demo"] = module  # where dataclasses look up their module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory) -> tuple[Path, str]:
    """Output folder and printed text of `run_demo.py --fast` in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, ROOT / "tools/quickstart.py", "--fast", "--rows", "2"]
    command += ["--output", folder / "out", "--scenes", folder]
    # Started from elsewhere, and without the packages being installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_demo_trains_evaluates_and_draws(finished_demo):
    folder, text = finished_demo
    for step in ("Unified", "COPS baseline", "COPS full"):
        for stage in ("training", "evaluation"):
            assert f"{step} {stage} " in text[text.index("Wall time") :]
    lines = text.splitlines()
    # The last table shows all three side by side.
    header = max(
        i for i, line in enumerate(lines) if line.split()[:4] == ["PQ", "SQ", "RQ", "mIoU"]
    )
    assert len(lines[header].split()) == 12
    rows = [line.split() for line in lines[header + 1 : header + 4]]
    assert [row[0] for row in rows] == ["all", "things", "stuff"]
    assert all(len(row) == 13 for row in rows)
    results = json.loads((folder / "out/unified/results.json").read_text())["results"]
    for name in ("residual_off", "heuristic", "stride4", "untrimmed", "duplicates_kept"):
        assert f"panoptic_seg_{name}/PQ_th" in results
    assert not text.count("Traceback")


def test_cops_goes_on_from_its_baseline(finished_demo):
    folder, _ = finished_demo
    log = (folder / "out/cops_full/train_net.txt").read_text()
    assert str(folder / "out/cops_baseline/model_final.pth") in log
    settings = json.loads((folder / "out/cops_full/settings.json").read_text())
    assert settings["opts"]["MODEL.WEIGHTS"].endswith("cops_baseline/model_final.pth")


@pytest.mark.parametrize("system, columns", [("unified", 6), ("cops", 7)])
def test_the_contact_sheets_have_a_row_a_scene(finished_demo, system, columns):
    folder, text = finished_demo
    path = folder / f"out/contact_sheet_{system}.png"
    assert f"Contact sheet: {path}" in text
    with Image.open(path) as image:
        # panels of 384 with gaps of 6; two rows of 256 (scenes are 96 x 64)
        assert image.width == 6 + columns * (384 + 6)
        assert image.height > 2 * 256


def test_a_finished_demo_is_only_drawn_again(finished_demo, run_demo, capsys):
    folder, _ = finished_demo
    (folder / "out/contact_sheet_unified.png").unlink()
    stored = (folder / "out/unified/model_final.pth").stat().st_mtime_ns
    arguments = ["--fast", "--rows", "1", "--output", str(folder / "out"), "--scenes", str(folder)]
    assert run_demo.main([*arguments, "--systems", "unified"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (folder / "out/contact_sheet_unified.png").is_file()
    assert (folder / "out/unified/model_final.pth").stat().st_mtime_ns == stored


def test_changed_settings_move_the_old_training_away(run_demo, tmp_path, capsys):
    def prepare(*words: str):
        options = run_demo.parse_arguments(["--fast", "--output", str(tmp_path), *words])
        return run_demo.prepare_training(options, run_demo.STEPS[0], run_demo.Clock())

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


def test_what_starts_from_retrained_weights_is_trained_again(run_demo, tmp_path, monkeypatch):
    asked = []

    class Finished:
        def finished(self):
            return {"results": {}}

    def prepare(options, step, clock):
        asked.append((step.name, options.restart))
        return Finished()

    monkeypatch.setattr(run_demo, "prepare_training", prepare)
    options = run_demo.parse_arguments(["--output", str(tmp_path)])
    for repeated in (set(), {"cops_baseline"}):
        run_demo.run_step(options, run_demo.STEPS[2], repeated, run_demo.Clock())
    assert asked == [("cops_full", False), ("cops_full", True)]


def test_tables_show_every_number_and_a_dash_for_none(run_demo):
    results = {
        f"panoptic_seg/{name}{suffix}": 10.0 * i + j
        for i, name in enumerate(("PQ", "SQ", "RQ", "mIoU"))
        for j, suffix in enumerate(("", "_th", "_st"))
    }
    more = {f"panoptic_seg_heuristic/PQ{s}": v for s, v in (("", 7.25), ("_th", 8), ("_st", 9))}
    unified, _, full = run_demo.STEPS
    text = run_demo.quality_tables({unified: results | more | {"bbox/AP": 33.3}, full: results})
    rows = [line.split() for line in text.splitlines()]
    assert ["things", *2 * ["1.0", "11.0", "21.0", "31.0"]] in rows
    assert ["heuristic", "merger", "7.2", "8.0", "9.0"] in rows
    assert ["small", "stuff", "kept", "-", "-", "-"] in rows
    assert "box AP 33.3" in text


def test_the_marked_pixel_lies_deep_inside_the_largest_single_thing():
    ids = np.full((40, 60), 1, np.int32)
    ids[5:16, 10:31] = 2  # a thing of 11 x 21
    ids[20:40, 0:60] = 3  # a larger crowd
    ids[6:9, 40:45] = 4
    info = [
        {"id": 1, "isthing": False, "iscrowd": 0, "area": 900},
        {"id": 2, "isthing": True, "iscrowd": 0, "area": 231},
        {"id": 3, "isthing": True, "iscrowd": 1, "area": 1200},
        {"id": 4, "isthing": True, "iscrowd": 0, "area": 15},
    ]
    x, y = central_pixel(ids, info)
    assert y == 10 and 15 <= x <= 25  # the only row that is 5 pixels from both edges
    x, y = central_pixel(ids, [info[0]])
    assert ids[y, x] == 1
    assert central_pixel(ids, []) == (30, 20)


def test_a_failed_training_is_told_with_its_log(run_demo, tmp_path, capsys, monkeypatch):
    program = tmp_path / "train_net.py"
    program.write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr(run_demo, "TRAIN_NET", program)
    arguments = ["--fast", "--output", str(tmp_path / "out"), "--scenes", str(tmp_path)]
    assert run_demo.main(arguments) == 1
    assert "out of luck" in capsys.readouterr().err
