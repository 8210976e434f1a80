"""The set-up program without a network: what it repeats, makes anew, leaves alone; its lock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
import venv
from pathlib import Path

import pytest
from project import ROOT
from setup_programs import load_tool

commands = load_tool("setup_commands")
setup_torch = load_tool("setup_torch")
setup_environment = load_tool("setup_environment")
SetupError = commands.SetupError


class Steps:
    """Stands in for all slow steps: notes them, and can fail one of them."""

    def __init__(self, environment: Path) -> None:
        self.environment = environment
        self.ran: list[str] = []
        self.failing = ""

    def run(self, command: list, what: str) -> None:
        if what == self.failing:
            raise SetupError(f"{what} failed")
        self.ran.append(what)
        if "venv" in command:
            venv.create(self.environment, with_pip=False, symlinks=True)

    def unpack(self, *_: object) -> None:
        self.ran.append("unpacking")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    return tmp_path / ".venv"


@pytest.fixture
def steps(environment: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    stand_in = Steps(environment)
    monkeypatch.setattr(setup_environment, "run", stand_in.run)
    monkeypatch.setattr(setup_torch, "run", stand_in.run)
    monkeypatch.setattr(setup_environment, "unpack_borrowed", stand_in.unpack)
    monkeypatch.setattr(setup_environment, "importable", lambda *_: True)
    # The stand-in environment has no pip, by which the real program knows a whole one.
    monkeypatch.setattr(
        setup_environment,
        "version_of",
        lambda place: setup_environment.VERSION if (place / "pyvenv.cfg").exists() else None,
    )
    monkeypatch.setattr(sys, "argv", ["setup_environment.py", "--venv", str(environment)])
    return stand_in


def test_repeating_a_finished_set_up_does_nothing(
    steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup_environment.main() == 0
    assert steps.ran[:3] == ["making it", "installing torch", "installing the project"]
    assert "unpacking" in steps.ran and "done" in capsys.readouterr().out
    steps.ran.clear()
    assert setup_environment.main() == 0
    assert steps.ran == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize("key", ["setup", "folder"])
def test_changed_metadata_or_folder_runs_the_steps_again_in_the_same_environment(
    steps: Steps, environment: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    assert setup_environment.main() == 0
    (environment / "mark").write_text("kept")
    steps.ran.clear()
    now = setup_environment.fingerprint()
    monkeypatch.setattr(setup_environment, "fingerprint", lambda: {**now, key: "other"})
    assert setup_environment.main() == 0
    assert "installing torch" in steps.ran and "making it" not in steps.ran
    assert (environment / "mark").exists()


@pytest.mark.parametrize("there", [True, False])
def test_what_detectron2_imports_is_installed_whoever_brought_it(
    environment: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """A checkout on the path brings no libraries; those of yours keep their versions."""
    installed: list[str] = []
    monkeypatch.setattr(setup_environment, "install_torch", lambda *_: None)
    monkeypatch.setattr(setup_environment, "unpack_borrowed", lambda *_: None)
    monkeypatch.setattr(setup_environment, "importable", lambda *_: there)
    monkeypatch.setattr(setup_environment, "run", lambda words, _: installed.extend(words))
    setup_environment.fill(commands.python_of(environment), "http://x", None)
    assert "cloudpickle" in installed
    assert ("iopath" in installed, "iopath>=0.1.7,<0.1.11" in installed) == (there, not there)


def test_other_python_makes_it_anew(steps: Steps, environment: Path) -> None:
    assert setup_environment.main() == 0
    (environment / "mark").write_text("lost")
    stamp = {**setup_environment.fingerprint(), "python": "3.9"}
    setup_environment.write_stamp(environment, stamp)
    assert setup_environment.main() == 0
    assert not (environment / "mark").exists()


def test_lost_detectron2_is_noticed(
    steps: Steps, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert setup_environment.main() == 0 and setup_environment.is_done(environment)
    monkeypatch.setattr(setup_environment, "importable", lambda *_: False)
    assert not setup_environment.is_done(environment)


def test_failed_step_of_the_first_set_up_makes_it_anew(
    steps: Steps, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps.failing = "installing torch"
    assert setup_environment.main() == 1
    assert "set-up: installing torch failed" in capsys.readouterr().err
    assert not setup_environment.is_done(environment)
    (environment / "mark").write_text("lost")
    steps.failing = ""
    assert setup_environment.main() == 0
    assert "was not written to its end: making it anew" in capsys.readouterr().out
    assert not (environment / "mark").exists()


def test_failed_update_keeps_the_finished_environment(
    steps: Steps, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network pip fails before it changes anything; 6 GB must not be lost for that."""
    assert setup_environment.main() == 0
    (environment / "mark").write_text("kept")
    now = setup_environment.fingerprint()
    monkeypatch.setattr(setup_environment, "fingerprint", lambda: {**now, "setup": "other"})
    steps.failing = "installing the project"
    assert setup_environment.main() == 1
    steps.failing = ""
    assert setup_environment.main() == 0
    assert (environment / "mark").exists() and steps.ran.count("making it") == 1


