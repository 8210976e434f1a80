"""tools/arguments.py: what a program says, and its exit status, whatever path is wrong."""

from __future__ import annotations

import argparse
import errno
import os
import signal
from importlib import import_module
from pathlib import Path

import pytest
from dataset_factory import make_coco_panoptic

from panoptic_tools import arguments, outputs

# Program and its arguments; the one after "*" is the path that is wrong.
INPUT_FILES = {
    "evaluate_panoptic": ("--predictions {json} --truth *", "--truth {json} --predictions *"),
    "check_dataset": ("tiny --images {folder} --png {folder} --json *",),
    "convert_cops_checkpoint": ("* {folder}/out.pth --config-file cops/cityscapes/full.yaml",),
    "train_net": ("--config-file *",),
    "prepare_dataset": (
        "coco * --images {folder} --out {folder}/out",
        "cvat * --images {folder} --out {folder}/out",
    ),
    "demo": ("{json} --output {folder}/out --checkpoint *",),
    "studies.benchmark_solver": ("--load *",),
    "studies.compare_backward": ("--config-file *",),
}
INPUT_FOLDERS = {
    "evaluate_panoptic": ("--truth {json} --predictions {json} --truth-png *",),
    "check_dataset": (
        "tiny --json {json} --png {folder} --images *",
        "tiny --images {folder} --json {json} --png *",
    ),
    "prepare_cityscapes": ("*",),
    "prepare_dataset": ("coco {json} --images * --out {folder}/out",),
}
OUTPUT_FILES = {
    "evaluate_panoptic": ("--truth {json} --predictions {json} --output *",),
    "convert_cops_checkpoint": ("{json} --config-file cops/cityscapes/full.yaml *",),
    "make_scenes": ("--contact-sheet *",),
    "studies.benchmark_solver": ("--json *",),
}
OUTPUT_FOLDERS = {
    "browse_dataset": ("coco_2017_val_panoptic --output *",),
    "prepare_dataset": ("coco {json} --images {folder} --out *",),
    "make_scenes": ("--output *",),
    "demo": ("{json} --checkpoint {json} --output *",),
    "quickstart": ("--fast --output *", "--fast --scenes *"),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("arguments")
    made = make_coco_panoptic(root, num_images=1)
    os.mkfifo(root / "pipe")
    (root / "file").write_text("")
    return {"json": made.panoptic_json, "folder": str(root)}


def refusal(program: str, words: str, path: str, paths: dict[str, str], capsys) -> str:
    """Run a program with a wrong path; return its sentence, the status being 2."""
    line = [path if word == "*" else word.format(**paths) for word in words.split()]
    module = import_module(f"panoptic_tools.{program}")
    before = sorted(os.listdir(paths["folder"]))
    try:
        status = module.main(line)
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err
    assert status == 2, (line, status, said)
    assert path in said and "Traceback" not in said and said.count("\n") == 1, (line, said)
    assert sorted(os.listdir(paths["folder"])) == before  # nothing is written
    return said


def _pairs(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(program, words) for program, lines in table.items() for words in lines]


@pytest.mark.parametrize(("program", "words"), _pairs(INPUT_FILES))
def test_files_that_are_missing_or_none_are_refused(program, words, paths, capsys):
    for name in ("nowhere.json", "pipe", "tiny"):
        path = os.path.join(paths["folder"], name)
        refusal(program, words, path, paths, capsys)


@pytest.mark.parametrize(("program", "words"), _pairs(INPUT_FOLDERS))
def test_folders_that_are_missing_or_none_are_refused(program, words, paths, capsys):
    refusal(program, words, os.path.join(paths["folder"], "nowhere"), paths, capsys)
    said = refusal(program, words, os.path.join(paths["folder"], "file"), paths, capsys)
    assert "not a directory" in said


@pytest.mark.parametrize(("program", "words"), _pairs(OUTPUT_FILES))
def test_output_that_cannot_be_written_is_refused_before_the_work(program, words, paths, capsys):
    folder = paths["folder"]
    said = refusal(program, words, os.path.join(folder, "no", "out.pth"), paths, capsys)
    assert "its folder does not exist" in said
    assert "is a folder" in refusal(program, words, folder, paths, capsys)


@pytest.mark.parametrize(("program", "words"), _pairs(OUTPUT_FOLDERS))
def test_output_folders_that_are_files_are_refused(program, words, paths, capsys):
    path = os.path.join(paths["folder"], "file", "below")
    assert "file is a file, no folder" in refusal(program, words, path, paths, capsys)


def test_a_folder_to_write_to_may_have_to_be_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert arguments.output_folder(str(path)) == path and not path.parent.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("a is wrong"), "a is wrong"),
        (KeyError("no key b"), "no key b"),  # str() would put it in quotation marks
        (PermissionError(13, "Permission denied", "c.json"), "c.json: permission denied"),
        (OSError("disk d"), "disk d"),
        ("sentence", "sentence"),
    ],
)
def test_refusals_are_plain_sentences(error, words, capsys):
    assert arguments.refuse("/somewhere/tools/demo.py", error) == 2
    assert capsys.readouterr().err == f"demo.py: {words}\n"
    assert arguments.refuse("demo.py", error, arguments.FAULTY) == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800)]
)
def test_durations(text, seconds):
    assert arguments.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "-1h", "0s", "nanh", "infd", "1 week"])
def test_what_is_no_duration(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no time, such as 90s"):
        arguments.duration(text)


def test_a_signal_ends_a_program_in_a_sentence(capsys):
    """Other ends pass: those of the parser, and an exit status that only looks like one."""

    @arguments.orderly
    def main(words=None):
        if words == ["signal"]:
            os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(2)

    assert main(["signal"]) == 143
    assert capsys.readouterr().err == "test_arguments.py: ended by SIGTERM\n"
    with pytest.raises(SystemExit) as caught:
        main(None)
    assert caught.value.code == 2


def test_output_does_not_replace_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(argparse.ArgumentTypeError, match="pipe or a device"):
        arguments.output_file(str(tmp_path / "pipe"))
    assert arguments.output_file(str(tmp_path / "new")) == tmp_path / "new"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that root cannot write to")
@pytest.mark.parametrize("take", [arguments.output_file, arguments.output_folder])
def test_a_folder_that_takes_no_file_is_found_before_the_work(take) -> None:
    """Permissions do not tell: root may do anything in /proc, and nothing can be done there."""
    with pytest.raises(argparse.ArgumentTypeError, match="^/proc/x: /proc cannot be written to"):
        take("/proc/x")


@pytest.mark.parametrize("take", [arguments.output_file, arguments.output_folder])
def test_a_name_that_is_too_long_is_told(take, tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="file name too long"):
        take(str(tmp_path / ("a" * 300)))
    assert take(str(tmp_path / ("a" * 255))).parent == tmp_path and os.listdir(tmp_path) == []


def test_a_full_disk_is_not_the_command_line_s_fault(tmp_path: Path, monkeypatch) -> None:
    """It has an exit status of its own."""

    def full(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", full)
    assert arguments.output_file(str(tmp_path / "file")) == tmp_path / "file"
