"""Following a training to its end, and making room for it; with a program that plays train_net."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from panoptic_common.engine import training_progress
from panoptic_common.engine.training_progress import follow, make_room
from panoptic_common.engine.training_run import TrainingFailed, TrainingRun

# Writes a line of metrics per iteration, then its model, then, a moment later, its results.
PROGRAM = """
    import json, sys, time
    from pathlib import Path
    words = dict(zip(sys.argv[-1::-2], sys.argv[-2::-2]))
    options = {key: value for value, key in words.items()}
    folder = Path(options["OUTPUT_DIR"])
    if options.get("SEED") == "13":
        raise SystemExit("out of luck")
    with open(folder / "metrics.json", "a") as file:
        for iteration in range(int(options["SOLVER.MAX_ITER"])):
            line = {"iteration": iteration, "total_loss": 3.0}
            print(json.dumps(line), file=file, flush=True)
            time.sleep(0.1)
        (folder / "model_final.pth").touch()
        time.sleep(0.4)
        print(json.dumps({"iteration": iteration, "panoptic_seg/PQ": 50.0}), file=file)
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "plays_train_net.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def make_run(program: Path, max_iter: int = 5, seed: int = 0) -> TrainingRun:
    return TrainingRun(program, "any.yaml", program.parent / "run", max_iter, {"SEED": seed})


def test_it_says_when_the_evaluation_begins_and_times_both(program, monkeypatch, capsys):
    monkeypatch.setattr(training_progress, "PERIOD", 0.0)
    run, said = make_run(program), []
    trained, evaluated = follow(run, lambda: said.append(run.finished()), poll=0.05)
    assert said == [None]  # once, and before the results were there
    assert run.finished()["results"] == {"panoptic_seg/PQ": 50.0}
    assert trained >= 0.5 and evaluated >= 0.2
    shown = capsys.readouterr().err
    assert "5/5" in shown and "loss=3.00" in shown


def test_what_is_over_soon_shows_no_bar(program, capsys):
    follow(make_run(program, max_iter=1), lambda: None, poll=0.05)
    assert capsys.readouterr().err == ""


def test_a_failure_is_raised_with_its_log(program):
    with pytest.raises(TrainingFailed, match="out of luck"):
        follow(make_run(program, seed=13), lambda: None, poll=0.05)


def test_room_is_made_for_other_settings_only(program):
    folder = program.parent / "run"
    assert make_room(make_run(program)) == ""  # nothing is there
    follow(make_run(program, max_iter=1), lambda: None, poll=0.05)
    assert make_room(make_run(program, max_iter=1)) == "" and folder.is_dir()
    said = make_room(make_run(program, max_iter=2))
    assert said.startswith("Its settings differ") and said.endswith("run.1")
    assert not folder.exists() and (folder.parent / "run.1/model_final.pth").is_file()
    folder.mkdir()
    assert make_room(make_run(program), restart=True).startswith("Restart")
    assert (folder.parent / "run.2").is_dir()
