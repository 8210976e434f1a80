"""A training as a process: started, watched, resumed, read; with a program that plays train_net."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from panoptic_common.engine import run_folder, training_run
from panoptic_common.engine.training_run import TrainingFailed, TrainingRun

# Understands train_net.py's command line, counts on from where it was, and "trains" at once.
FAKE = """
import json, pathlib, sys, time
words = sys.argv[1:]
assert words[:1] == ["--config-file"] and words[2] == "--resume", words
opts = dict(zip(words[3::2], words[4::2]))
out = pathlib.Path(opts["OUTPUT_DIR"])
state, metrics = out / "state", out / "metrics.json"
done = int(state.read_text()) if state.exists() else 0
print("starting at", done, flush=True)
for iteration in range(done, int(opts["SOLVER.MAX_ITER"])):
    if opts.get("FAIL_AT") == str(iteration):
        sys.exit("boom at %d" % iteration)
    while opts.get("HANG_AT") == str(iteration) and not (out / "go_on").exists():
        time.sleep(0.05)
    with metrics.open("a") as file:
        file.write(json.dumps({"iteration": iteration, "total_loss": 1.0}) + "\\n")
    state.write_text(str(iteration + 1))
if opts.get("NO_RESULTS") != "1":
    with metrics.open("a") as file:
        file.write('{"iteration": 9, "panoptic_seg/PQ": 42.5, "bbox/AP": NaN}\\n{"torn')