KILLED = """
import os, signal, sys, venv
sys.path.insert(0, {tools!r})
import setup_environment, setup_torch
def run(command, what):
    if what == "making it":
        venv.create({environment!r}, with_pip=False, symlinks=True)
    else:
        open({environment!r} + "/half-written", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
setup_environment.run = setup_torch.run = run
sys.argv = ["setup_environment.py", "--venv", {environment!r}]
setup_environment.main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_in_the_middle_it_makes_the_environment_anew(
    steps: Steps, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed program cleans nothing up, and its lock must not outlive it."""
    code = KILLED.format(tools=str(ROOT / "tools"), environment=str(environment))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (environment / "half-written").exists()
    assert json.loads((environment / setup_environment.STAMP).read_text()) == {}
    assert setup_environment.main() == 0
    assert "was not written to its end: making it anew" in capsys.readouterr().out
    assert not (environment / "half-written").exists()
    assert setup_environment.is_done(environment)


def test_folder_of_someone_else_is_left_alone(
    steps: Steps, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.mkdir()
    (environment / "pyvenv.cfg").write_text("mine")
    assert setup_environment.main() == 1
    assert "is left alone; move it away" in capsys.readouterr().err
    assert steps.ran == [] and (environment / "pyvenv.cfg").read_text() == "mine"


def test_environment_with_a_detectron2_keeps_it(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of whatever version: neither an archive nor a wheel is asked for."""

    def never(*_: object) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(setup_environment, "run", never)
    monkeypatch.setattr(setup_environment, "collect_detectron2", never)
    monkeypatch.setattr(setup_environment, "importable", lambda *_: True)
    venv.create(environment, with_pip=False, symlinks=True)
    setup_environment.unpack_borrowed(commands.python_of(environment), "http://x", environment)
    assert "is used as it is" in capsys.readouterr().out


def test_errors_of_a_command_are_shown_only_if_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    noise = "import sys; print('noise', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    commands.run([sys.executable, "-c", noise, "0"], "trying")
    assert capfd.readouterr().err == ""
    with pytest.raises(SetupError, match="trying failed"):
        commands.run([sys.executable, "-c", noise, "1"], "trying")
    assert "noise" in capfd.readouterr().err


HOLD = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from setup_commands import only_one
with only_one(pathlib.Path(sys.argv[2])):
    print("locked", flush=True)
    time.sleep(1)
"""


def test_second_set_up_waits_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(ROOT / "tools"), str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"
        begin = time.monotonic()
        with commands.only_one(lock):
            assert time.monotonic() - begin > 0.3
    assert "waiting for it" in capsys.readouterr().out
    begin = time.monotonic()
    with commands.only_one(lock):  # the file is still there and means nothing
        assert time.monotonic() - begin < 0.3


def test_lock_works_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, which has msvcrt instead: it refuses a locked file with PermissionError."""
    taken: list[int] = []

    def locking(file: int, mode: int, count: int) -> None:
        if taken:
            raise PermissionError(13, "locked")
        taken.append(file)

    windows = types.ModuleType("msvcrt")
    vars(windows).update(locking=locking, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    with (tmp_path / "lock").open("w") as file:
        assert commands.try_lock(file.fileno())
        assert not commands.try_lock(file.fileno())


def test_it_needs_the_standard_library_only() -> None:
    """-S: no site-packages; -I: neither the user's nor PYTHONPATH."""
    program = str(ROOT / "tools" / "setup_environment.py")
    code = f"import runpy, sys; sys.path.insert(0, {os.path.dirname(program)!r}); "
    code += f"runpy.run_path({program!r})"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ----------------------------------------------------------------------------------- torch


def test_torch_without_cuda_comes_from_the_index_that_is_given(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index that cannot be reached is a sentence that says how to go on."""
    commands_run: list[list[str]] = []

    def run(command: list[str], what: str) -> None:
        commands_run.append(command)
        steps.run(command, what)

    monkeypatch.setattr(setup_torch, "run", run)
    monkeypatch.setattr(setup_torch, "importable", lambda *_: False)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--torch", "cpu", "--cpu-index", "file:///none"])
    steps.failing = "installing torch"
    assert setup_environment.main() == 1
    assert "leave TORCH=cpu out" in capsys.readouterr().err
    steps.failing = ""
    assert setup_environment.main() == 0
    expected = ["install", "--index-url", "file:///none", "torch>=2.4", "torchvision>=0.19"]
    assert commands_run[-1][-5:] == expected


def test_a_torch_with_cuda_is_not_taken_for_one_without(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the environment is complete, when nothing would be done otherwise."""
    assert setup_environment.main() == 0
    steps.ran.clear()
    monkeypatch.setattr(setup_torch, "importable", lambda *_: True)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--torch", "cpu"])
    monkeypatch.setattr(setup_torch, "ask", lambda *_: "12.6")
    assert setup_environment.main() == 1
    assert "a torch with CUDA 12.6 already" in capsys.readouterr().err
    monkeypatch.setattr(setup_torch, "ask", lambda *_: "None")
    assert setup_environment.main() == 0
    assert steps.ran == []
