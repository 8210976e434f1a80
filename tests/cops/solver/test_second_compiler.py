"""The second process of a cold first solve: when it is started, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from project import ROOT

from cops.solver import second_compiler
from cops.solver.planted import planted_problem

PROBLEM = planted_problem(0, 10, 10, 4, noise=3.0)

FIRST_SOLVE = """
import json, sys
from numba.core import event
from cops.solver import second_compiler, solve_amwc
from cops.solver.planted import planted_problem
second_compiler.count_processors = lambda: 1
if sys.argv[1] == "helped":
    second_compiler._start("float32", "int32", "float32").wait()
compiled = []
class Listener(event.Listener):
    def on_start(self, event):
        compiled.append(event.data["dispatcher"].py_func.__name__)
    def on_end(self, event):
        pass
event.register("numba:compile", Listener())
classes, clusters, *_ = solve_amwc(*planted_problem(0, 10, 10, 19, noise=3.0))
print(json.dumps([compiled, classes.tolist(), clusters.tolist()]))
"""


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """Command lines of processes, of which none is started."""
    commands: list[list[str]] = []

    class Process:
        def __init__(self, command, **_):
            commands.append(command)

        def kill(self):
            pass

        wait = kill

    monkeypatch.setattr(second_compiler.subprocess, "Popen", Process)
    second_compiler._start.cache_clear()
    yield commands
    second_compiler._start.cache_clear()


def test_one_is_started_per_combination_of_types(started, monkeypatch):
    monkeypatch.setattr(second_compiler, "count_processors", lambda: 2)
    for problem in (PROBLEM, PROBLEM, PROBLEM._replace(edge_costs=np.zeros(1, np.float64))):
        second_compiler.start_second_compiler(problem)
    assert [command[-3:] for command in started] == [
        ["float32", "int32", "float32"],
        ["float32", "int32", "float64"],
    ]
    assert all(command[-4] == str(os.getpid()) for command in started)


def test_none_is_started_without_a_second_processor(started, monkeypatch):
    monkeypatch.setattr(second_compiler, "count_processors", lambda: 1)
    second_compiler.start_second_compiler(PROBLEM)
    monkeypatch.setattr(second_compiler, "count_processors", lambda: 2)
    monkeypatch.setattr(sys, "executable", "")  # of an interpreter within another program
    second_compiler.start_second_compiler(PROBLEM)
    assert started == []


def test_a_process_that_cannot_be_started_is_no_error(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no processes here")

    monkeypatch.setattr(second_compiler, "count_processors", lambda: 2)
    monkeypatch.setattr(second_compiler.subprocess, "Popen", refuse)
    second_compiler._start.cache_clear()
    second_compiler.start_second_compiler(PROBLEM)
    second_compiler._start.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_the_first_solve_finds_what_the_second_process_has_compiled(tmp_path):
    """It waits for it here, so that nothing is compiled twice."""
    alone, helped = (_first_solve(tmp_path / how, how) for how in ("alone", "helped"))
    assert helped[1:] == alone[1:]
    last = {"_contract_all", "_force_in_order", "_depart_in_order"}
    assert last <= set(alone[0])
    assert not last & set(helped[0])
    assert {"move_freely", "_move_from"} <= set(helped[0])


def _first_solve(folder: Path, how: str) -> list:
    command = [sys.executable, "-c", FIRST_SOLVE, how]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def test_it_runs_in_the_folder_of_the_package(tmp_path, monkeypatch):
    """There it finds the package, and no module of the folder that the user is in."""
    told = []

    def run(command, cwd, env, **_):
        told.append((cwd, env["NUMBA_CACHE_DIR"]))
        raise OSError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "kernels")
    monkeypatch.setattr(second_compiler.subprocess, "Popen", run)
    second_compiler._start.cache_clear()
    assert second_compiler._start("float32", "int32", "float32") is None
    second_compiler._start.cache_clear()
    assert told == [(ROOT, str(tmp_path / "kernels"))]


def test_it_ends_when_the_first_process_is_gone(monkeypatch):
    """It looks before each part that takes long; `getppid` changes when the parent has died."""
    done = []
    monkeypatch.setattr("cops.solver.greedy.algorithm.contract_greedily", done.append)
    monkeypatch.setattr("cops.solver.multilevel.force.force_moves", done.append)
    second_compiler.main([str(os.getppid() + 1), "float32", "int32", "float32"])
    assert len(done) == 1  # greedy contraction; nothing after it


def test_it_does_not_outlive_the_first_process():
    """The first may be done before it: of a problem that needs few kernels."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    begin = time.monotonic()
    second_compiler._end(process)
    assert process.returncode is not None
    assert time.monotonic() - begin < 60
