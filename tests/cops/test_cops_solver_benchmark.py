"""tools/benchmark_solver.py runs on planted and on loaded problems, and reports what is true."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from cops.solver import solve_amwc
from cops.solver.planted import planted_problem

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program():
    """The program as a module."""
    spec = importlib.util.spec_from_file_location(
        "benchmark_solver", ROOT / "tools/benchmark_solver.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_planted_problems(program, tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = "--sizes 16x24 --noise 1 6 --variants smooth signs --methods greedy --threads 1 2"
    assert program.main([*arguments.split(), "--repeat", "2", "--json", str(report)]) == 0
    assert "feasible" in capsys.readouterr().out
    rows = json.loads(report.read_text())["rows"]
    assert len(rows) == 2 * 2 * 2
    expected = solve_amwc(*planted_problem(0, *program.SIZES["16x24"], noise=6.0, variant="signs"))
    row = rows[-1]
    assert (row["noise"], row["variant"], row["threads"]) == (6.0, "signs", 2)
    assert row["energy"] == expected.energy and row["feasible"] and row["gain_percent"] == 0.0
    assert row["edges_per_second"] == pytest.approx(row["edges"] / row["seconds"])


def test_costs_from_a_file(program, tmp_path, capsys):
    problem = planted_problem(3, *program.SIZES["16x24"], noise=3.0)
    path = tmp_path / "costs.npz"
    np.savez(path, **problem._asdict())
    report = tmp_path / "report.json"
    assert (
        program.main(
            ["--load", str(path), "--methods", "greedy", "--repeat", "1", "--json", str(report)]
        )
        == 0
    )
    (row,) = json.loads(report.read_text())["rows"]
    assert row["problem"] == "costs" and row["energy"] == solve_amwc(*problem).energy
    np.savez(path, edges=problem.edges)
    with pytest.raises(ValueError, match="no array called edge_costs, node_costs, partitionable"):
        program.main(["--load", str(path), "--methods", "greedy"])


def test_growth_exponent_of_a_known_law(program):
    base = {"method": "greedy", "threads": 1, "variant": "smooth", "noise": 1.0, "classes": 19}
    rows = [base | {"edges": n, "seconds": 1e-6 * n**1.25} for n in (10**3, 10**4, 10**6)]
    rows.append(base | {"edges": 50, "seconds": 9.0, "classes": 133})  # alone: no exponent
    (found,) = program.growth_exponents(rows)
    assert found["exponent"] == pytest.approx(1.25)


def test_peak_memory_sees_an_array(program):
    peak = program.peak_extra_bytes(lambda: np.ones(50_000_000, dtype=np.uint8).sum())
    assert peak is None or 45e6 < peak < 100e6
