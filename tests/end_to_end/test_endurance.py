"""A few cases of each item of `make endurance`, and the table that it makes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import endurance
import pytest
from detectron2.engine import defaults
from hostile_datasets import MUTATIONS, hostile_datasets, make_coco_panoptic
from project import ROOT
from tiny_system import forget_tiny
from trials import batches, checkpoints, datasets, kills, machine
from trials.outcome import BEGIN, END, Outcome, replace_table, store, table

from panoptic_common.systems import SYSTEMS

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def assert_survived(outcome: Outcome, tried: int) -> None:
    assert outcome.failures == [] and outcome.tried == tried


@linux
def test_a_training_killed_while_it_saves_resumes_to_the_same_bits(tmp_path):
    """The Unified system, one process."""
    assert_survived(kills.run(1, 0, tmp_path), 1)


def test_the_comparison_of_two_runs_sees_one_bit(tmp_path):
    import torch

    state = {"iteration": 1, "seed": 0, "model": {"w": torch.zeros(2)}}
    state |= {"optimizer": {}, "scheduler": {}}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "model_final.pth")
        (tmp_path / name / "metrics.json").touch()
        state["model"]["w"] = torch.tensor([0.0, -0.0])  # equal, but not to the last bit
    kills.compare(tmp_path / "a", tmp_path / "a")
    with pytest.raises(AssertionError, match="model.w"):
        kills.compare(tmp_path / "a", tmp_path / "b")


def test_hostile_data_sets_are_judged_alike(tmp_path):
    """Sets of several rows and of drawn faults; those of one row are tests of their own."""

    def later(seed, count):
        return list(hostile_datasets(seed, len(MUTATIONS) + count))[len(MUTATIONS) :]

    assert_survived(datasets.run(40, 0, tmp_path, later), 40)


def test_the_same_seed_makes_the_same_data_set(tmp_path):
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        title, build = list(hostile_datasets(7, 140))[138]
        paths = build(tmp_path / name)
        made.append((title, Path(paths.panoptic_json).read_bytes()))
    assert made[0] == made[1]


def test_a_loader_that_misreads_an_id_is_noticed(tmp_path, monkeypatch):
    def shifted(record):
        sample = dict(read(record))
        return {**sample, "id_map": sample["id_map"] + 1}

    read = datasets.map_record
    monkeypatch.setattr(datasets, "map_record", shifted)
    sound = [("sound", lambda folder: make_coco_panoptic(folder, num_images=1))]
    outcome = datasets.run(1, 0, tmp_path, lambda seed, count: sound)
    assert "ids differ" in outcome.failures[0]


@pytest.fixture
def lent_process(monkeypatch):
    """What a trial sets in the process that it has for itself is undone for the tests to come."""
    monkeypatch.setattr(defaults, "collect_env_info", defaults.collect_env_info)
    monkeypatch.setitem(SYSTEMS, "TinyPanoptic", "tiny_system")
    yield
    forget_tiny()


@linux
def test_damaged_and_forged_checkpoints(tmp_path, lent_process):
    outcome = checkpoints.run(12, 3, tmp_path)
    assert_survived(outcome, 12 * len(checkpoints.WAYS))


def test_degenerate_batches(tmp_path):
    assert_survived(batches.run(6, 0, tmp_path), 6)


@linux
def test_memory_of_inference(tmp_path):
    assert int(machine.call("endurance_worker.py", "infer", "cops", "50", "0")) < machine.KILOBYTES


# ---- the program --------------------------------------------------------------------------------


def test_rows_become_the_table_of_the_page(tmp_path, capsys):
    """A row replaces an earlier one of its item; items stand in the order of the program."""
    results, page = tmp_path / "out/results.json", tmp_path / "page.md"
    row = {"title": "Hostile data sets", "tried": 4, "survived": 3, "means": "they agree"}
    row |= {"counts": "", "command": "python x", "seconds": 2.4, "failures": ["1: wrong"]}
    store(results, "datasets", {**row, "tried": 1})
    store(results, "datasets", row)
    store(results, "kills", {**row, "title": "Kills", "counts": "4 torn"})
    page.write_text(f"Before\n{BEGIN}\nold\n{END}\nafter\n")
    words = ["table", "--results", str(results), "--into", str(page)]
    assert endurance.main(words) == 0
    lines = page.read_text().splitlines()
    assert lines[0] == "Before" and lines[-1] == "after" and "old" not in lines
    assert "Kills" in lines[4] and "they agree (4 torn)" in lines[4]
    assert "Hostile" in lines[5] and "| 4 " in lines[5] and "`python x`" in lines[5]
    assert page.read_text() == f"Before\n{BEGIN}\n{capsys.readouterr().out}{END}\nafter\n"
    with pytest.raises(ValueError, match="no place"):
        replace_table(results, table(json.loads(results.read_text())))


def test_an_item_that_is_ended_stores_what_it_has_tried(tmp_path, monkeypatch):
    """Its command then names that number: the same seed tries the same cases first."""

    def run(count: int, seed: int, folder: Path) -> Outcome:
        outcome = Outcome()
        outcome.record("one", None)
        outcome.record("two", "lost")
        raise SystemExit(143)

    monkeypatch.setattr(batches, "run", run)
    rows = tmp_path / "rows.json"
    words = ["batches", "--count", "9", "--results", str(rows), "--keep", str(tmp_path)]
    with pytest.raises(SystemExit):
        endurance.main(words)
    row = json.loads(rows.read_text())["batches"]
    assert (row["tried"], row["survived"], row["failures"]) == (2, 1, ["two: lost"])
    assert row["command"].endswith("batches --count 2 --seed 0")


def test_every_command_of_the_page_is_understood():
    text = (ROOT / "docs/reliability.md").read_text()
    commands = re.findall(r"endurance\.py ([a-z][^`|#\n]+)", text)
    named = {endurance.parse_arguments(command.split()).item for command in commands}
    assert named >= {"checkpoints", "table"} and len(named) > len(endurance.ITEMS) / 2
