"""The zoo of instances: the default solver never ends above greedy contraction on them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from panoptic_tools.studies import solver_zoo


def test_auto_never_ends_above_greedy(tmp_path, capsys):
    """The first instances of each shape and kind of costs; all 5,000 take a minute."""
    table = tmp_path / "zoo.json"
    arguments = ["--number", "250", "--solvers", "multilevel-1", "auto", "--json", str(table)]
    # One cycle of "multilevel" does end above on some, so the program says so.
    assert solver_zoo.main(arguments) == 1
    rows = json.loads(table.read_text())
    above = {
        name: sum(row["above"] for row in rows if row["solver"] == name)
        for name in ("multilevel-1", "auto")
    }
    assert above["auto"] == 0 and above["multilevel-1"] > 20
    assert {row["shape"] for row in rows} == set(solver_zoo.SHAPES)
    assert "power law" in capsys.readouterr().out


def test_real_costs_are_a_row_for_each_folder(tmp_path, capsys):
    for n, name in enumerate(("scenes", "nuclei")):
        (tmp_path / name).mkdir()
        problem = solver_zoo.make_problem(solver_zoo.Instance("grid", "smooth", 2 + n))
        np.savez(tmp_path / name / "image.npz", **problem._asdict())
    folders = [str(tmp_path / name) for name in ("scenes", "nuclei")]
    assert solver_zoo.main(["--number", "0", "--solvers", "auto", "--costs", *folders]) == 0
    table = capsys.readouterr().out
    assert "| real costs: scenes |" in table and "| real costs: nuclei |" in table


def test_real_costs_are_solved_as_multiway_cut_too(tmp_path, capsys):
    folder = tmp_path / "nuclei"
    folder.mkdir()
    problem = solver_zoo.make_problem(solver_zoo.Instance("grid", "smooth", 2))
    np.savez(folder / "image.npz", **problem._asdict())
    amwc, mwc = solver_zoo.instances(0, 0, [folder], mwc=True)
    assert problem.partitionable.any()
    assert solver_zoo.make_problem(amwc).partitionable.any()
    assert not solver_zoo.make_problem(mwc).partitionable.any()
    options = ["--number", "0", "--solvers", "auto", "--costs", str(folder), "--mwc"]
    assert solver_zoo.main(options) == 0
    table = capsys.readouterr().out
    assert "| real costs: nuclei      |" in table and "| real costs: nuclei, MWC |" in table


def test_large_planted_problems_have_recipes(capsys):
    problem = solver_zoo.make_problem(solver_zoo.Instance(solver_zoo.LARGE, "64x128:3", 1))
    assert problem.node_costs.shape == (64 * 128, 19)
    listed = list(solver_zoo.instances(0, 13, []))
    assert listed[0] == (solver_zoo.LARGE, "64x128:1", 0)
    assert listed[12] == (solver_zoo.LARGE, "64x128:1", 1)
    show = ["--solvers", "auto", "--show", solver_zoo.LARGE, "64x128:1", "0"]
    assert solver_zoo.main(show) == 0
    assert capsys.readouterr().out.startswith("auto: ")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--number", "0"],
        ["--large", "-1"],
        ["--show", "star", "64x128:1", "0"],
        ["--costs", "."],
        ["--mwc"],
    ],
)
def test_what_cannot_be_done_is_refused(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        solver_zoo.main(wrong)
