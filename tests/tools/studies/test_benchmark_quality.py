"""Whole programs that compute PQ, run in turn: table, files, and what ends with status 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_tools.studies import benchmark_quality
from panoptic_tools.studies.library import quality_programs

SMALL = ["--sizes", "40x50", "--images", "1", "--repeats", "1", "--segments", "5"]


def test_programs_are_run_on_the_same_files(capsys):
    options = [*SMALL, "--whole", "3", "--workers", "1", "--only", "panopticapi", "ours"]
    assert benchmark_quality.main(options) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("Whole programs") :]
    assert "3 images, 1 workers" in table
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["", "panopticapi", "ours"]


def test_programs_that_disagree_end_with_status_1(monkeypatch, capsys):
    qualities = iter([0.5, 0.25, 0.5 + 1e-7])
    monkeypatch.setattr(quality_programs, "measure", lambda *_: (1.0, next(qualities)))
    options = [*SMALL, "--whole", "2", "--workers", "1", "--repeats", "1"]
    assert benchmark_quality.main(options) == 1
    assert "the numbers differ" in capsys.readouterr().err
    # The third one is with boundary PQ, which is another number.
    qualities = iter([0.5, 0.5, 0.1])
    assert benchmark_quality.main(options) == 0


def test_a_large_set_has_copies_of_the_drawn_files(tmp_path):
    options = benchmark_quality.parse_arguments(["--segments", "5"])
    images = benchmark_quality.draw_images("20x30", 2, options)
    quality_programs.write_data_set(tmp_path / "set", images, 5, benchmark_quality.NUM_CLASSES)
    truth = json.loads((tmp_path / "set" / "truth.json").read_text())
    assert len(truth["annotations"]) == len(list((tmp_path / "set" / "predictions").iterdir())) == 5
    for i, annotation in enumerate(truth["annotations"]):
        ids = read_id_map(tmp_path / "set" / "truth" / annotation["file_name"])
        assert (ids == images[i % 2][0]).all()
        assert annotation["segments_info"] == images[i % 2][1]


def test_a_program_that_fails_is_named(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('out of paper')"]
    program = quality_programs.Program("printer", lambda folder, workers: command)
    with pytest.raises(RuntimeError, match="printer failed: out of paper"):
        quality_programs.measure(program, Path(tmp_path), 1)


def test_no_such_program():
    with pytest.raises(SystemExit, match="none of nobody"):
        benchmark_quality.main([*SMALL, "--whole", "2", "--only", "nobody"])
