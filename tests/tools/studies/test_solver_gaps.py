"""solver_gaps.py: gaps are to a valid bound within the time, of planted problems and of files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cops.solver import solve_amwc
from cops.solver.bounds import find_bound
from cops.solver.planted import planted_problem
from panoptic_tools.studies import solver_gaps as program
from panoptic_tools.studies.library.solver_problems import SIZES


def problem_of(seed: int = 0, size: str = "8x8", noise: float = 3.0):
    *shape, num_things = SIZES[size]
    return planted_problem(seed, *shape, noise, num_things=num_things)


def test_gaps_of_planted_and_of_real_costs(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    np.savez(folder / "one.npz", **problem_of(7)._asdict())
    report = tmp_path / "gaps.json"
    words = "--sizes 8x8 --noise 3 --seeds 0 1 --solves 1e6 --passes 20"
    assert program.main([*words.split(), "--costs", str(folder), "--json", str(report)]) == 0
    table = capsys.readouterr().out
    assert "| 8x8, noise 3 |" in table and "| images " in table
    rows = json.loads(report.read_text())["rows"]
    assert [row["problem"] for row in rows] == ["seed 0", "seed 1", "one"]
    for row, seed in zip(rows, (0, 1, 7), strict=True):
        problem = problem_of(seed)
        best = find_bound(*problem).optimum
        assert best is not None and row["lower"] <= best.energy + 1e-9
        for name, options in program.SOLVERS.items():
            energy = solve_amwc(*problem, **options).energy
            gap = 100.0 * (energy - row["lower"]) / abs(row["lower"])
            assert row["gap_percent"][name] == pytest.approx(gap)


def test_the_bound_is_the_one_known_when_the_time_is_over():
    problem = problem_of(0, "12x12", 6.0)
    labels = solve_amwc(*problem, method="multilevel")[:2]
    nothing, none = program.bound_in_time(problem, 0.0, 20, labels)
    much, passes = program.bound_in_time(problem, 1e6, 20, labels)
    assert none == 0 and 0 < passes <= 20
    assert nothing < much <= solve_amwc(*problem).energy


def test_the_table_has_medians_and_ranges():
    rows = [
        {"row": "a", "passes": n, "gap_percent": dict.fromkeys(program.SOLVERS, gap)}
        for n, gap in ((2, 0.5), (4, 0.25), (3, 1.0))
    ]
    (row,) = program.sum_up(rows)
    assert row["passes"] == "3 (2 to 4)" and row["auto, gap %"] == "0.5 (0.25 to 1)"


@pytest.mark.parametrize("wrong", [["--solves", "0"], ["--sizes"], ["--costs", "."]])
def test_what_cannot_be_done_is_refused(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        program.main(wrong)
