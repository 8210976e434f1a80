"""docs/tutorials/own_data.md: its blocks are run as they stand, in order, in an empty folder."""

from __future__ import annotations

import re

import pytest
from documented_pages import blocks_of, run_page
from PIL import Image
from project import ROOT

from panoptic_tools import prepare_dataset

PATH = ROOT / "docs/tutorials/own_data.md"
PAGE, BLOCKS = PATH.read_text(encoding="utf-8"), blocks_of(PATH)


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    """Python in one namespace, then all commands in one shell, as a reader types them."""
    said = run_page(PATH, tmp_path, monkeypatch)

    assert said.count("nothing wrong") == 2
    assert Image.open("output/look/own_train_1.png").size[0] > 1000
    assert "train on       own_train: 7 images, 35 segments" in said
    assert "iterations     4; 1.14 epochs" in said  # 4 x 2 images of 7
    assert "loss_panoptic_quality: " in said  # COPS through its solver, by name
    for run in ("trial", "trial_cops", "trial_cops_calibrated", "trial_cops_full"):
        assert (tmp_path / "output" / run / "model_final.pth").is_file()
    assert "Calibrating edge costs on 7 images of own_train." in said
    assert said.count("panoptic_seg of own_val") == 5  # four trainings and --eval-only
    assert len(list((tmp_path / "output/shown").glob("00*"))) >= 2


def test_every_block_is_run():
    """No language that the test would pass over, and the example that writes files is short."""
    assert {language for language, _ in BLOCKS} == {"python", "yaml", "bash"}
    writer = next(text for _, text in BLOCKS if "json.dumps" in text)
    assert len(writer.splitlines()) <= 25


def test_commands_of_the_tables_are_accepted(tmp_path, monkeypatch):
    """Each `prepare_dataset.py ...` of the page, where the files that it names are there."""
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "FOLDER"):
        (tmp_path / folder).mkdir()
    for file in ("instances.json", "annotations.xml"):
        (tmp_path / file).write_text("")
    commands = re.findall(r"`prepare_dataset\.py ([^`]+)`", PAGE)
    kinds = [prepare_dataset.parse_args(command.split()).kind for command in commands]
    assert kinds == list(prepare_dataset.KINDS)
    (more,) = re.findall(r"add `([^`]+)`", PAGE)
    options = prepare_dataset.parse_args([*commands[0].split(), *more.split()])
    assert prepare_dataset.read_values(options.values) == {"road": 1, "sky": 2}
