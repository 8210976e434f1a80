"""tools/outputs.py: no program overwrites what it reads itself."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import pytest

from panoptic_tools.outputs import require_apart


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: two files, a folder with a file and an image, links to three of them."""
    monkeypatch.chdir(tmp_path)
    for folder in ("in/deep", "out"):
        Path(folder).mkdir(parents=True)
    for file in ("a.json", "b.json", "in/c.txt", "in/deep/d.png"):
        Path(file).touch()
    os.link("a.json", "hard.json")
    Path("soft.json").symlink_to("a.json")
    Path("linked").symlink_to("in")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "read", "sentence"),
    [
        ("a.json", "a.json", "--out a.json: it would replace what --in reads: name another file"),
        ("out/../a.json", "a.json", "it would replace what --in reads"),
        ("{place}/a.json", "a.json", "it would replace what --in reads"),
        ("hard.json", "a.json", "it would replace what --in reads"),
        ("soft.json", "a.json", "it would replace what --in reads"),
        ("a.json", "soft.json", "it would replace what --in reads"),
        ("in", "linked", "it would replace what --in reads: name another folder"),
        ("in/deep/d.png", "in", "it would replace an image of --in: name another file"),
        ("linked/deep/d.png", "in", "it would replace an image of --in"),
        ("in", "in/c.txt", "it holds what --in reads: name another folder"),
        (".", "linked/deep", "it holds what --other reads"),
    ],
)
def test_an_output_that_is_an_input_is_refused(place, output, read, sentence) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        require_apart(
            [("--out", output.format(place=place))], [("--other", "b.json"), ("--in", read)]
        )


@pytest.mark.parametrize(
    ("output", "read"),
    [
        ("b.json", "a.json"),
        ("new.json", "a.json"),
        ("in/new.png", "in"),  # a new file replaces nothing
        ("in/c.txt", "in"),  # no image: figures of an earlier run, say
        ("out", "in"),
        ("a.json", None),
        (None, "a.json"),
        ("a.json", "nowhere"),
    ],
)
def test_other_outputs_are_none_of_its_business(place, output, read) -> None:
    require_apart([("--out", output)], [("--in", read)])


def test_two_outputs_are_two_files(place) -> None:
    with pytest.raises(ValueError, match="--b out/../x: --a would write the same file"):
        require_apart([("--a", "x"), ("--b", "out/../x")], [])
    require_apart([("--a", "x"), ("--a", "x"), ("--b", "y")], [])


# Program and its arguments: what is named by {file} is read, and would be overwritten.
PROGRAMS = {
    "evaluate_panoptic": (
        "--truth {json} --predictions {other} --truth-png {folder} --predictions-png {folder}"
        " --output {json}",
        "--truth {other} --predictions {json} --truth-png {folder} --predictions-png {folder}"
        " --output {json}",
        "--truth {other} --predictions {other} --compare {json} --truth-png {folder}"
        " --predictions-png {folder} --compare-png {folder} --output {json}",
        "--truth {other} --predictions {other} --truth-png {folder} --predictions-png {folder}"
        " --output {image}",
        "--truth {other} --predictions {other} --truth-png {folder} --predictions-png {folder}"
        " --errors {empty} --output {empty}/errors.json",
    ),
    "solve": ("{json} --output {json}", "{json} --convert {json}", "{json} --output n --convert n"),
    "convert_cops_checkpoint": (
        "{weights} {weights} --config-file {yaml}",
        "{weights} {folder}/config.pth --config-file {yaml}",  # config.yaml goes with it
    ),
    "calibrate_cops": ("{weights} --out {weights}",),
    "choose_thresholds": ("{weights} --dataset any --out {weights}",),
    "pack_model": (
        "{packed} --name packed --out {folder} --images {image}",
        "{weights} --name packed --out {folder} --images {image} {packed}",
    ),
    "run_exported": ("{folder} {folder}/panoptic/a.png --output {folder}",),
    "studies.nuclei_figures": (
        "--truth {json} --predictions {other} --images {folder} --output {json}",
        "--truth {other} --predictions {other} --images {folder} --contact-sheet {image}",
    ),
    "studies.benchmark_solver": ("--load {json} --json {json}",),
}


@pytest.mark.parametrize(
    ("program", "words"),
    [(program, words) for program, lines in PROGRAMS.items() for words in lines],
)
def test_programs_refuse_before_the_work(program, words, tmp_path, capsys) -> None:
    names = {
        "json": "a.json",
        "other": "b.json",
        "weights": "weights.pth",
        "packed": "packed.safetensors",
        "yaml": "config.yaml",
        "image": "0.png",
        "own": "panoptic/a.png",
        "listed": "panoptic_train.json",
        "one": "train/x.png",
        "two": "mine/deep/x.png",
    }
    paths = {name: str(tmp_path / file) for name, file in names.items()}
    for name, path in paths.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(name)
    (tmp_path / "empty").mkdir()
    line = words.format(**paths, folder=tmp_path, empty=tmp_path / "empty").split()
    try:
        status = import_module(f"panoptic_tools.{program}").main(line)
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err
    assert status == 2 and said.count("\n") == 1, said
    assert "name another" in said and re.search("would replace|holds what|same file", said), said
    assert {name: Path(path).read_text() for name, path in paths.items()} == {n: n for n in paths}
