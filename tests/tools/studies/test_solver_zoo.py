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


def test_costs_from_files_are_a_shape_of_their_own(tmp_path, capsys):
    file = tmp_path / "costs.npz"
    problem = solver_zoo.make_problem(solver_zoo.Instance("grid", "smooth", 2))
    np.savez(file, **problem._asdict())
    assert solver_zoo.main(["--number", "0", "--solvers", "auto", "--load", str(file)]) == 0
    assert "| loaded" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        solver_zoo.main(["--number", "0"])