"""


@pytest.fixture
def make_run(tmp_path: Path):
    program = tmp_path / "fake.py"
    program.write_text(textwrap.dedent(FAKE))

    def make(opts: dict | None = None, max_iter: int = 4, **arguments) -> TrainingRun:
        return TrainingRun(
            program, "D2.yaml", tmp_path / "run", max_iter, {"SEED": 0, **(opts or {})}, **arguments
        )

    return make


def wait(run: TrainingRun, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while run.running():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_processor_time_is_that_of_all_calls(make_run, tmp_path):
    """The fake program burns 0.3 s in each call, which a longer wait does not count."""
    program = tmp_path / "fake.py"
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    program.write_text(burn + program.read_text())
    run = make_run({"FAIL_AT": 2})
    run.start()
    with pytest.raises(TrainingFailed):
        wait(run)
    first = run.processor_seconds()
    assert 0.3 <= first < 10
    (tmp_path / "run/settings.json").unlink()
    again = make_run()
    again.start()
    wait(again)
    assert again.finished()["processor_seconds"] == again.processor_seconds() >= first + 0.3


def test_a_run_ends_with_results_and_is_not_repeated(make_run, tmp_path):
    run = make_run()
    assert run.finished() is None and run.progress() == {}
    run.start()
    wait(run)
    finished = make_run().finished()
    assert finished["results"]["panoptic_seg/PQ"] == 42.5
    assert finished["results"]["bbox/AP"] != finished["results"]["bbox/AP"]  # nan survives
    assert run.progress()["iteration"] == 3
    assert finished["settings"]["opts"] == {"SEED": 0, "SOLVER.MAX_ITER": 4}


def test_a_stopped_run_goes_on(make_run, tmp_path):
    run = make_run({"HANG_AT": 2})
    run.start()
    end = time.monotonic() + 20
    while run.progress().get("iteration") != 1:
        assert run.running() and time.monotonic() < end
        time.sleep(0.02)
    run.stop()
    assert not run.running() and run.finished() is None
    (tmp_path / "run/go_on").touch()
    again = make_run({"HANG_AT": 2})
    again.start()
    wait(again)
    assert again.finished() is not None
    assert "starting at 2" in again.log_path.read_text()
    lines = (tmp_path / "run/metrics.json").read_text().splitlines()[:4]
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2, 3]


def test_a_process_that_was_left_behind_keeps_others_away(make_run, tmp_path):
    run = make_run({"HANG_AT": 0})
    run.start()
    try:
        # another program, which knows nothing of the first
        with pytest.raises(ValueError, match="still works"):
            make_run({"HANG_AT": 0}).start()
    finally:
        (tmp_path / "run/go_on").touch()
        wait(run)
    again = make_run({"HANG_AT": 0})
    again.start()
    wait(again)


def test_the_lock_outlives_the_program_that_started_the_training(make_run, tmp_path):
    """The starting program is killed, so nothing of it can clean up; its training goes on alone."""
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import sys, time\n"
        "from panoptic_common.engine.training_run import TrainingRun\n"
        "program, folder = sys.argv[1:]\n"
        "run = TrainingRun(program, 'D2.yaml', folder, 4, {'SEED': 0, 'HANG_AT': 0})\n"
        "run.start()\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    words = [sys.executable, str(starter), str(tmp_path / "fake.py"), str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout.readline() == "started\n"
        started.kill()
    with pytest.raises(ValueError, match="still works"):
        make_run({"HANG_AT": 0}).start()
    (tmp_path / "run/go_on").touch()
    again, end = make_run({"HANG_AT": 0}), time.monotonic() + 20
    while True:  # until the orphan has ended, and its lock with it
        try:
            again.start()
            break
        except ValueError:
            assert time.monotonic() < end
            time.sleep(0.05)
    wait(again)
    assert "starting at 4" in again.log_path.read_text()


def test_a_process_without_the_lock_trains_nothing(make_run, tmp_path, monkeypatch):
    run = make_run({"HANG_AT": 0})
    run.start()
    try:
        monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
        monkeypatch.setattr(sys, "argv", [])
        with pytest.raises(SystemExit, match="still works"):
            training_run.main([str(tmp_path / "run"), str(tmp_path / "fake.py")])
    finally:
        (tmp_path / "run/go_on").touch()
        wait(run)


def test_failures_show_the_end_of_the_log(make_run):
    run = make_run({"FAIL_AT": 1})
    run.start()
    with pytest.raises(TrainingFailed, match=r"status 1(.|\n)*boom at 1"):
        wait(run)
    assert run.finished() is None


def test_a_full_disk_is_told_where_the_log_has_no_room_for_it(make_run, monkeypatch):
    run = make_run({"FAIL_AT": 1})
    run.start()
    monkeypatch.setattr(
        training_run.shutil,
        "disk_usage",
        lambda _: SimpleNamespace(free=training_run.LEAST_SPACE - 1),
    )
    with pytest.raises(TrainingFailed, match=r"^the disk of .* is full"):
        wait(run)


def test_success_without_results_is_a_failure(make_run):
    run = make_run({"NO_RESULTS": 1})
    run.start()
    with pytest.raises(TrainingFailed, match="has no panoptic quality"):
        wait(run)


def test_results_of_other_settings_are_refused(make_run):
    run = make_run(settings={"config": {"MODEL": {"DEPTH": 18}}})
    run.start()
    wait(run)
    for other in (
        make_run(settings={"config": {"MODEL": {"DEPTH": 50}}}),
        make_run(max_iter=5, settings={"config": {"MODEL": {"DEPTH": 18}}}),
        make_run({"SEED": 1}, settings={"config": {"MODEL": {"DEPTH": 18}}}),
    ):
        with pytest.raises(ValueError, match="other settings"):
            other.finished()
        with pytest.raises(ValueError, match="other settings"):
            other.start()
    assert make_run(settings={"config": {"MODEL": {"DEPTH": 18}}}).finished() is not None


def test_the_environment_reaches_the_process(make_run, tmp_path):
    program = tmp_path / "fake.py"
    program.write_text("import os\nprint('value', os.environ['MY_VALUE'])\n" + program.read_text())
    run = make_run(environment={"MY_VALUE": "17"})
    run.start()
    wait(run)
    assert "value 17" in run.log_path.read_text()


def test_a_damaged_file_says_what_to_do(make_run, tmp_path):
    run = make_run()
    run.start()
    wait(run)
    (tmp_path / "run/results.json").write_text('{"res')
    with pytest.raises(ValueError, match="results.json is damaged.*delete it"):
        make_run().finished()
