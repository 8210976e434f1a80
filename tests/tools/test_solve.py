"""The command panoptic-solve: its table, its labels, its sentences."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

from cops.solver.files import StoredProblem, read_problem, write_problem
from cops.solver.planted import planted_problem
from panoptic_tools.solve import main


def table(text):
    return {line[:22].strip(): line[22:] for line in text.splitlines()}


def test_multicut(tmp_path, capsys):
    path, labels = tmp_path / "p.txt", tmp_path / "labels.txt"
    path.write_text("MULTICUT\n0 1 1.5\n0 2 -3.0\n1 2 1.0\n")
    assert main([str(path), "--bound", "--output", str(labels)]) == 0
    found = table(capsys.readouterr().out)
    assert found["energy"] == "-2" and found["clusters"] == "2" and found["nodes"] == "3"
    assert float(found["bound"]) == pytest.approx(-2.0) and found["gap"] == "0.0000 %"
    assert labels.read_text() == "0\n0\n1\n"


def test_classes_and_conversion(tmp_path, capsys):
    problem = planted_problem(0, 8, 8, num_classes=4, distances=(1, 3), noise=3.0, num_things=2)
    path, labels = tmp_path / "p.txt.gz", tmp_path / "labels.txt"
    write_problem(path, StoredProblem(*problem[1:3], 64, problem[0], problem[3]))
    words = [str(path), "--bound", "--budget", "8", "--output", str(labels)]
    assert main([*words, "--convert", str(tmp_path / "p.npz")]) == 0
    first = table(capsys.readouterr().out)
    assert first["classes"] == "4" and float(first["bound"]) <= float(first["energy"])
    assert np.loadtxt(labels, dtype=int).shape == (64, 2)
    assert main([str(tmp_path / "p.npz"), "--method", "greedy"]) == 0
    assert "bound" not in table(capsys.readouterr().out)
    assert np.array_equal(read_problem(tmp_path / "p.npz").partitionable, problem.partitionable)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("MULTICUT\n0 1\n", [], "line 2: a cost is missing"),
        ("MULTICUT\n0 1 inf\n1 0 -inf\n", [], "edges[1] says that nodes 1 and 0 must be apart"),
        ("MULTICUT\n0 1 inf\n", ["--bound"], "--bound has no way with infinite edge costs"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, capsys, text, words, message):
    path = tmp_path / "p.txt"
    path.write_text(text)
    assert main([str(path), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("solve.py: ") and message in error


def test_what_the_solver_says_names_the_file(tmp_path, capsys):
    """And nothing is converted that could not be read."""
    path, other = tmp_path / "p.npz", tmp_path / "o.txt"
    for arrays, message in (
        ({"edges": [[0.0, 1.0]], "edge_costs": [1.0], "num_nodes": 2}, "edges must hold integers"),
        ({"edges": [[0, 1]], "edge_costs": 1.0, "num_nodes": 2}, "edge_costs must have shape"),
    ):
        np.savez(path, **arrays)
        assert main([str(path), "--convert", str(other)]) == 2 and not other.exists()
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"solve.py: {path}: ") and message in said
    text = tmp_path / "p.txt"
    text.write_text("ASYMMETRIC MULTIWAY CUT\nMULTICUT\n0 1 1\nNODE COSTS\n0 1\ninf inf\n")
    assert main([str(text), "--convert", str(other)]) == 2 and not other.exists()
    assert f"{text}: node_costs[1] is +inf" in capsys.readouterr().err


def test_the_gap_of_an_optimum_whose_bound_is_zero(tmp_path, capsys):
    path = tmp_path / "p.txt"
    path.write_text("MULTICUT\n0 1 .1\n1 2 .2\n")
    assert main([str(path), "--bound"]) == 0
    found = table(capsys.readouterr().out)
    assert found["energy"] == "0" and found["gap"] == "0.0000 %"


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="no such devices here")
def test_standard_input_is_refused_by_name(capsys):
    for name in ("-", "/dev/null"):
        with pytest.raises(SystemExit):
            main([name])
        assert "are not read: give a regular file" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="no folder that refuses files here")
def test_a_file_that_cannot_be_written_is_called_by_its_own_name(tmp_path, capsys):
    path = tmp_path / "p.txt"
    path.write_text("MULTICUT\n0 1 1.5\n")
    for option in ("--output", "--convert"):
        with contextlib.suppress(SystemExit):  # where permissions tell
            assert main([str(path), option, "/proc/labels"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "/proc/labels" in said and ".tmp" not in said and str(os.getpid()) not in said


def test_wrong_options_are_refused_before_the_work(tmp_path, capsys):
    path = tmp_path / "p.txt"
    path.write_text("MULTICUT\n0 1 1.5\n")
    for words, message in (
        ([path, "--threads", "0"], "--threads must be at least 1"),
        ([tmp_path / "none.txt"], "there is no file"),
        ([tmp_path], "is a folder"),
        ([path, "--output", tmp_path / "no" / "labels.txt"], "its folder does not exist"),
        ([path, "--convert", tmp_path], "is a folder"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        said = capsys.readouterr().err
        assert caught.value.code == 2 and message in said and said.count("\n") == 1, said
