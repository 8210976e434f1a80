"""tools/doctor.py: what it finds, what it says is missing, and which Detectron2 it means."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT
from setup_programs import load_tool, run_without

doctor = load_tool("doctor")
DOCTOR = ROOT / "tools" / "doctor.py"


@pytest.mark.parametrize("missing", ["torch", "detectron2"])
def test_prints_and_fails_where_a_library_is_missing(missing: str) -> None:
    run = run_without((missing,), str(DOCTOR))
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    lines = run.stdout.splitlines()
    assert lines[-1] == "This would not run."
    assert any(line.startswith(missing) and "MISSING" in line for line in lines)
    assert any(line.startswith("problem: ") for line in lines)
    assert any(line.startswith("numpy") and "MISSING" not in line for line in lines)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise OSError('libcudart.so.12: cannot open')", "torch cannot be imported (OSError: lib"),
        ("import no_such_module", "torch cannot be imported (ModuleNotFoundError: No module"),
        ("from torch import nothing", "torch cannot be imported (ImportError"),
        ("__version__ = '9'", "torch cannot tell its devices (AttributeError"),
    ],
)
def test_a_torch_that_is_there_but_broken_is_a_problem_in_the_list(tmp_path, code, said) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(code)
    run = subprocess.run(
        [sys.executable, str(DOCTOR)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    assert run.stdout.splitlines()[-1] == "This would not run."
    assert f"problem: {said}" in run.stdout


def test_is_content_here(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, DOCTOR],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "All is well."
    for part in ("solver", "deformable convolution", "NMS", "ROIAlign", "UnifiedPanoptic", "COPS"):
        works = [line for line in run.stdout.splitlines() if line.startswith(part)]
        assert len(works) == 1 and "works on cpu" in works[0]
    assert "allow_ddp_on_cpu" in run.stdout
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_says_what_to_do_where_the_project_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (problem,) = doctor.show_project()
    assert "not installed" in problem and "`pip install -e .`" in problem


def test_failing_part_is_one_sentence_and_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def broken(device: str) -> None:
        raise RuntimeError("undefined symbol\nand a long tail")

    monkeypatch.setattr(doctor, "TRIALS", {"NMS": broken, "ROIAlign": tried.append})
    monkeypatch.setattr(doctor, "try_solver", broken)
    problems = doctor.try_parts()
    assert [problem.split(" does")[0] for problem in problems] == ["solver", "NMS"]
    assert "undefined symbol" in problems[1] and "tail" not in problems[1]
    assert tried and "NMS                    FAILS on cpu" in capsys.readouterr().out


def test_solver_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of another energy than -1."""
    import cops.solver

    def poor(**problem: object) -> object:
        problem["edge_costs"] = [2.0, 1.0, 2.0]
        return solve(**problem)

    solve = cops.solver.solve_amwc
    monkeypatch.setattr(cops.solver, "solve_amwc", poor)
    with pytest.raises(RuntimeError, match="instead of -1"):
        doctor.try_solver("cpu")


def make_checkout(folder: Path) -> str:
    """A git checkout with a package detectron2 and one commit; returns its id."""
    (folder / "detectron2").mkdir(parents=True)
    (folder / "detectron2" / "__init__.py").write_text("__version__ = '0.6'\n")
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def install(folder: Path, version: str) -> None:
    """An installed Detectron2, with a note of the commit it is from."""
    (folder / "detectron2").mkdir(parents=True)
    dist_info = folder / f"detectron2-{version}.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(f"Name: detectron2\nVersion: {version}\n")
    note = {"url": "x", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}
    (dist_info / "direct_url.json").write_text(json.dumps(note))


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_checkout_that_comes_first_is_not_taken_for_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = make_checkout(tmp_path / "checkout")
    install(tmp_path / "site", "0.5")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "checkout"), str(tmp_path / "site")])
    lines = doctor.origin_of(tmp_path / "checkout" / "detectron2")
    assert lines == [f"a git checkout at commit {commit}"]
    lines = doctor.origin_of(tmp_path / "site" / "detectron2")
    assert lines == ["pip lists it as 0.5", "files of commit 0123abc"]


def test_checkout_without_git_is_still_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])
    assert doctor.origin_of(tmp_path / "detectron2") == ["a git checkout at commit unknown"]
