"""tools/studies/matrix.py on a project of three tests, with this interpreter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_tools.studies import matrix

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

SETUP = f"""
import os, pathlib
place = pathlib.Path(__file__).parent.parent / ".venv" / "bin"
place.mkdir(parents=True, exist_ok=True)
(place.parent / "lib/python3/site-packages").mkdir(parents=True, exist_ok=True)
print("set-up with", os.environ["PYTHONPATH"] or "no path")
program = place / "python"
if not program.exists():
    program.write_text('#!/bin/sh\\nexec {sys.executable} "$@"\\n')
    program.chmod(0o755)
print("pins:", open(os.environ["PIP_CONSTRAINT"]).read())
"""
TESTS = """
import os, pytest
def test_one(): pass
def test_two(): assert os.environ["OMP_NUM_THREADS"] == "1"
def test_three(): pytest.skip("so")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    for name, text in (("tools/setup_environment.py", SETUP), ("tests/test_it.py", TESTS)):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    _commit(root, "init", "-q")
    monkeypatch.setattr(matrix, "ROOT", root)
    monkeypatch.setattr(
        matrix,
        "environments",
        lambda _: [matrix.Environment("this", sys.executable, ("numpy>=1",))],
    )
    return root


def _commit(root: Path, *first: str) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    if first:
        subprocess.run([*git, *first], cwd=root, check=True)
    subprocess.run([*git, "add", "-A"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], cwd=root, check=True)


@needs_git
def test_it_clones_sets_up_tests_and_counts_and_sees_a_new_commit(
    project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert matrix.main(["--output", str(out), "--jobs", "1"]) == 0
    (row,) = json.loads((out / "table.json").read_text())
    assert row["counts"] == {"passed": 2, "skipped": 1}
    assert row["versions"]["Python"] == sys.version.split()[0]
    assert "pins: numpy>=1" in (out / "this" / "log.txt").read_text()
    # A failing test in a later commit: the kept clone must follow, and the status must say so.
    (project / "tests" / "test_more.py").write_text("def test_four(): assert 1 == 2\n")
    _commit(project)
    assert matrix.main(["--output", str(out), "--jobs", "1"]) == 1
    (row,) = json.loads((out / "table.json").read_text())
    assert row["counts"] == {"failed": 1, "passed": 2, "skipped": 1}


@needs_git
def test_a_checkout_of_detectron2_belongs_to_the_environment(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that tests start with another PYTHONPATH must find it, too."""
    row = matrix.Environment("this", sys.executable, detectron2="/checkout")
    monkeypatch.setattr(matrix, "environments", lambda _: [row])
    test = "import os\ndef test_path(): assert not os.environ['PYTHONPATH']\n"
    (project / "tests" / "test_path.py").write_text(test)
    _commit(project)
    assert matrix.main(["--output", str(tmp_path / "out"), "--jobs", "1"]) == 0
    # The package alone is there to be found, not the checkout's own folder of tests.
    place = tmp_path / "out/this/path"
    assert (place / "detectron2").readlink() == Path("/checkout/detectron2")
    assert f"set-up with {place}" in (tmp_path / "out/this/log.txt").read_text()
    packages = tmp_path / "out/this/project/.venv/lib/python3/site-packages"
    assert (packages / "detectron2_checkout.pth").read_text() == f"{place}\n"


@needs_git
def test_a_set_up_that_fails_and_a_missing_interpreter_are_rows_with_a_reason(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (project / "tools" / "setup_environment.py").write_text("raise SystemExit(3)")
    _commit(project)
    rows = [*matrix.environments(None), matrix.Environment("none", "python0.1")]
    monkeypatch.setattr(matrix, "environments", lambda _: rows)
    assert matrix.main(["--output", str(tmp_path / "out")]) == 1
    table = capsys.readouterr().out
    assert "set-up failed, see" in table and "there is no python0.1 on the path" in table


@pytest.mark.parametrize(
    ("line", "counts", "seconds"),
    [
        ("3 passed in 4.50s", {"passed": 3}, 4.5),
        ("= 1 failed, 20 passed, 2 skipped in 65.20s (0:01:05) =", None, 65.2),
        ("no tests ran in 0.01s", {}, 0.0),
        ("Killed", {}, 0.0),
    ],
)
def test_the_last_line_of_pytest(line: str, counts: dict | None, seconds: float) -> None:
    expected = {"failed": 1, "passed": 20, "skipped": 2} if counts is None else counts
    assert matrix.read_summary(f"collected 5 items\n..F\n{line}\n") == (expected, seconds)


def test_an_unknown_row_or_a_folder_without_detectron2_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, sentence in (
        (["--only", "2.7"], "none of 3.10-oldest, 3.11-newest"),
        (["--detectron2", str(tmp_path)], "there is no detectron2/__init__.py in it"),
    ):
        with pytest.raises(SystemExit) as raised:
            matrix.main([*words, "--output", str(tmp_path / "out")])
        assert raised.value.code == 2
        assert sentence in capsys.readouterr().err
